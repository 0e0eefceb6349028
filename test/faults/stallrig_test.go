package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/faultdisk"
	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

// stallMs is log.dir.stall.ms where a stall is the question: the default.
const stallMs = 2000

// exitWait bounds what must happen at all once a disk has stalled for stallMs.
const exitWait = stallMs*time.Millisecond + 10*time.Second

// stallRig is a broker on a faulty disk, with load and somebody who watches.
type stallRig struct {
	t      *testing.T
	disk   *faultdisk.Disk
	broker *weirproc.Broker
	topic  string
	load   *stallLoad
	eyes   *observer
}

func newStallRig(t *testing.T, config map[string]string) *stallRig {
	t.Helper()
	skipOnReference(t)
	disk := faultdisk.New(t, faultdisk.Options{})
	values := map[string]string{
		"log.dir.stall.ms": fmt.Sprint(stallMs), "wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "wal.group.max.bytes": "262144",
		"log.segment.bytes": "4194304", "log.writeback.ms": "500", "offsets.topic.num.partitions": "1", "shutdown.timeout.ms": "20000",
	}
	for k, v := range config {
		values[k] = v
	}
	broker := weirproc.Start(t, weirproc.Options{DataDir: filepath.Join(disk.Path(), "data"), Config: values})
	createTopics(t, newAdmin(t, broker.Addr), loadPartitions, "load")
	r := &stallRig{t: t, disk: disk, broker: broker, topic: "load"}
	t.Cleanup(r.stopAll)
	return r
}

func (r *stallRig) stopAll() {
	if r.load != nil {
		r.load.stop()
	}
	if r.eyes != nil {
		r.eyes.stop()
	}
}

const loadPartitions = 4

// stallLoad are producers, one per partition, that send one record after the other and remember what was answered.
type stallLoad struct {
	addr    string
	topic   string
	ended   chan struct{}
	wg      sync.WaitGroup
	acks    atomic.Int64
	mu      sync.Mutex
	acked   [loadPartitions]map[int64]int // offset to the record's number
	sent    [loadPartitions]int
	slowest time.Duration
	errors  map[string]int // codes and broken connections
	refused time.Time      // the first error
	fastest time.Duration  // of the answers that were errors
	cut     time.Time      // the first broken connection
}

func (r *stallRig) startLoad() *stallLoad {
	l := &stallLoad{addr: r.broker.Addr, topic: r.topic, ended: make(chan struct{}), errors: map[string]int{}}
	for p := range loadPartitions {
		l.acked[p] = map[int64]int{}
		l.wg.Go(func() { l.run(p) })
	}
	r.load = l
	return l
}

func (l *stallLoad) stop() {
	select {
	case <-l.ended:
	default:
		close(l.ended)
	}
	l.wg.Wait()
}

func loadValue(partition, n int) []byte {
	return fmt.Appendf(nil, "record %d of partition %d %s", n, partition, strings.Repeat("x", 1000))
}

func (l *stallLoad) run(partition int) {
	var conn *rawConn
	defer func() { conn.close() }()
	for n := 0; ; n++ {
		select {
		case <-l.ended:
			return
		default:
		}
		if conn == nil {
			var err error
			if conn, err = dialRaw(l.addr); err != nil {
				l.failed("no connection", 0)
				time.Sleep(20 * time.Millisecond)
				n--
				continue
			}
		}
		l.mu.Lock()
		l.sent[partition] = n + 1
		l.mu.Unlock()
		began := time.Now()
		code, base, err := conn.produce(l.topic, int32(partition), wire.Batch(loadValue(partition, n)), 30*time.Second)
		took := time.Since(began)
		switch {
		case err != nil:
			conn.close()
			conn = nil
			l.failed("connection cut", took)
		case code != 0:
			l.failed(kerr.ErrorForCode(code).Error(), took)
			time.Sleep(10 * time.Millisecond)
		default:
			l.acks.Add(1)
			l.mu.Lock()
			l.acked[partition][base] = n
			l.slowest = max(l.slowest, took)
			l.mu.Unlock()
		}
	}
}

func (l *stallLoad) failed(what string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what, _, _ = strings.Cut(what, ":")
	l.errors[what]++
	if l.refused.IsZero() {
		l.refused = time.Now()
	}
	switch {
	case what == "connection cut" && l.cut.IsZero():
		l.cut = time.Now()
	case what == "KAFKA_STORAGE_ERROR" && (l.fastest == 0 || took < l.fastest):
		l.fastest = took
	}
}

// requireAcks waits until so many more records were acknowledged.
func (r *stallRig) requireAcks(more int64) {
	r.t.Helper()
	from := r.load.acks.Load()
	eventually(r.t, time.Minute, fmt.Sprintf("%d more records are acknowledged", more), func() bool { return r.load.acks.Load() >= from+more })
}

// verify reads all partitions: each acknowledged record is at its offset, and records are in the order in which they were sent.
func (r *stallRig) verify() (acked, stored int) {
	r.t.Helper()
	ends := endOffsets(r.t, newAdmin(r.t, r.broker.Addr), r.topic)
	for p := range loadPartitions {
		last := -1
		for offset := range r.load.acked[p] {
			if offset >= ends[int32(p)] {
				r.t.Errorf("LOST: partition %d ends at %d, offset %d was acknowledged", p, ends[int32(p)], offset)
			}
		}
		each(r.t, r.broker.Addr, r.topic, int32(p), 0, ends[int32(p)], func(rec *kgo.Record) error {
			var n, of int
			if _, err := fmt.Sscanf(string(rec.Value), "record %d of partition %d ", &n, &of); err != nil || of != p {
				return fmt.Errorf("value %.40q: %w", rec.Value, err)
			}
			if want, ok := r.load.acked[p][rec.Offset]; ok && want != n {
				return fmt.Errorf("record %d was acknowledged here, record %d is", want, n)
			}
			if n <= last {
				return fmt.Errorf("record %d comes after record %d", n, last)
			}
			last = n
			stored++
			return nil
		})
		acked += len(r.load.acked[p])
	}
	return acked, stored
}

// rawConn is a wire.Conn whose end is no failure of the test.
type rawConn struct {
	net.Conn
	w *wire.Conn
}

func dialRaw(addr string) (*rawConn, error) {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &rawConn{Conn: nc, w: wire.On(nc)}, nil
}

func (c *rawConn) close() {
	if c != nil {
		_ = c.Conn.Close()
	}
}

func (c *rawConn) produce(topic string, partition int32, batch []byte, wait time.Duration) (int16, int64, error) {
	req := wire.Produce(topic, partition, batch)
	req.TimeoutMillis = int32(wait.Milliseconds())
	return c.w.TryProduce(req, wait)
}

// observer asks for health and metrics all the time, as a supervisor and a scraper do.
type observer struct {
	http  string
	ended chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	worst map[string]time.Duration // answer times by path
	gap   float64                  // seconds; the worst that the heartbeat has exported
	own   time.Duration            // the same measured in this process, which no disk holds: what the machine is to blame for
	age   map[string]float64       // of the oldest disk operation by area, seconds
	disk  map[string]time.Time     // when each state of the disk was first seen
	fails int                      // no answer, while there still was a listener
	gone  time.Time                // when nobody listened any more: the last thing that a process does before it exits
}

func (r *stallRig) startObserver() *observer {
	o := &observer{http: r.broker.HTTP, ended: make(chan struct{}), worst: map[string]time.Duration{}, age: map[string]float64{}, disk: map[string]time.Time{}}
	for _, path := range []string{"/health/live", "/health/ready", "/health/disk", "/metrics"} {
		o.wg.Go(func() { o.run(path) })
	}
	o.wg.Go(o.beat)
	r.eyes = o
	return o
}

// beat is the broker's heartbeat, here.
func (o *observer) beat() {
	const interval = 10 * time.Millisecond
	for {
		due := time.Now().Add(interval)
		select {
		case <-o.ended:
			return
		case <-time.After(interval):
		}
		o.mu.Lock()
		o.own = max(o.own, time.Since(due))
		o.mu.Unlock()
	}
}

func (o *observer) stop() {
	select {
	case <-o.ended:
	default:
		close(o.ended)
	}
	o.wg.Wait()
}

func (o *observer) run(path string) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		select {
		case <-o.ended:
			return
		case <-time.After(20 * time.Millisecond):
		}
		began := time.Now()
		body, err := httpGet(client, "http://"+o.http+path)
		took := time.Since(began)
		o.mu.Lock()
		var timeout net.Error
		switch {
		case err == nil:
			o.worst[path] = max(o.worst[path], took)
			o.noteLocked(path, body)
		case errors.As(err, &timeout) && timeout.Timeout():
			o.fails++
		case o.gone.IsZero():
			o.gone = began
		}
		o.mu.Unlock()
	}
}

func (o *observer) noteLocked(path string, body []byte) {
	switch path {
	case "/metrics":
		for line := range strings.Lines(string(body)) {
			var v float64
			var area string
			if n, _ := fmt.Sscanf(line, "weir_heartbeat_worst_gap_seconds %g", &v); n == 1 {
				o.gap = max(o.gap, v)
			}
			if n, _ := fmt.Sscanf(line, "weir_replica_oldest_io_seconds{area=%q} %g", &area, &v); n == 2 {
				o.age[area] = max(o.age[area], v)
			}
		}
	case "/health/disk":
		var h struct {
			State string `json:"state"`
		}
		if json.Unmarshal(body, &h) == nil {
			if o.disk[h.State].IsZero() {
				o.disk[h.State] = time.Now()
			}
		}
	}
}

// report prints what was seen, and fails if the broker ever did not answer.
func (o *observer) report(t *testing.T) {
	t.Helper()
	o.stop()
	t.Logf("heartbeat: worst gap %.1f ms (in this process, beside it, %.1f ms); oldest disk operations seen, seconds: %s; longest answers: live %s, ready %s, disk %s, metrics %s",
		o.gap*1000, o.own.Seconds()*1000, o.ages(),
		o.worst["/health/live"].Round(time.Millisecond), o.worst["/health/ready"].Round(time.Millisecond),
		o.worst["/health/disk"].Round(time.Millisecond), o.worst["/metrics"].Round(time.Millisecond))
	if o.fails > 0 {
		t.Errorf("%d health checks or scrapes were not answered in 5 s", o.fails)
	}
}

func (o *observer) ages() string {
	var out []string
	for _, area := range []string{"wal", "segments", "meta", "files"} {
		out = append(out, fmt.Sprintf("%s %.2f", area, o.age[area]))
	}
	return strings.Join(out, ", ")
}

func httpGet(client *http.Client, url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// requireExit requires that the process ends, with this code, and returns when it was gone. One that has called exit but that the disk holds in the kernel,
// where nothing can end it, is let go by the disk, and that is said.
func (r *stallRig) requireExit(code int, wait time.Duration) (at time.Time, held bool) {
	r.t.Helper()
	exited := r.broker.Exited()
	ending := 0 // looks at which it had called exit
	for deadline := time.Now().Add(wait); ending < 20; {
		select {
		case <-exited:
			ending = 1000
			continue
		case <-time.After(50 * time.Millisecond):
		}
		if threadState(r.broker.Pid()) == "Z" {
			ending++
		} else if time.Now().After(deadline) {
			r.t.Errorf("the process has not called exit after %s; its threads: %s", wait, threadsOf(r.broker.Pid()))
			break
		}
	}
	select {
	case <-exited:
	default:
		held = true
		r.t.Logf("threads of the process, a second after it called exit: %s", threadsOf(r.broker.Pid()))
		r.disk.Resume()
		select {
		case <-exited:
		case <-time.After(exitWait):
			r.t.Fatalf("the process did not end although the disk answers")
		}
	}
	at = time.Now()
	if got := exitCode(r.broker); got != code {
		r.t.Errorf("exit code %d, want %d", got, code)
	}
	return at, held
}

// threadState is the state of a process's first thread: Z once the process has called exit.
func threadState(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	state, _, _ := strings.Cut(after, " ")
	return state
}

func exitCode(b *weirproc.Broker) int {
	var exit *exec.ExitError
	switch err := b.ExitError(); {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		return -1
	}
	return 0
}

// threadsOf tells what a process's threads wait for in the kernel.
func threadsOf(pid int) string {
	var text strings.Builder
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		stat, _ := os.ReadFile(task + "/stat")
		stack, _ := os.ReadFile(task + "/stack")
		top, _, _ := strings.Cut(string(stack), "\n")
		if _, after, ok := strings.Cut(string(stat), ") "); ok && len(after) > 0 {
			fmt.Fprintf(&text, "\n  %s %s %s", filepath.Base(task), after[:1], strings.TrimSpace(top))
		}
	}
	return text.String()
}
