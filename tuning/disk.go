package tuning

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/internal/vfs"
)

// minFree is the free space below which the report gives advice.
const minFree = 10 << 30

// DiskOptions are the inputs of Disk.
type DiskOptions struct {
	FS      vfs.FS
	Dir     string                       // exists
	Engine  func() (name, why string)    // which I/O engine is used and why
	Timeout time.Duration                // for all of it; a disk that does not answer is a finding
	FSType  func(string) (string, error) // nil: ask the kernel
}

// Disk looks at the file system of the data directory. Probes run on a goroutine of their own, so that a disk that does
// not answer costs Timeout and no more.
func Disk(ctx context.Context, o DiskOptions) []Finding {
	if o.FSType == nil {
		o.FSType = fsType
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	found := make(chan []Finding, 1) // buffered: the goroutine ends whenever the disk lets it
	go func() {
		found <- append([]Finding{engine(o), fileSystem(o), freeSpace(o)}, durableWrites(o)...)
	}()
	select {
	case f := <-found:
		return f
	case <-ctx.Done():
		return []Finding{{
			Subject: "disk", Text: fmt.Sprintf("%s did not answer within %s", o.Dir, o.Timeout),
			Advice: "check the disk: Weir cannot serve from one that stalls",
		}}
	}
}

func engine(o DiskOptions) Finding {
	name, why := o.Engine()
	f := Finding{Subject: "io engine", Text: name + ": " + why}
	if name == "portable" {
		f.Advice = "allow io_uring (sysctl kernel.io_uring_disabled=0, or the container's seccomp profile) for fewer threads and less CPU per write"
	}
	return f
}

func fileSystem(o DiskOptions) Finding {
	f := Finding{Subject: "file system"}
	name, err := o.FSType(o.Dir)
	if err != nil {
		f.Text = "unknown: " + err.Error()
		return f
	}
	f.Text = name
	switch name {
	case "tmpfs", "ramfs":
		f.Advice = "data is in memory and lost at a reboot: use a disk"
	case "nfs", "smb", "fuse", "9p":
		f.Advice = "use a local disk: whether a network file system keeps what it was told to sync is up to its server"
	case "overlayfs":
		f.Advice = "mount a volume: a container's own layer is slow to write and lost with the container"
	case "btrfs", "zfs":
		f.Advice = "prefer ext4 or xfs: copy-on-write file systems rewrite what Weir preallocates"
	}
	return f
}

// magics are the numbers of statfs(2).
var magics = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
	unix.RAMFS_MAGIC: "ramfs", unix.NFS_SUPER_MAGIC: "nfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.FUSE_SUPER_MAGIC: "fuse",
	unix.V9FS_MAGIC: "9p", unix.SMB2_SUPER_MAGIC: "smb", unix.CIFS_SUPER_MAGIC: "smb", unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs",
}

func fsType(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", err
	}
	magic := int64(uint32(st.Type)) // sign-extended on some architectures
	if name, ok := magics[magic]; ok {
		return name, nil
	}
	return fmt.Sprintf("type %#x", magic), nil
}

// durableWrites tries what the write-ahead log does: durable writes around the page cache, over blocks that were written before.
func durableWrites(o DiskOptions) []Finding {
	f := Finding{Subject: "direct I/O", Text: "yes"}
	name := filepath.Join(o.Dir, ".probe")
	var took []time.Duration
	file, err := o.FS.OpenFile(name, vfs.Create|vfs.Direct|vfs.DSync)
	if err == nil {
		took, err = timedWrites(file)
		if cerr := file.Close(); err == nil {
			err = cerr
		}
	}
	// Left behind by the failed attempt as well: O_DIRECT is refused after the file was created.
	if rerr := o.FS.Remove(name); err == nil {
		err = rerr
	}
	switch {
	case errors.Is(err, vfs.ErrNoDirect):
		f.Text, f.Advice = "no", "use ext4 or xfs on a local disk: without O_DIRECT every durable write costs more and has no bounded time"
		return []Finding{f}
	case err != nil:
		f.Text, f.Advice = "unknown: "+err.Error(), "check that the data directory can be written to"
		return []Finding{f}
	}
	return []Finding{f, flushFinding(took)}
}

const (
	probeBytes  = 4096
	probeWrites = 5
	slowFlush   = 10 * time.Millisecond
)

// timedWrites measures durable writes to the same block.
func timedWrites(file vfs.File) ([]time.Duration, error) {
	room := make([]byte, 2*probeBytes)
	skip := (probeBytes - int(uintptr(unsafe.Pointer(&room[0]))%probeBytes)) % probeBytes // O_DIRECT wants it aligned
	block := room[skip : skip+probeBytes]
	if _, err := file.WriteAt(block, 0); err != nil { // the first one makes the block, and is not counted
		return nil, err
	}
	took := make([]time.Duration, probeWrites)
	for i := range took {
		begun := time.Now()
		if _, err := file.WriteAt(block, 0); err != nil {
			return nil, err
		}
		took[i] = time.Since(begun)
	}
	return took, nil
}

func flushFinding(took []time.Duration) Finding {
	slices.Sort(took)
	median, longest := took[len(took)/2], took[len(took)-1]
	f := Finding{Subject: "durable write", Text: fmt.Sprintf("of 4 KiB: %s, the longest %s, of %d", rounded(median), rounded(longest), len(took))}
	if median >= slowFlush {
		f.Advice = "use a disk with power loss protection, or one that is not shared: a producer that waits for each record gets about " +
			fmt.Sprint(int(time.Second/median)) + " per second"
	}
	return f
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func freeSpace(o DiskOptions) Finding {
	f := Finding{Subject: "free space"}
	s, err := o.FS.Space(o.Dir)
	if err != nil {
		f.Text = "unknown: " + err.Error()
		return f
	}
	f.Text = fmt.Sprintf("%s of %s", bytes(s.Available), bytes(s.Total))
	if s.Available < minFree {
		f.Advice = "make room, or set log.retention.bytes: when the disk is full, producing stops"
	}
	return f
}
