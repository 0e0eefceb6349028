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
	// command prepares the directory and returns the command line.
	command func(dir, addr, http string) ([]string, error)
}

// Instance is a running server.
type Instance struct {
	Spec Spec
	Addr string
	HTTP string // "" where there is none
	Dir  string

	cmd    *exec.Cmd
	exited chan struct{}
	output *tailBuffer
}

// Start starts a server on a directory, which is created, and waits until it answers.
func Start(ctx context.Context, spec Spec, dir string) (*Instance, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	i := &Instance{Spec: spec, Addr: addr, Dir: dir}
	if spec.HTTP {
		if i.HTTP, err = FreeAddr(); err != nil {
			return nil, err
		}
	}
	if err := i.launch(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Instance) launch(ctx context.Context) error {
	argv, err := i.Spec.command(i.Dir, i.Addr, i.HTTP)
	if err != nil {
		return fmt.Errorf("start %s: %w", i.Spec.Name, err)
	}
	i.output = &tailBuffer{}
	i.cmd = exec.Command(argv[0], argv[1:]...)
	i.cmd.Stdout, i.cmd.Stderr = i.output, i.output
	// A benchmark that dies must not leave its server behind.
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := i.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", i.Spec.Name, err)
	}
	i.exited = make(chan struct{})
	go func() {
		_ = i.cmd.Wait()
		close(i.exited)
	}()
	if err := i.awaitReady(ctx); err != nil {
		i.Kill()
		return fmt.Errorf("start %s: %w; its output:\n%s", i.Spec.Name, err, i.output)
	}
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

// RestartCold stops the server, drops its files from the page cache and starts it again on the same address. It reports
// how the cache was dropped.
func (i *Instance) RestartCold(ctx context.Context) (how string, err error) {
	i.Stop()
	how, err = dropCache(i.Dir)
	if err != nil {
		return "", err
	}
	return how, i.launch(ctx)
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

// FreeAddr returns a loopback address that nobody listens on.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
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
