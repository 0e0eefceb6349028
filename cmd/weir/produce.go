package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lineMax is the longest line that produce reads; the broker's message.max.bytes decides what it takes.
const lineMax = 64 << 20

// produceFlags are the flags of weir produce.
type produceFlags struct {
	cluster
	keySeparator string
	headers      []string
	acks         string
	compression  string
	partition    int32
	quiet        bool
}

func newProduce(io stdio) *cobra.Command {
	var f produceFlags
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Produce the lines of standard input, one record each",
		Example: `  echo hello | weir produce orders
  weir produce orders --key-separator : --compression zstd < records.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return f.run(io, args[0]) },
	}
	f.flags(cmd.Flags())
	cmd.Flags().StringVarP(&f.keySeparator, "key-separator", "K", "", "what precedes its first occurrence in a line is the record's key")
	cmd.Flags().StringArrayVarP(&f.headers, "header", "H", nil, "name=value, on every record; may be repeated")
	cmd.Flags().StringVar(&f.acks, "acks", "all", "who must have the record on disk: all (in-sync replicas), leader, or none (nobody says)")
	cmd.Flags().StringVarP(&f.compression, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	cmd.Flags().Int32VarP(&f.partition, "partition", "p", -1, "produce to this partition; -1: chosen by the key, else in turn")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "do not say how many records were produced")
	return cmd
}

// options translates the flags for the client.
func (f *produceFlags) options() ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.AllowAutoTopicCreation()}
	switch f.acks {
	case "all", "-1":
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case "leader", "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "none", "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, fmt.Errorf("--acks %q: expected all, leader or none", f.acks)
	}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	codec, ok := codecs[f.compression]
	if !ok {
		return nil, fmt.Errorf("--compression %q: expected none, gzip, snappy, lz4 or zstd", f.compression)
	}
	opts = append(opts, kgo.ProducerBatchCompression(codec))
	if f.partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	return opts, nil
}

func (f *produceFlags) recordHeaders() ([]kgo.RecordHeader, error) {
	var headers []kgo.RecordHeader
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return nil, fmt.Errorf("--header %q: expected name=value", h)
		}
		headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return headers, nil
}

func (f *produceFlags) run(io stdio, topic string) error {
	opts, err := f.options()
	if err != nil {
		return err
	}
	headers, err := f.recordHeaders()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	client, err := f.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	n, err := f.produceLines(ctx, client, io.in, kgo.Record{Topic: topic, Partition: f.partition, Headers: headers})
	if err != nil {
		return fmt.Errorf("produce to %s: %w (%d records were acknowledged)", topic, err, n)
	}
	if !f.quiet {
		fmt.Fprintf(io.err, "produced %d records\n", n)
	}
	return nil
}

// produceLines produces every line and returns how many records were acknowledged. It stops at the first failure: with
// one record lost, those behind it would be out of order.
func (f *produceFlags) produceLines(ctx context.Context, client *kgo.Client, in io.Reader, template kgo.Record) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var acked atomic.Int64
	var once sync.Once
	var failed error
	done := func(_ *kgo.Record, err error) {
		if err == nil {
			acked.Add(1)
			return
		}
		once.Do(func() { failed = err; cancel() })
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, lineMax)
	for ctx.Err() == nil && lines.Scan() {
		r := template
		r.Key, r.Value = f.split(lines.Bytes())
		client.Produce(ctx, &r, done) // waits while too much is buffered
	}
	// Flush returns when every promise was kept, so that failed is settled; or when ctx ended.
	err := client.Flush(ctx)
	if err != nil {
		// Give up on the rest and wait for its promises.
		_ = client.AbortBufferedRecords(context.Background())
	}
	once.Do(func() {})
	switch {
	case failed != nil:
		return acked.Load(), failed
	case lines.Err() != nil:
		if errors.Is(lines.Err(), bufio.ErrTooLong) {
			return acked.Load(), fmt.Errorf("a line is longer than %d bytes", lineMax)
		}
		return acked.Load(), fmt.Errorf("read standard input: %w", lines.Err())
	}
	return acked.Load(), err
}

// split takes the key off a line. The bytes are copied: the line's buffer is reused.
func (f *produceFlags) split(line []byte) (key, value []byte) {
	s := string(line)
	if f.keySeparator == "" {
		return nil, []byte(s)
	}
	k, v, ok := strings.Cut(s, f.keySeparator)
	if !ok {
		return nil, []byte(s)
	}
	return []byte(k), []byte(v)
}
