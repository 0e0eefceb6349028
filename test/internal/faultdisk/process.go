package faultdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	helperStartWait = 20 * time.Second
	helperEndWait   = 20 * time.Second
)

// helper is the process that serves a disk, as the test's process sees it.
type helper struct {
	dir    string
	cmd    *exec.Cmd
	stdin  io.Closer // its end is the helper's
	output *output
	exited chan struct{}
}

// output keeps what a process writes.
type output struct {
	ready chan struct{} // closed once it has said that it serves

	mu struct {
		sync.Mutex
		text bytes.Buffer
		said bool
	}
}

func newOutput() *output { return &output{ready: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	const textBytesMax = 64 << 10
	if o.mu.text.Len() < textBytesMax {
		o.mu.text.Write(p)
	}
	if !o.mu.said && bytes.Contains(o.mu.text.Bytes(), []byte(helperReady)) {
		o.mu.said = true
		close(o.ready)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.text.String()
}

// startHelper starts the process in a mount namespace of its own and waits until it serves. It keeps the lock.
func startHelper(dir string, lock *os.File, size int64) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("path of this binary: %w", err)
	}
	h := &helper{dir: dir, output: newOutput(), exited: make(chan struct{})}
	h.cmd = exec.Command(self)
	h.cmd.Env = append(os.Environ(), helperDirEnv+"="+dir, helperSizeEnv+"="+strconv.FormatInt(size, 10))
	h.cmd.ExtraFiles = []*os.File{lock}
	h.cmd.Stdout, h.cmd.Stderr = h.output, h.output
	h.cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS,
		Setsid:       true, // what a terminal sends to all does not reach it: it ends after the test, in order
	}
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("pipe to the disk's process: %w", err)
	}
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the disk's process: %w", err)
	}
	go func() {
		_ = h.cmd.Wait() // how it ended is in its output, and in who ended it
		close(h.exited)
	}()
	select {
	case <-h.output.ready:
		return h, nil
	case <-h.exited:
		return nil, fmt.Errorf("the disk's process ended: %s", h.said())
	case <-time.After(helperStartWait):
		err := fmt.Errorf("the disk's process does not serve after %v: %s", helperStartWait, h.said())
		return nil, errors.Join(err, h.end())
	}
}

func (h *helper) said() string { return h.output.String() }

func (h *helper) socket() string { return filepath.Join(h.dir, socketName) }

// path is where any process finds what the helper's namespace has at a path.
func (h *helper) path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(h.cmd.Process.Pid), "root", inside)
}

// end ends the process, and with it the FUSE connection, the mounts and the loop device.
func (h *helper) end() error {
	_ = h.stdin.Close()
	select {
	case <-h.exited:
		return nil
	case <-time.After(helperEndWait):
	}
	_ = h.cmd.Process.Kill()
	select {
	case <-h.exited:
		return nil
	case <-time.After(helperEndWait):
		return fmt.Errorf("the disk's process %d does not end after %v and a kill", h.cmd.Process.Pid, 2*helperEndWait)
	}
}
