package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"weir/internal/clock"
)

// ErrTooManyStuck: refused because as many earlier operations as are allowed have not come back from the disk.
var ErrTooManyStuck = errors.New("too many operations are stuck")

// TimeoutError is an operation that the file system did not complete in time, or that was not begun because others are
// stuck. Whether it will still take effect is unknown.
type TimeoutError struct {
	Op      string
	Path    string
	Elapsed time.Duration
	// Stuck is ErrTooManyStuck if the operation was not begun, else nil.
	Stuck error
}

func (e *TimeoutError) Error() string {
	if e.Stuck != nil {
		return fmt.Sprintf("%s %s: %v, given up after %s", e.Op, e.Path, e.Stuck, e.Elapsed.Round(time.Microsecond))
	}
	return fmt.Sprintf("%s %s: not done after %s", e.Op, e.Path, e.Elapsed.Round(time.Microsecond))
}

// Timeout is always true, as net.Error has it.
func (e *TimeoutError) Timeout() bool { return true }

// Unwrap gives ErrTooManyStuck or nil.
func (e *TimeoutError) Unwrap() error { return e.Stuck }

// bounded is an FS whose callers never wait longer than timeout.
type bounded struct {
	fs      FS
	timeout time.Duration
	permits chan struct{} // one for each operation that may be under way
	stuck   atomic.Int64  // operations under way that nobody waits for any more
}

// Bounded wraps fs so that every metadata operation (all of FS, and Close, Size and Truncate of its files) runs on a goroutine
// of its own and fails with a *TimeoutError after timeout. At most maxStuck operations are under way at a time; while that many are
// stuck, others fail at once. What a late open or lock yields is closed. The data operations of files (ReadAt, WriteAt,
// Allocate, Sync, Datasync) are passed through: a ring gives them their deadline.
func Bounded(fs FS, timeout time.Duration, maxStuck int) FS {
	if timeout <= 0 || maxStuck < 1 {
		panic(fmt.Sprintf("BUG: vfs.Bounded(%s, %d)", timeout, maxStuck))
	}
	return &bounded{fs: fs, timeout: timeout, permits: make(chan struct{}, maxStuck)}
}

// outcome is what an operation yields, if anyone still wants it.
type outcome[T any] struct {
	value T
	err   error
}

// within runs call with b's deadline. discard, if not nil, gets a value that came too late.
func within[T any](b *bounded, op, path string, call func() (T, error), discard func(T)) (T, error) {
	var none T
	began := time.Now()
	expired := make(chan struct{})
	timer := clock.AfterRunning(clock.Real{}, b.timeout, func() { close(expired) })
	defer timer.Stop()
	if b.stuck.Load() >= int64(cap(b.permits)) {
		return none, &TimeoutError{Op: op, Path: path, Elapsed: time.Since(began), Stuck: ErrTooManyStuck}
	}
	select {
	case b.permits <- struct{}{}:
	case <-expired:
		return none, &TimeoutError{Op: op, Path: path, Elapsed: time.Since(began), Stuck: ErrTooManyStuck}
	}
	result := make(chan outcome[T], 1)
	var abandoned atomic.Bool // whoever sets it first decides: the caller gives up, or the result is delivered
	go func() {
		value, err := call()
		late := abandoned.Swap(true)
		if late {
			if err == nil && discard != nil {
				discard(value)
			}
			b.stuck.Add(-1)
		} else {
			result <- outcome[T]{value, err}
		}
		<-b.permits
	}()
	select {
	case r := <-result:
		return r.value, r.err
	case <-expired:
	}
	b.stuck.Add(1)
	if abandoned.Swap(true) {
		b.stuck.Add(-1)
		r := <-result // delivered this very moment
		return r.value, r.err
	}
	return none, &TimeoutError{Op: op, Path: path, Elapsed: time.Since(began)}
}

// try is within for operations that yield nothing but an error.
func (b *bounded) try(op, path string, call func() error) error {
	_, err := within(b, op, path, func() (struct{}, error) { return struct{}{}, call() }, nil)
	return err
}

func discardCloser[T io.Closer](c T) { _ = c.Close() } // nobody is left to tell

func (b *bounded) OpenFile(name string, flag Flag) (File, error) {
	f, err := within(b, "open", name, func() (File, error) { return b.fs.OpenFile(name, flag) }, discardCloser[File])
	if err != nil {
		return nil, err
	}
	return &boundedFile{File: f, fs: b}, nil
}

func (b *bounded) Lock(name string) (io.Closer, error) {
	return within(b, "lock", name, func() (io.Closer, error) { return b.fs.Lock(name) }, discardCloser[io.Closer])
}

// List bounds the reading of names; an entry's Info may go to the disk again, without a bound. Use Stat.
func (b *bounded) List(dir string) ([]fs.DirEntry, error) {
	return within(b, "list", dir, func() ([]fs.DirEntry, error) { return b.fs.List(dir) }, nil)
}

func (b *bounded) Stat(name string) (fs.FileInfo, error) {
	return within(b, "stat", name, func() (fs.FileInfo, error) { return b.fs.Stat(name) }, nil)
}

func (b *bounded) Space(dir string) (Space, error) {
	return within(b, "space", dir, func() (Space, error) { return b.fs.Space(dir) }, nil)
}

func (b *bounded) Remove(name string) error {
	return b.try("remove", name, func() error { return b.fs.Remove(name) })
}

func (b *bounded) RemoveAll(name string) error {
	return b.try("removeall", name, func() error { return b.fs.RemoveAll(name) })
}

func (b *bounded) Rename(oldName, newName string) error {
	return b.try("rename", oldName, func() error { return b.fs.Rename(oldName, newName) })
}

func (b *bounded) MkdirAll(name string) error {
	return b.try("mkdirall", name, func() error { return b.fs.MkdirAll(name) })
}

func (b *bounded) SyncDir(dir string) error {
	return b.try("syncdir", dir, func() error { return b.fs.SyncDir(dir) })
}

// boundedFile bounds what of a file is metadata.
type boundedFile struct {
	File
	fs *bounded
}

func (f *boundedFile) Close() error { return f.fs.try("close", f.Name(), f.File.Close) }

func (f *boundedFile) Size() (int64, error) {
	return within(f.fs, "size", f.Name(), f.File.Size, nil)
}

func (f *boundedFile) Truncate(size int64) error {
	return f.fs.try("truncate", f.Name(), func() error { return f.File.Truncate(size) })
}
