package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weir/console"
	"weir/internal/config"
	"weir/uring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a bytes.Buffer that a running server and a test may use together.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// lines passes on what is written, for a test that waits for it.
type lines chan string

func (l lines) Write(p []byte) (int, error) { l <- string(p); return len(p), nil }

// fakeNode is a broker that serves nothing.
type fakeNode struct {
	done     chan error
	shutdown func(context.Context) error
}

func (n *fakeNode) Health() console.Health   { return console.Health{Ready: true, Disk: console.DiskOK} }
func (n *fakeNode) Cluster() console.Cluster { return console.Cluster{Controller: 1} }
func (n *fakeNode) Topics() []console.Topic {
	return []console.Topic{{Name: "orders", Partitions: make([]console.Partition, 1)}}
}
func (n *fakeNode) KafkaAddr() net.Addr                { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4242} }
func (n *fakeNode) Done() <-chan error                 { return n.done }
func (n *fakeNode) Shutdown(ctx context.Context) error { return n.shutdown(ctx) }

// fixture is a weir serve whose broker is a fake one.
type fixture struct {
	s       *serving
	node    *fakeNode
	ready   lines
	logs    buffer
	signals chan os.Signal
	exited  chan int
	result  chan error
}

func newFixture(t *testing.T, values map[string]string) *fixture {
	t.Helper()
	if values == nil {
		values = map[string]string{}
	}
	values["data-dir"] = filepath.Join(t.TempDir(), "data")
	values["http-addr"] = "127.0.0.1:0"
	cfg, err := config.LoadBroker(values)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		ready: make(lines, 1), signals: make(chan os.Signal, 2), exited: make(chan int, 1), result: make(chan error, 1),
		node: &fakeNode{done: make(chan error, 1), shutdown: func(context.Context) error { return nil }},
	}
	f.s = &serving{
		cfg: cfg, io: stdio{strings.NewReader(""), f.ready, &f.logs}, signals: f.signals,
		start: func(context.Context, nodeOptions) (node, error) { return f.node, nil },
		exit:  func(code int) { f.exited <- code },
	}
	return f
}

func (f *fixture) run() { go func() { f.result <- f.s.run(context.Background()) }() }

func TestServeUntilSignal(t *testing.T) {
	f := newFixture(t, nil)
	f.run()
	line := <-f.ready
	m := regexp.MustCompile(`^ready kafka=127\.0\.0\.1:4242 http=(\S+) io=\S+ data=\S+ in=\d+ms\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("ready line %q", line)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/health/ready": `"ready":true`, "/metrics": "weir_heartbeat_gap_seconds", "/": "orders", "/health/disk": `"state":"ok"`,
	} {
		resp, err := client.Get("http://" + m[1] + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v, no %q in:\n%s", path, resp.Status, err, want, body)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	f.signals <- syscall.SIGTERM
	if err := <-f.result; err != nil {
		t.Error(err)
	}
	if !strings.Contains(f.logs.String(), "msg=stopped") {
		t.Errorf("log:\n%s", f.logs.String())
	}
}

// TestRaftCPUs: raft's threads and its log's run on the core that the configuration names, and the log says so.
func TestRaftCPUs(t *testing.T) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	core := 0
	for !allowed.IsSet(core) {
		core++
	}
	f := newFixture(t, map[string]string{"raft.cpus": strconv.Itoa(core), "kafka-addr": "127.0.0.1:0"})
	f.s.start = startBroker
	before := threadsOn(t, core)
	f.run()
	select {
	case <-f.ready:
	case err := <-f.result:
		t.Fatalf("it does not start: %v\n%s", err, f.logs.String())
	}
	const threads = 3 // what runs raft, what applies, and the log's writer
	if now := threadsOn(t, core); now < before+threads && allowed.Count() > 1 {
		t.Errorf("%d threads are bound to core %d, %d were before", now, core, before)
	}
	f.signals <- syscall.SIGTERM
	if err := <-f.result; err != nil {
		t.Error(err)
	}
	if says := fmt.Sprintf("raft runs on core %d, applies on %d", core, core); !strings.Contains(f.logs.String(), says) {
		t.Errorf("the log does not say %q:\n%s", says, f.logs.String())
	}
}

// threadsOn counts the threads of this process that may run on one core only.
func threadsOn(t *testing.T, core int) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	n := 0
	for _, name := range names {
		status, _ := os.ReadFile(name)                             // a thread may end meanwhile
		kernels := strings.Contains(string(status), "Name:\tiou-") // io_uring's workers run where the ring's owner does
		if !kernels && strings.Contains(string(status), fmt.Sprintf("Cpus_allowed_list:\t%d\n", core)) {
			n++
		}
	}
	return n
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	f := newFixture(t, nil)
	f.run()
	<-f.ready
	second := newFixture(t, nil)
	second.s.cfg = f.s.cfg
	second.run()
	err := <-second.result
	if err == nil || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), f.s.cfg.DataDir) {
		t.Errorf("got %v", err)
	}
	f.signals <- os.Interrupt
	if err := <-f.result; err != nil {
		t.Error(err)
	}
	// The lock went with the first.
	third := newFixture(t, nil)
	third.s.cfg = f.s.cfg
	third.run()
	<-third.ready
	third.signals <- os.Interrupt
	if err := <-third.result; err != nil {
		t.Error(err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	f := newFixture(t, nil)
	release := make(chan struct{})
	f.node.shutdown = func(context.Context) error { <-release; return nil }
	f.run()
	<-f.ready
	f.signals <- syscall.SIGTERM
	f.signals <- syscall.SIGTERM
	if code := <-f.exited; code != exitError {
		t.Errorf("exit %d", code)
	}
	close(release)
	<-f.result
}

func TestSignalWhileStarting(t *testing.T) {
	f := newFixture(t, nil)
	f.s.start = func(ctx context.Context, _ nodeOptions) (node, error) {
		f.signals <- os.Interrupt
		<-ctx.Done()
		return nil, fmt.Errorf("recovery: %w", ctx.Err())
	}
	f.run()
	if err := <-f.result; err != nil {
		t.Errorf("interrupted start: %v", err)
	}
}

func TestHealthWhileStarting(t *testing.T) {
	f := newFixture(t, nil)
	h := (*starting)(f.s).Health()
	if h.Ready || h.Disk != console.DiskStarting || h.Reason == "" || (*starting)(f.s).Topics() != nil {
		t.Errorf("got %+v", h)
	}
}

func TestDiskFailureExits70(t *testing.T) {
	f := newFixture(t, nil)
	f.node.shutdown = func(context.Context) error { t.Error("a failed disk was shut down in order"); return nil }
	f.run()
	<-f.ready
	f.node.done <- fmt.Errorf("wal: %w", &uring.OpError{Op: uring.OpWrite, Target: "wal-0001.log", Err: uring.ErrDeadline})
	if code := <-f.exited; code != exitDisk {
		t.Errorf("exit %d, want %d", code, exitDisk)
	}
	<-f.result
	if !strings.Contains(f.logs.String(), "weir: wal: write wal-0001.log") {
		t.Errorf("stderr does not say why:\n%s", f.logs.String())
	}
}

func TestOtherFailureShutsDown(t *testing.T) {
	f := newFixture(t, nil)
	stopped := false
	f.node.shutdown = func(context.Context) error { stopped = true; return nil }
	f.run()
	<-f.ready
	f.node.done <- errors.New("listener closed")
	err := <-f.result
	var c *coded
	if err == nil || errors.As(err, &c) || !stopped {
		t.Errorf("got %v, stopped %t", err, stopped)
	}
}

func TestShutdownDeadlineIsNotAnError(t *testing.T) {
	f := newFixture(t, map[string]string{"shutdown.timeout.ms": "4000"})
	f.node.shutdown = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	f.run()
	<-f.ready
	f.signals <- syscall.SIGTERM
	if err := <-f.result; err != nil {
		t.Error(err)
	}
}

func TestHungShutdownExits70(t *testing.T) {
	f := newFixture(t, map[string]string{"shutdown.timeout.ms": "1"})
	release := make(chan struct{})
	defer close(release)
	f.node.shutdown = func(context.Context) error { <-release; return nil }
	f.run()
	<-f.ready
	f.signals <- syscall.SIGTERM
	if code := <-f.exited; code != exitDisk {
		t.Errorf("exit %d, want %d", code, exitDisk)
	}
	<-f.result
}

func TestServeMistakes(t *testing.T) {
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	dir := t.TempDir()
	notDir := filepath.Join(dir, "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cores := filepath.Join(dir, "cores.yaml")
	if err := os.WriteFile(cores, []byte("raft.cpus: 0,70000\ndata-dir: "+filepath.Join(dir, "d")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		says []string
	}{
		{"unknown flag", []string{"--data-dri", "x"}, []string{"--data-dri"}},
		{"argument", []string{"now"}, []string{"now"}},
		{"wildcard", []string{"--kafka-addr", "0.0.0.0:9092"}, []string{"--kafka-addr", "advertised.listeners"}},
		{"no such file", []string{"--config", filepath.Join(dir, "none.yaml")}, []string{"none.yaml", "does not exist"}},
		{"cluster", []string{"--peer-addr", "127.0.0.1:9192"}, []string{"peer-addr", "seed-nodes"}},
		{"node id", []string{"--node-id", "one"}, []string{"node.id", `"one"`}},
		{"raft's cores", []string{"--config", cores}, []string{"raft.cpus=0,70000", "70000"}},
		{"data directory is a file", []string{"--data-dir", notDir}, []string{"data directory", notDir}},
		{"http-addr in use", []string{"--data-dir", filepath.Join(dir, "d"), "--http-addr", listening.Addr().String()}, []string{"http-addr", "in use"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out, stderr buffer
			start := func(context.Context, nodeOptions) (node, error) {
				t.Error("the broker was started")
				return nil, errors.New("x")
			}
			if code := run(append([]string{"serve"}, test.args...), stdio{strings.NewReader(""), &out, &stderr}, start); code != exitError {
				t.Errorf("exit %d", code)
			}
			logged := strings.Split(strings.TrimSpace(stderr.String()), "\n")
			last := logged[len(logged)-1]
			for _, s := range append(test.says, "weir: ") {
				if !strings.Contains(last, s) {
					t.Errorf("%q does not say %q", last, s)
				}
			}
			if out.String() != "" {
				t.Errorf("stdout: %q", out.String())
			}
		})
	}
}

func TestStartErrorSetsTheExitCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{errors.New("kafka-addr: address in use"), exitError},
		{diskError(fmt.Errorf("open wal: %w", uring.ErrDeadline)), exitDisk},
	} {
		var out, stderr buffer
		args := []string{"serve", "--data-dir", t.TempDir(), "--http-addr", "127.0.0.1:0"}
		start := func(context.Context, nodeOptions) (node, error) { return nil, test.err }
		if code := run(args, stdio{strings.NewReader(""), &out, &stderr}, start); code != test.want {
			t.Errorf("%v: exit %d, want %d", test.err, code, test.want)
		}
	}
}
