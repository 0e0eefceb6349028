package faultdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	requestBytesMax = 1 << 20
	// requestsMax is how many asynchronous requests the kernel lets through. A stall must be able to hold many without
	// keeping the others from arriving.
	requestsMax = 4096
)

// Stats counts requests since the disk was made.
type Stats struct {
	Reads, Writes, Flushes int64
	ReadBytes, WriteBytes  int64
	Held                   int64 // requests that a stall held back
	Failed                 int64 // requests that were failed on purpose, or for want of power
	Lies                   int64 // flushes that the disk lied about
	HeldNow                int   // requests held back at this moment
	UnflushedBytes         int64 // written since the last flush, a sector counted as often as it was written
	PowerCuts              int
}

type counters struct {
	reads, writes, flushes, readBytes, writeBytes, held, failed, lies atomic.Int64
}

// disk is what all generations of the file share. After each power cut there is a new file with a new name: the old one,
// which a mount that is going down may still use, fails.
type disk struct {
	image *image
	gate  atomic.Pointer[gate]
	counters
}

// admit passes a request through the gate of its generation.
func (d *disk) admit(g *gate, kind Kind) syscall.Errno {
	held, errno := g.pass(kind)
	if held {
		d.held.Add(1)
	}
	if errno != 0 {
		d.failed.Add(1)
	}
	return errno
}

func (d *disk) stats() Stats {
	return Stats{
		Reads: d.reads.Load(), Writes: d.writes.Load(), Flushes: d.flushes.Load(),
		ReadBytes: d.readBytes.Load(), WriteBytes: d.writeBytes.Load(),
		Held: d.held.Load(), Failed: d.failed.Load(), Lies: d.lies.Load(),
		HeldNow: d.gate.Load().holds(All), UnflushedBytes: d.image.unflushed(), PowerCuts: d.image.power(),
	}
}

// backingName is the name of the file that stands for the disk since a power cut.
func backingName(power int) string { return fmt.Sprintf("disk-%d", power) }

// root is the directory of the FUSE mount; its only file is the disk.
type root struct {
	fs.Inode
	disk *disk
}

var _ fs.NodeLookuper = (*root)(nil)

func (r *root) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	power := r.disk.image.power()
	if name != backingName(power) {
		return nil, syscall.ENOENT
	}
	f := &file{disk: r.disk, gate: r.disk.gate.Load(), power: power}
	f.attr(&out.Attr)
	return r.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: uint64(power) + 2}), 0
}

// file is the disk from one power cut to the next.
type file struct {
	fs.Inode
	disk  *disk
	gate  *gate
	power int
}

var (
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
)

func (f *file) attr(out *fuse.Attr) {
	out.Mode, out.Nlink = syscall.S_IFREG|0o600, 1
	out.Size, out.Blksize = uint64(f.disk.image.size()), 4096
}

func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	return 0
}

// Open asks for direct I/O, so that no page of the disk is cached below the file system under test, and for parallel
// writes, so that one that is held back does not keep the others from arriving.
func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES, 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, to []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	f.disk.reads.Add(1)
	if errno := f.disk.admit(f.gate, Read); errno != 0 {
		return nil, errno
	}
	n, err := f.disk.image.read(f.power, to, offset)
	if err != nil {
		return nil, f.failed(err)
	}
	f.disk.readBytes.Add(int64(n))
	return fuse.ReadResultData(to[:n]), 0
}

func (f *file) Write(_ context.Context, _ fs.FileHandle, from []byte, offset int64) (uint32, syscall.Errno) {
	f.disk.writes.Add(1)
	if errno := f.disk.admit(f.gate, Write); errno != 0 {
		return 0, errno
	}
	if err := f.disk.image.write(f.power, from, offset); err != nil {
		return 0, f.failed(err)
	}
	f.disk.writeBytes.Add(int64(len(from)))
	return uint32(len(from)), 0
}

func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.disk.flushes.Add(1)
	mark := f.disk.image.mark() // a stalled flush covers nothing that was written while it stood still
	if errno := f.disk.admit(f.gate, Flush); errno != 0 {
		return errno
	}
	lied, err := f.disk.image.flush(f.power, mark)
	if err != nil {
		return f.failed(err)
	}
	if lied {
		f.disk.lies.Add(1)
	}
	return 0
}

func (f *file) failed(err error) syscall.Errno {
	f.disk.failed.Add(1)
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	fmt.Fprintln(os.Stderr, err)
	return syscall.EIO
}

// mountFuse mounts the disk's file in a directory.
func mountFuse(d *disk, dir string) (*fuse.Server, error) {
	server, err := fs.Mount(dir, &root{disk: d}, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, // no fusermount needed
			FsName:            "faultdisk", Name: "faultdisk",
			MaxWrite: requestBytesMax, MaxBackground: requestsMax,
			DisableXAttrs: true, DisableReadDirPlus: true,
			// Without it a loop device's thread would wait for each request, and one that is held back would hold all others.
			ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount FUSE at %s: %w", dir, err)
	}
	return server, nil
}
