package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/bench/load"
	"weir/bench/result"
	"weir/bench/server"
)

// compactionOptions are the flags of bench compaction.
type compactionOptions struct {
	mib, keys, valueBytes int
	rate                  float64
	baseline, limit       time.Duration
	seed                  uint64
	throttle              string
	weirBin               string
	places
}

// compactionRun is what is measured, and kept as JSON.
type compactionRun struct {
	Date    time.Time      `json:"date"`
	Commit  string         `json:"commit"`
	Command []string       `json:"command"`
	Machine result.Machine `json:"machine"`

	Records, Keys             int64
	BytesBefore, BytesAfter   int64 // of the topic's log
	Seconds                   float64
	Runs, Dropped             float64
	ReadBytes, WrittenBytes   float64
	MapBytes                  float64
	RSSBefore, RSSPeak        int64
	CPUSeconds                float64
	ProduceRate               float64
	Without, During           result.Latency // microseconds, of produce requests
	ProducedWithout, Produced int64
}

const (
	compactionTopic = "table"
	probeTopic      = "probe"
	compactionPoll  = 100 * time.Millisecond
)

func parseCompaction(args []string) (compactionOptions, error) {
	o := compactionOptions{}
	flags := flag.NewFlagSet("bench compaction", flag.ContinueOnError)
	flags.IntVar(&o.mib, "mib", 1024, "`MiB` of records to compact")
	flags.IntVar(&o.keys, "keys", 1_000_000, "`number` of keys, drawn at random")
	flags.IntVar(&o.valueBytes, "value", 200, "`bytes` of a value")
	flags.Float64Var(&o.rate, "rate", 2000, "`messages` of 1 KiB a second that are produced to another topic meanwhile")
	flags.DurationVar(&o.baseline, "duration", 20*time.Second, "measured `time` without compaction")
	flags.DurationVar(&o.limit, "limit", 10*time.Minute, "`time` after which compaction counts as failed")
	flags.Uint64Var(&o.seed, "seed", 1, "`number` that the keys are drawn from")
	flags.StringVar(&o.throttle, "throttle", "", "log.cleaner.io.max.bytes.per.second; empty: the default")
	flags.StringVar(&o.dir, "dir", "", "`directory` on the disk to measure; empty: the repository's .bench")
	flags.StringVar(&o.out, "out", "", "`directory` for results; empty: bench/results")
	flags.StringVar(&o.weirBin, "weir", "", "weir `binary`; empty: built from the tree")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.mib < 1 || o.keys < 1 || o.valueBytes < 8 || o.rate <= 0 || o.baseline < time.Second {
		return o, fmt.Errorf("-mib, -keys of at least 1, -value of at least 8, a positive -rate, -duration of at least 1s and no further argument wanted")
	}
	return o, o.find()
}

// compactionCommand fills a compacted topic while the cleaner is off, measures produce to another topic, starts the broker again with the
// cleaner on, and measures until there is nothing left to compact.
func compactionCommand(ctx context.Context, args []string) error {
	o, err := parseCompaction(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "weir-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := o.weirBin
	if bin == "" {
		if bin, err = server.Build(o.root, "./cmd/weir", dir); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "seed %d\n", o.seed)
	run := &compactionRun{
		Date: time.Now().UTC(), Commit: result.Commit(o.root), Command: append([]string{"bench", "compaction"}, args...),
		Machine: result.DescribeMachine(o.dir, server.BlockDevice(o.dir)), Keys: int64(o.keys), ProduceRate: o.rate,
	}
	data := filepath.Join(dir, "data")
	if err := o.prepare(ctx, bin, data, run); err != nil {
		return err
	}
	if err := o.compact(ctx, bin, data, run); err != nil {
		return err
	}
	run.report(os.Stdout)
	return run.write(o.out)
}

// prepare writes the topic and measures without compaction.
func (o compactionOptions) prepare(ctx context.Context, bin, data string, run *compactionRun) error {
	srv, err := server.Start(ctx, server.WeirWith(bin, map[string]string{"log.cleaner.enable": "false"}), data)
	if err != nil {
		return err
	}
	defer srv.Stop()
	fmt.Fprintf(os.Stderr, "writing %d MiB\n", o.mib)
	if run.Records, err = o.fill(ctx, srv.Addr); err != nil {
		return err
	}
	if err := load.CreateTopic(ctx, o.probe(srv)); err != nil {
		return err
	}
	run.BytesBefore = logBytes(data)
	fmt.Fprintln(os.Stderr, "measuring produce without compaction")
	measured, err := o.produce(ctx, srv, func(ctx context.Context) error {
		select {
		case <-time.After(o.baseline):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return err
	}
	run.Without, run.ProducedWithout = latency(measured), measured.Messages
	return nil
}

// compact measures the broker while it compacts.
func (o compactionOptions) compact(ctx context.Context, bin, data string, run *compactionRun) error {
	keys := map[string]string{"log.cleaner.backoff.ms": "0"}
	if o.throttle != "" {
		keys["log.cleaner.io.max.bytes.per.second"] = o.throttle
	}
	srv, err := server.Start(ctx, server.WeirWith(bin, keys), data)
	if err != nil {
		return err
	}
	defer srv.Stop()
	began := time.Now()
	before, err := srv.Sample()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "measuring produce while the topic is compacted")
	var after server.Sample
	measured, err := o.produce(ctx, srv, func(ctx context.Context) error {
		after, err = o.awaitCompacted(ctx, srv)
		run.Seconds = time.Since(began).Seconds()
		return err
	})
	if err != nil {
		return err
	}
	m := after.Metrics
	run.During, run.Produced = latency(measured), measured.Messages
	run.RSSBefore, run.RSSPeak, run.CPUSeconds = before.PeakRSS, after.PeakRSS, (after.CPU - before.CPU).Seconds()
	run.Runs, run.Dropped, run.MapBytes = m["weir_replica_cleaner_runs_total"], m["weir_replica_cleaner_records_dropped_total"], m["weir_replica_cleaner_last_run_map_bytes"]
	run.ReadBytes, run.WrittenBytes = m["weir_replica_cleaner_read_bytes_total"], m["weir_replica_cleaner_written_bytes_total"]
	run.BytesAfter = logBytes(data)
	return nil
}

// awaitCompacted waits until a run has ended and none is under way or due.
func (o compactionOptions) awaitCompacted(ctx context.Context, srv *server.Instance) (server.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	tick := time.NewTicker(compactionPoll)
	defer tick.Stop()
	for quiet := 0; ; {
		s, err := srv.Sample()
		if err != nil {
			return s, err
		}
		if s.Metrics["weir_replica_cleaner_errors_total"] > 0 {
			return s, fmt.Errorf("compaction failed; the server's output:\n%s", srv.Output())
		}
		if s.Metrics["weir_replica_cleaner_running"] == 0 && s.Metrics["weir_replica_cleaner_runs_total"] > 0 {
			quiet++
		} else {
			quiet = 0
		}
		if quiet == 3 {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, fmt.Errorf("compaction did not end: %w; the server's output:\n%s", ctx.Err(), srv.Output())
		}
	}
}

// fill writes the records: a random key each, values that do not compress.
func (o compactionOptions) fill(ctx context.Context, addr string) (records int64, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(compactionTopic), kgo.MaxBufferedRecords(100_000),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchMaxBytes(256<<10))
	if err != nil {
		return 0, fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	str := func(s string) *string { return &s }
	configs := map[string]*string{"cleanup.policy": str("compact"), "segment.bytes": str(strconv.Itoa(64 << 20)), "min.cleanable.dirty.ratio": str("0.01")}
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, configs, compactionTopic); err != nil {
		return 0, fmt.Errorf("create topic %s: %w", compactionTopic, err)
	}
	rng := rand.New(rand.NewPCG(o.seed, 1))
	block := make([]byte, 1<<20+o.valueBytes)
	for at := 0; at+8 <= len(block); at += 8 {
		binary.LittleEndian.PutUint64(block[at:], rng.Uint64())
	}
	var failed error // set by the client's one promise goroutine, read after Flush
	for written := 0; written < o.mib<<20 && ctx.Err() == nil; records++ {
		at := rng.IntN(1 << 20)
		r := &kgo.Record{Key: fmt.Appendf(nil, "key-%010d", rng.IntN(o.keys)), Value: block[at : at+o.valueBytes]}
		written += len(r.Key) + len(r.Value) + 8 // what a record takes in a batch
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return records, fmt.Errorf("flush: %w", err)
	}
	if failed != nil {
		return records, fmt.Errorf("produce: %w", failed)
	}
	return records, nil
}

func (o compactionOptions) probe(srv *server.Instance) load.Target {
	return load.Target{Addrs: []string{srv.Addr}, Topic: probeTopic, Partitions: 4}
}

// produce runs a paced load for as long as until takes, and measures it from a second after its start.
func (o compactionOptions) produce(ctx context.Context, srv *server.Instance, until func(context.Context) error) (load.Outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &load.Meter{}
	done := make(chan error, 1)
	go func() {
		done <- load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, Rate: o.rate}.Run(ctx, o.probe(srv), m)
	}()
	begin := time.AfterFunc(time.Second, m.Begin)
	defer begin.Stop()
	err := until(ctx)
	m.End()
	cancel()
	if loadErr := <-done; err == nil {
		err = loadErr
	}
	return m.Outcome(), err
}

func latency(o load.Outcome) result.Latency {
	h := o.Latency
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) }
	return result.Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()), Mean: h.Mean()}
}

// logBytes is the size of the compacted topic's segments.
func logBytes(data string) (n int64) {
	files, _ := filepath.Glob(filepath.Join(data, "topics", compactionTopic+"-0.*", "*.log")) // the pattern is valid
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			n += info.Size()
		}
	}
	return n
}

func (r *compactionRun) report(w io.Writer) {
	mb := func(n float64) float64 { return n / 1e6 }
	fmt.Fprintf(w, "compacted     %.0f MB, %d records of up to %d keys, to %.0f MB in %.1f s (%.0f runs, %.0f records dropped)\n",
		mb(float64(r.BytesBefore)), r.Records, r.Keys, mb(float64(r.BytesAfter)), r.Seconds, r.Runs, r.Dropped)
	fmt.Fprintf(w, "input/output  %.0f MB read, %.0f MB written, %.1f s of CPU\n", mb(r.ReadBytes), mb(r.WrittenBytes), r.CPUSeconds)
	fmt.Fprintf(w, "memory        %.0f MB at the start, %.0f MB at most, of it %.0f MB for keys\n", mb(float64(r.RSSBefore)), mb(float64(r.RSSPeak)), mb(r.MapBytes))
	line := func(name string, n int64, l result.Latency) {
		fmt.Fprintf(w, "%-13s %d messages, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, greatest %.2f ms\n", name, n, l.P50/1000, l.P99/1000, l.P999/1000, l.Max/1000)
	}
	line("produce alone", r.ProducedWithout, r.Without)
	line("while it ran", r.Produced, r.During)
}

func (r *compactionRun) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, r.Date.Format("2006-01-02-150405")+"-compaction.json")
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	fmt.Fprintln(os.Stderr, "results:", file)
	return nil
}
