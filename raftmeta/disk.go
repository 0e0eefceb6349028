package raftmeta

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/uring"
)

// disk reads and writes whole small files with a deadline on every step. An engine is made for each use: uses are rare, and an idle
// node should not keep a thread for them.
type disk struct {
	fs      vfs.FS // bounded
	ring    uring.Options
	timeout time.Duration
	pace    *pace.Pace // of what is written here, which can be a large snapshot; nil: as it comes
}

const (
	metadataStuckMax = 4
	ioChunkBytes     = 1 << 20 // a transfer per deadline
	syncBytesMax     = 8 << 20 // between two syncs of a file, at most
	tmpSuffix        = ".tmp"
)

func newDisk(fsys vfs.FS, ring uring.Options, timeout time.Duration) *disk {
	return &disk{fs: vfs.Bounded(fsys, timeout, metadataStuckMax), ring: ring, timeout: timeout}
}

// read returns a file's content. fs.ErrNotExist if there is none; a file above max bytes is an error.
func (d *disk) read(name string, max int64) (b []byte, err error) {
	info, err := d.fs.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if info.Size() > max {
		return nil, fmt.Errorf("read %s: %w: %d bytes, want at most %d", name, ErrCorrupt, info.Size(), max)
	}
	err = d.with(name, vfs.ReadOnly, func(e *uring.Engine, f vfs.File) error {
		b = make([]byte, info.Size())
		for off := 0; off < len(b); off += ioChunkBytes {
			chunk := b[off:min(off+ioChunkBytes, len(b))]
			n, err := e.Do(&uring.Op{Kind: uring.OpRead, File: f, Buf: chunk, Off: int64(off), Timeout: d.timeout})
			if err != nil && !(errors.Is(err, io.EOF) && n == len(chunk)) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// write makes name have this content, durably and all at once: after a crash it has either the old content or the new one. b must not
// change until the process ends if write fails.
func (d *disk) write(name string, b []byte) error {
	tmp := name + tmpSuffix
	// A write that was given up on may still be on its way to a file of that name: it must not be this one.
	if err := d.remove(tmp); err != nil {
		return err
	}
	err := d.with(tmp, vfs.Create|vfs.Truncate, func(e *uring.Engine, f vfs.File) error {
		for off := 0; ; {
			n, err := d.writeStep(e, f, b[off:], int64(off))
			if off += n; err != nil || off >= len(b) {
				return err
			}
		}
	})
	if err == nil {
		err = d.fs.Rename(tmp, name)
	}
	if err == nil {
		err = d.fs.SyncDir(path.Dir(name))
	}
	if err != nil {
		_ = d.fs.Remove(tmp) // it may be what has filled the disk; if it stays, the next start removes it
		return fmt.Errorf("write %s (%d bytes): %w", name, len(b), err)
	}
	return nil
}

// writeStep writes some of b at off and syncs it, and says how much it was: what is written behind the logs is never much at once.
func (d *disk) writeStep(e *uring.Engine, f vfs.File, b []byte, off int64) (n int, err error) {
	n = min(syncBytesMax, len(b))
	if d.pace != nil {
		step, _ := d.pace.Begin(int64(max(n, 1)), nil)
		defer func() { step.End(err) }()
		n = min(n, int(step.Bytes))
	}
	for at := 0; at < n; at += ioChunkBytes {
		chunk := b[at:min(at+ioChunkBytes, n)]
		if _, err := e.Do(&uring.Op{Kind: uring.OpWrite, File: f, Buf: chunk, Off: off + int64(at), Timeout: d.timeout}); err != nil {
			return 0, err
		}
	}
	_, err = e.Do(&uring.Op{Kind: uring.OpFsync, File: f, Timeout: d.timeout})
	return n, err
}

// remove deletes a file, if it is there.
func (d *disk) remove(name string) error {
	if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// makeDir makes a directory durably.
func (d *disk) makeDir(name string) error {
	err := d.fs.MkdirAll(name)
	if err == nil {
		err = d.fs.SyncDir(path.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("make directory %s: %w", name, err)
	}
	return nil
}

// with opens a file for fn. A file that fn could not finish with in time stays open: its descriptor may still be in use.
func (d *disk) with(name string, flag vfs.Flag, fn func(*uring.Engine, vfs.File) error) error {
	e, err := uring.NewEngine(d.ring)
	if err != nil {
		return err
	}
	f, err := d.fs.OpenFile(name, flag)
	if err != nil {
		return errors.Join(err, e.Close())
	}
	err = fn(e, f)
	if leaked := e.Close(); leaked != nil {
		return errors.Join(err, leaked)
	}
	return errors.Join(err, f.Close())
}
