package wal

import (
	"errors"
	"fmt"
	"io"
	"time"

	"weir/internal/iobuf"
	"weir/internal/vfs"
	"weir/uring"
)

const (
	readBytes        = 1 << 20 // a read of recovery
	prewriteBytes    = 1 << 20 // a write of prewriting, at most
	readTimeout      = 10 * time.Second
	makeTimeout      = 10 * time.Second
	metadataTimeout  = 10 * time.Second
	metadataStuckMax = 4
	ioDepth          = 4
)

// reader reads n bytes, a multiple of blockBytes, at off into b. Past the end of the file it returns fewer, and no error. If it
// fails, the memory may still be in use; it keeps its own reference to b until it is not.
type reader interface {
	readAt(f vfs.File, b *iobuf.Buf, n int, off int64) (int, error)
}

// engineIO does the I/O of recovery and of making files, with deadlines, on an engine of its own.
type engineIO struct{ engine *uring.Engine }

func newEngineIO(o uring.Options) (*engineIO, error) {
	o.Depth, o.Locked = 2*ioDepth, false
	e, err := uring.NewEngine(o)
	if err != nil {
		return nil, fmt.Errorf("make an engine: %w", err)
	}
	return &engineIO{engine: e}, nil
}

// close frees the engine. What a stalled disk still holds is leaked, as the engine has logged.
func (e *engineIO) close() {
	e.engine.Close() //nolint:errcheck // says only what was leaked
}

func (e *engineIO) readAt(f vfs.File, b *iobuf.Buf, n int, off int64) (int, error) {
	b.Retain()
	op := &uring.Op{Kind: uring.OpRead, File: f, Buf: b.Bytes()[:n], Off: off, Timeout: readTimeout,
		Released: func(*uring.Op) { b.Release() }}
	got, err := e.engine.Do(op)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return got, err
}

// sync makes what was read, or written, durable.
func (e *engineIO) sync(f vfs.File) error {
	_, err := e.engine.Do(&uring.Op{Kind: uring.OpFdatasync, File: f, Timeout: readTimeout})
	return err
}

// plainReader blocks as long as the disk does; for offline tools.
type plainReader struct{}

func (plainReader) readAt(f vfs.File, b *iobuf.Buf, n int, off int64) (int, error) {
	got, err := f.ReadAt(b.Bytes()[:n], off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return got, err
}

// window gives views of a file, reading ahead. A file shorter than size reads as zeroes behind its end, as if the rest had
// never been written.
type window struct {
	r    reader
	f    vfs.File
	size int64
	buf  *iobuf.Buf
	off  int64
	n    int // valid bytes in buf
}

// at returns n bytes at off, a multiple of blockBytes, valid until the next call. The range must lie below size.
func (w *window) at(off int64, n int) ([]byte, error) {
	if w.buf == nil || off < w.off || off+int64(n) > w.off+int64(w.n) {
		if err := w.fill(off, n); err != nil {
			return nil, err
		}
	}
	at := int(off - w.off)
	return w.buf.Bytes()[at : at+n : at+n], nil
}

func (w *window) fill(off int64, n int) error {
	want := padded(n)
	if want < readBytes {
		want = int(min(readBytes, w.size-off))
	}
	if w.buf == nil || w.buf.Cap() < want {
		w.close()
		w.buf = iobuf.Get(max(want, readBytes))
	}
	w.buf.SetLen(w.buf.Cap())
	got := 0
	for got < want {
		// A read that stops inside a block met the end of a file that someone cut: there is nothing behind it.
		if got%blockBytes != 0 {
			break
		}
		k, err := w.read(off+int64(got), got, want-got)
		if err != nil {
			return fmt.Errorf("read %d bytes at %d of %s: %w", want-got, off+int64(got), w.f.Name(), err)
		}
		if k == 0 {
			break
		}
		got += k
	}
	clear(w.buf.Bytes()[got:want])
	w.off, w.n = off, want
	return nil
}

// read reads into the window's buffer from position at on. Only whole-buffer reads go to the reader, so that it can keep a reference; a
// rest, which only a short read leaves, goes through a buffer of its own.
func (w *window) read(off int64, at, n int) (int, error) {
	if at == 0 {
		k, err := w.r.readAt(w.f, w.buf, n, off)
		if err != nil {
			w.n = 0
		}
		return k, err
	}
	b := iobuf.Get(max(n, blockBytes))
	defer b.Release()
	k, err := w.r.readAt(w.f, b, n, off)
	copy(w.buf.Bytes()[at:], b.Bytes()[:k])
	return k, err
}

func (w *window) close() {
	if w.buf != nil {
		w.buf.Release()
		w.buf = nil
	}
}
