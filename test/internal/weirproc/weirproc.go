// Package weirproc runs a broker as its users do: as a process of its own, started from its binary on free loopback ports
// in a temporary data directory, watched through its output, /proc and /metrics, and ended by its process id.
//
// WEIR_BIN names a ready-made binary; without it the package builds ../cmd/weir once per test process.
// WEIR_TEST_REFERENCE=kafka runs Apache Kafka instead (jars in bench/peers/kafka/target/lib), which is how a test is shown
// to ask for what Kafka does and not for what Weir happens to do.
package weirproc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	readyWait = 60 * time.Second // generous: it bounds a hang, it asserts nothing
	stopWait  = 30 * time.Second
)

// Options says how a broker is started.
type Options struct {
	Config  map[string]string // broker keys under Kafka's names
	DataDir string            // "": a temporary directory of the test
	Prefix  []string          // put before the command line; must exec the rest so that the process id stays the broker's
	Env     []string          // added to the test's own environment
	Host    string            // "": 127.0.0.1; the address that all of the broker's ports are on
	// Node and Seeds make the broker one of a cluster; see StartCluster.
	Node  int32
	Peer  string // host:port for the other nodes
	Seeds string
}

// Broker is one broker process and its successors on the same addresses and data directory. Its methods are for one
// goroutine, except Logs and those that only read numbers.
type Broker struct {
	Addr    string // Kafka listener
	HTTP    string // metrics and health; "" for the reference
	DataDir string

	tb      testing.TB
	options Options
	kind    launcher
	logs    *Lines
	started time.Time
	ready   time.Duration

	mu struct {
		sync.Mutex
		cmd    *exec.Cmd
		exited chan struct{} // closed once the process was waited for
		err    error         // of Wait
	}
}

// Start starts a broker, waits until it is ready and ends it with the test. A broker that does not start fails the test.
func Start(tb testing.TB, o Options) *Broker {
	tb.Helper()
	b := New(tb, o)
	if err := b.Launch(); err != nil {
		tb.Fatalf("start broker: %v", err)
	}
	return b
}

// New prepares a broker without starting it.
func New(tb testing.TB, o Options) *Broker {
	tb.Helper()
	b := &Broker{tb: tb, options: o, DataDir: o.DataDir, logs: newLines()}
	if b.DataDir == "" {
		b.DataDir = filepath.Join(tb.TempDir(), "data")
	}
	b.kind = pickLauncher(tb)
	host := cmp.Or(o.Host, "127.0.0.1")
	b.Addr = FreeAddrOn(tb, host)
	if b.kind.hasHTTP() {
		b.HTTP = FreeAddrOn(tb, host)
	}
	tb.Cleanup(func() {
		b.Kill()
		if tb.Failed() {
			tb.Logf("the last output of broker %s:\n%s", b.Addr, b.logs.Tail(80))
		}
	})
	return b
}

// Reference reports whether Apache Kafka stands in for Weir.
func Reference() bool { return os.Getenv("WEIR_TEST_REFERENCE") == "kafka" }

// FreeAddr returns a loopback address nobody listens on.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return FreeAddrOn(tb, "127.0.0.1")
}

// FreeAddrOn is FreeAddr on another address of 127.0.0.0/8. The port is none that the kernel gives to outgoing connections, of which a
// cluster's nodes make many from their own addresses: the port of a node that is down must still be there when it comes back.
func FreeAddrOn(tb testing.TB, host string) string {
	tb.Helper()
	const lowest, highest, tries = 10000, 32000, 100
	var err error
	for range tries {
		addr := net.JoinHostPort(host, strconv.Itoa(lowest+rand.IntN(highest-lowest)))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	tb.Fatalf("find a free port: %v", err)
	return ""
}

// Launch starts the process on the broker's addresses and data directory and waits until it is ready.
func (b *Broker) Launch() error {
	if err := b.LaunchAsync(); err != nil {
		return err
	}
	return b.AwaitReady()
}

// LaunchAsync starts the process without waiting for it to be ready.
func (b *Broker) LaunchAsync() error {
	argv, err := b.kind.command(b)
	if err != nil {
		return err
	}
	argv = append(append([]string{}, b.options.Prefix...), argv...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), b.options.Env...)
	cmd.Stdout = b.logs.stream("stdout")
	cmd.Stderr = b.logs.stream("stderr")
	// A test that dies must not leave a broker behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.logs.newRun()
	b.started = time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %v: %w", argv, err)
	}
	exited := make(chan struct{})
	b.mu.Lock()
	b.mu.cmd, b.mu.exited, b.mu.err = cmd, exited, nil
	b.mu.Unlock()
	go func() {
		err := cmd.Wait()
		b.mu.Lock()
		b.mu.err = err
		b.mu.Unlock()
		close(exited)
	}()
	return nil
}

// AwaitReady waits until the process launched last can serve.
func (b *Broker) AwaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	b.mu.Lock()
	exited := b.mu.exited
	b.mu.Unlock()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := b.kind.awaitReady(ctx, b); err != nil {
		select {
		case <-exited:
			return fmt.Errorf("the broker exited before it was ready (%v); its output:\n%s", b.exitError(), b.logs.Tail(40))
		default:
		}
		return fmt.Errorf("the broker was not ready after %v: %w; its output:\n%s", time.Since(b.started), err, b.logs.Tail(40))
	}
	b.ready = time.Since(b.started)
	return nil
}

// ReadyTime is how long the last Launch took from the start of the process to ready.
func (b *Broker) ReadyTime() time.Duration { return b.ready }

// Kill ends the process with SIGKILL and waits for it. It may be called when none runs.
func (b *Broker) Kill() {
	if cmd, exited := b.process(); cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGKILL) // fails only where it has ended already
		<-exited
	}
}

// Stop ends the process with SIGTERM and reports how it exited.
func (b *Broker) Stop() error {
	cmd, exited := b.process()
	if cmd == nil {
		return errors.New("no broker runs")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("signal the broker: %w", err)
	}
	select {
	case <-exited:
		return b.exitError()
	case <-time.After(stopWait):
		b.Kill()
		return fmt.Errorf("the broker still ran %v after SIGTERM", stopWait)
	}
}

// Terminate sends SIGTERM and does not wait.
func (b *Broker) Terminate() {
	if cmd, _ := b.process(); cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails only where it has ended already
	}
}

// Pause stops the process where it stands, with SIGSTOP: to everybody else it hangs. Kill ends it all the same.
func (b *Broker) Pause() { b.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (b *Broker) Resume() { b.signal(syscall.SIGCONT) }

func (b *Broker) signal(s syscall.Signal) {
	if cmd, _ := b.process(); cmd != nil {
		_ = cmd.Process.Signal(s) // fails only where it has ended already
	}
}

// Running reports whether a process was launched and has not ended.
func (b *Broker) Running() bool {
	cmd, exited := b.process()
	if cmd == nil {
		return false
	}
	select {
	case <-exited:
		return false
	default:
		return true
	}
}

// Exited is closed when the process launched last has ended.
func (b *Broker) Exited() <-chan struct{} {
	_, exited := b.process()
	return exited
}

// Pid is the process id of the process launched last.
func (b *Broker) Pid() int {
	cmd, _ := b.process()
	return cmd.Process.Pid
}

// Logs is what the processes have written so far.
func (b *Broker) Logs() *Lines { return b.logs }

func (b *Broker) process() (*exec.Cmd, chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.cmd, b.mu.exited
}

// ExitError is how the process launched last ended, as exec.Cmd.Wait tells it; nil before that, and after an exit with 0.
func (b *Broker) ExitError() error { return b.exitError() }

func (b *Broker) exitError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.err
}
