// Package server runs the brokers that are measured, each as a process of its own on loopback, and reads what they cost:
// CPU, memory, device writes. A server starts in a clean directory and is ended by its process id.
package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	readyWait = 60 * time.Second
	stopWait  = 30 * time.Second
	outputMax = 64 << 10 // bytes of a server's output kept for error messages
)

// Spec is a kind of server.
type Spec struct {
	Name   string
	Note   string // what a reader of the table must know: fsync policy, heap size
	Stores bool   // false: what was produced cannot be consumed
	HTTP   bool   // it serves /metrics and /debug/pprof
	Nodes  int    // processes that are one cluster, of which every topic has as many replicas; 0 is 1
	// command prepares a node's directory and returns the command line.
	command func(n place) ([]string, error)
}

// place is where a node of a server is, and where its others are.
type place struct {
	id         int // from 1
	dir        string
	addr, http string
	peer       string  // for the other nodes, "" where there are none
	all        []place // of the cluster, this one included
}

// Instance is a running server.
type Instance struct {
	Spec Spec
	Addr string
	HTTP string // "" where there is none
	Dir  string

	place  place
	cmd    *exec.Cmd
	exited chan struct{}
	output *tailBuffer
}

// Start starts a server of one node on a directory, which is created, and waits until it answers.
func Start(ctx context.Context, spec Spec, dir string) (*Instance, error) {
	places, err := placesOf(1, dir)
	if err != nil {
		return nil, err
	}
	i := newInstance(spec, places[0])
	if err := i.launch(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

func newInstance(spec Spec, p place) *Instance {
	i := &Instance{Spec: spec, Addr: p.addr, Dir: p.dir, place: p}
	if spec.HTTP {
		i.HTTP = p.http
	}
	return i
}

// launch starts the process and waits until it answers.
func (i *Instance) launch(ctx context.Context) error {
	if err := i.spawn(); err != nil {
		return err
	}
	return i.answers(ctx)
}

// answers waits until the process answers, and kills it if it does not.
func (i *Instance) answers(ctx context.Context) error {
	if err := i.awaitReady(ctx); err != nil {
		i.Kill()
		return fmt.Errorf("start %s: %w; its output:\n%s", i.Spec.Name, err, i.output)
	}
	return nil
}

// spawn starts the process.
func (i *Instance) spawn() error {
	if err := os.MkdirAll(i.Dir, 0o755); err != nil {
		return fmt.Errorf("start %s: %w", i.Spec.Name, err)
	}
	argv, err := i.Spec.command(i.place)
	if err != nil {
		return fmt.Errorf("start %s: %w", i.Spec.Name, err)
	}
	output, exited := &tailBuffer{}, make(chan struct{})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = output, output
	// A benchmark that dies must not leave its server behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", i.Spec.Name, err)
	}
	i.cmd, i.output, i.exited = cmd, output, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return nil
}

// awaitReady asks until the server answers, the same way for every kind of server.
func (i *Instance) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(i.Addr), kgo.RetryTimeout(time.Second))
	if err != nil {
		return fmt.Errorf("probe client: %w", err)
	}
	defer client.Close()
	for {
		if conn, err := net.DialTimeout("tcp", i.Addr, time.Second); err == nil {
			_ = conn.Close()
			if client.Ping(ctx) == nil {
				return nil
			}
		}
		select {
		case <-i.exited:
			return errors.New("it exited")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer on %s: %w", i.Addr, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Pid is the server's process id.
func (i *Instance) Pid() int { return i.cmd.Process.Pid }

// Exited is closed when the server has ended.
func (i *Instance) Exited() <-chan struct{} { return i.exited }

// Output is the end of what the server wrote.
func (i *Instance) Output() string { return i.output.String() }

// Stop asks the server to end and kills it if it does not.
func (i *Instance) Stop() {
	_ = i.cmd.Process.Signal(syscall.SIGTERM) // fails only where it has ended already
	select {
	case <-i.exited:
	case <-time.After(stopWait):
		i.Kill()
	}
}

// Kill ends the server at once.
func (i *Instance) Kill() {
	_ = i.cmd.Process.Signal(syscall.SIGKILL)
	<-i.exited
}

// dropCache empties the page cache: all of it where that is allowed, else what belongs to the directory.
func dropCache(dir string) (how string, err error) {
	syscall.Sync()
	if os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) == nil {
		return "drop_caches", nil
	}
	err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return fadviseDontNeed(f)
	})
	return "fadvise", err
}

// FreeAddrs returns n addresses of a loopback host that nobody listens on.
func FreeAddrs(host string, n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // all of them stay taken until the last is found
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len() > outputMax {
		t.buf.Next(outputMax / 2)
	}
	return t.buf.Write(p)
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
