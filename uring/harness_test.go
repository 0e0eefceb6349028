package uring

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weir/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long is a deadline that no healthy operation of a test meets.
const long = 30 * time.Second

// variants are all the rings of this build.
var variants = []struct {
	name string
	opt  Options
}{
	{kernelName, Options{Backend: BackendKernel}},
	{kernelName + "_locked", Options{Backend: BackendKernel, Locked: true}},
	{BackendPortable, Options{Backend: BackendPortable}},
}

// eachRing runs a test on every kind of ring, with the options that change sets.
func eachRing(t *testing.T, change func(*Options), test func(t *testing.T, r *ring)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			o := v.opt
			o.StallAfter = -1
			if change != nil {
				change(&o)
			}
			if o.Locked {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
			}
			got, err := New(o)
			if o.Backend == BackendKernel && errors.Is(err, ErrUnavailable) {
				t.Skipf("no io_uring here: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			r := got.(*ring)
			test(t, r)
			if err := r.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if n := r.InFlight() + r.lingering; n != 0 {
				t.Errorf("%d operations left after Close", n)
			}
		})
	}
}

// call is an operation with its results.
type call struct {
	op       Op
	n        int
	err      error
	done     int
	released int
}

func (c *call) watch(t *testing.T) *Op {
	c.op.Done = func(op *Op, n int, err error) {
		if op != &c.op || c.done != 0 || c.released != 0 {
			t.Errorf("%s: Done out of order: done %d, released %d", op.Kind, c.done, c.released)
		}
		c.done++
		c.n, c.err = n, err
	}
	c.op.Released = func(op *Op) {
		if op != &c.op || c.done != 1 || c.released != 0 {
			t.Errorf("%s: Released out of order: done %d, released %d", op.Kind, c.done, c.released)
		}
		c.released++
	}
	if c.op.Timeout == 0 {
		c.op.Timeout = long
	}
	return &c.op
}

func push(t *testing.T, r *ring, calls ...*call) {
	t.Helper()
	for _, c := range calls {
		if err := r.Push(c.watch(t)); err != nil {
			t.Fatalf("Push of %s: %v", c.op.Kind, err)
		}
	}
}

// until waits on the ring until cond holds.
func until(t *testing.T, r *ring, what string, cond func() bool) {
	t.Helper()
	for !cond() {
		if err := r.Wait(true); err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

// run pushes one operation and waits until it is released.
func run(t *testing.T, r *ring, op Op) (int, error) {
	t.Helper()
	c := &call{op: op}
	push(t, r, c)
	until(t, r, "release of "+op.Kind.String(), func() bool { return c.released == 1 })
	return c.n, c.err
}

func open(t *testing.T, flag vfs.Flag) vfs.File {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "file"), flag)
}

func openAt(t *testing.T, name string, flag vfs.Flag) vfs.File {
	t.Helper()
	f, err := vfs.OS{}.OpenFile(name, flag)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

// aligned returns n page-aligned bytes outside the Go heap.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

// pipeFile is the read end of a pipe, behind the interface of a file: a read waits until there is something.
type pipeFile struct {
	vfs.File
	fd int
}

func newPipe(t *testing.T) (r *pipeFile, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	w = os.NewFile(uintptr(fds[1]), "pipe")
	t.Cleanup(func() {
		_ = w.Close()
		_ = unix.Close(fds[0])
	})
	return &pipeFile{fd: fds[0]}, w
}

func (p *pipeFile) Fd() int      { return p.fd }
func (p *pipeFile) Name() string { return "pipe" }
func (p *pipeFile) ReadAt(b []byte, _ int64) (int, error) {
	for n := 0; ; {
		m, err := unix.Read(p.fd, b[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		}
		if n += m; n == len(b) {
			return n, nil
		}
	}
}

// stuck is a file on which every write and fsync hangs until resolve: a thread holds the file's lock while it waits for a page of
// its buffer that does not come. What queues behind the lock sleeps in the kernel where neither a cancellation nor a
// signal reaches it, as behind a dead disk.
type stuck struct {
	file    vfs.File
	resolve func()
}

type uffdioAPI struct{ api, features, ioctls uint64 }
type uffdioRegister struct{ start, len, mode, ioctls uint64 }
type uffdioCopy struct {
	dst, src, len, mode uint64
	copied              int64
}

const (
	uffdioAPICode      = 0xc018aa3f
	uffdioRegisterCode = 0xc020aa00
	uffdioCopyCode     = 0xc028aa03
	uffdAPIVersion     = 0xaa
	uffdModeMissing    = 1
)

// lockedBytes is what the thread that holds the lock writes, at offset 0.
const lockedBytes = 1

func newStuck(t *testing.T) *stuck {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Skipf("no userfaultfd here, nothing else makes an operation hang: %v", errno)
	}
	page := os.Getpagesize()
	missing, src := aligned(t, page), aligned(t, page)
	ioctl := func(what string, code uintptr, arg unsafe.Pointer) {
		t.Helper()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, code, uintptr(arg)); errno != 0 {
			t.Fatalf("userfaultfd %s: %v", what, errno)
		}
	}
	at := uint64(uintptr(unsafe.Pointer(&missing[0])))
	ioctl("api", uffdioAPICode, unsafe.Pointer(&uffdioAPI{api: uffdAPIVersion}))
	ioctl("register", uffdioRegisterCode, unsafe.Pointer(&uffdioRegister{start: at, len: uint64(page), mode: uffdModeMissing}))
	s := &stuck{file: open(t, vfs.Create)}
	holder := make(chan error, 1)
	go func() {
		_, err := unix.Pwrite(s.file.Fd(), missing[:lockedBytes], 0)
		holder <- err
	}()
	s.resolve = sync.OnceFunc(func() {
		ioctl("copy", uffdioCopyCode, unsafe.Pointer(&uffdioCopy{dst: at, src: uint64(uintptr(unsafe.Pointer(&src[0]))), len: uint64(page)}))
		if err := <-holder; err != nil {
			t.Errorf("the write that held the lock: %v", err)
		}
		_ = unix.Close(int(fd))
	})
	t.Cleanup(s.resolve) // a test that fails must not leave threads that cannot be killed
	var msg [32]byte
	for {
		n, err := unix.Read(int(fd), msg[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != len(msg) {
			t.Fatalf("userfaultfd event: %d bytes, %v", n, err)
		}
		return s // the lock is held
	}
}

// hang pushes operations like op, which is on a stuck file, until one has outlived its deadline. (One that no thread had begun by then is
// cancelled and given back.)
func hang(t *testing.T, r *ring, op Op) *call {
	t.Helper()
	for range 100 {
		c := &call{op: op}
		began := time.Now()
		push(t, r, c)
		until(t, r, "deadline", func() bool { return c.done == 1 })
		wantError(t, "operation on a stuck file", c.err, ErrDeadline)
		if elapsed := time.Since(began); elapsed < op.Timeout {
			t.Errorf("failed after %s, before its deadline of %s", elapsed, op.Timeout)
		}
		for range 3 { // the first hands over the cancellation
			if err := r.Wait(false); err != nil {
				t.Fatal(err)
			}
		}
		if c.released == 0 {
			return c
		}
	}
	t.Fatal("no operation hangs")
	return nil
}

func fill(b []byte, seed byte) []byte {
	for i := range b {
		b[i] = seed + byte(i*7)
	}
	return b
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func describeOp(op *Op) string {
	return fmt.Sprintf("%s of %d bytes at %d", op.Kind, len(op.Buf), op.Off)
}
