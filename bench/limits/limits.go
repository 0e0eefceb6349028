// Package limits measures what the machine itself can do: the disk, the loopback network, and sendfile. No broker that
// makes every acknowledgement durable can pass these.
package limits

import (
	"context"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"weir/bench/result"
)

const (
	block      = 4096
	chunkBytes = 1 << 20
	fileBytes  = 256 << 20
)

// Measure takes every limit for d, in a file below dir that it removes. What cannot be measured here is reported with the
// reason in its note.
func Measure(ctx context.Context, dir string, d time.Duration) ([]result.Limit, error) {
	disk, err := newDisk(dir)
	if err != nil {
		return nil, err
	}
	defer disk.close()
	probes := []func(context.Context, time.Duration) ([]result.Limit, error){
		disk.sequential, disk.durableWrite, disk.fdatasync, loopback, sendfile(disk.path),
	}
	var all []result.Limit
	for _, probe := range probes {
		limits, err := probe(ctx, d)
		if err != nil {
			return all, err
		}
		all = append(all, limits...)
	}
	return all, ctx.Err()
}

// disk is a prewritten file: its blocks are allocated and initialised, so that a write is nothing but a write.
type disk struct {
	path   string
	buf    []byte // aligned
	direct bool   // O_DIRECT works here
}

func newDisk(dir string) (*disk, error) {
	f, err := os.CreateTemp(dir, "limits-*")
	if err != nil {
		return nil, fmt.Errorf("file for the disk's limits: %w", err)
	}
	defer f.Close()
	d := &disk{path: f.Name(), buf: aligned(chunkBytes)}
	for i := range d.buf {
		d.buf[i] = byte(i * 131)
	}
	for range fileBytes / chunkBytes {
		if _, err := f.Write(d.buf); err != nil {
			d.close()
			return nil, fmt.Errorf("prewrite %s: %w", d.path, err)
		}
	}
	if err := f.Sync(); err != nil {
		d.close()
		return nil, fmt.Errorf("prewrite %s: %w", d.path, err)
	}
	fd, err := unix.Open(d.path, unix.O_WRONLY|unix.O_DIRECT, 0)
	if err == nil {
		d.direct = true
		_ = unix.Close(fd)
	}
	return d, nil
}

func (d *disk) close() { _ = os.Remove(d.path) }

// aligned returns n bytes that begin at a multiple of the block size.
func aligned(n int) []byte {
	buf := make([]byte, n+block)
	shift := block - int(uintptr(unsafe.Pointer(&buf[0]))%block)
	return buf[shift : shift+n]
}

func (d *disk) open(flags int) (int, string, error) {
	note := "O_DSYNC"
	if d.direct {
		flags |= unix.O_DIRECT
		note += " and O_DIRECT"
	} else {
		note += "; no O_DIRECT on this file system"
	}
	fd, err := unix.Open(d.path, unix.O_WRONLY|unix.O_DSYNC|flags, 0)
	if err != nil {
		return -1, "", fmt.Errorf("open %s: %w", d.path, err)
	}
	return fd, note + ", prewritten file", nil
}

// times repeats an operation for d and returns how long each took, in microseconds.
func times(ctx context.Context, d time.Duration, op func(n int) error) (*hdrhistogram.Histogram, time.Duration, error) {
	hist := hdrhistogram.New(1, 60_000_000, 3)
	start := time.Now()
	for n := 0; time.Since(start) < d && ctx.Err() == nil; n++ {
		began := time.Now()
		if err := op(n); err != nil {
			return nil, 0, err
		}
		_ = hist.RecordValue(min(max(time.Since(began).Microseconds(), 1), 60_000_000)) // within the range
	}
	return hist, time.Since(start), nil
}

func percentiles(name, note string, hist *hdrhistogram.Histogram) []result.Limit {
	return []result.Limit{
		{Name: name + ", p50", Value: float64(hist.ValueAtQuantile(50)), Unit: "us", Note: note},
		{Name: name + ", p99", Value: float64(hist.ValueAtQuantile(99)), Unit: "us"},
	}
}

func (d *disk) sequential(ctx context.Context, limit time.Duration) ([]result.Limit, error) {
	fd, note, err := d.open(0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	hist, took, err := times(ctx, limit, func(n int) error {
		return d.write(fd, d.buf, int64(n)*chunkBytes%fileBytes)
	})
	if err != nil {
		return nil, err
	}
	rate := float64(hist.TotalCount()) * chunkBytes / 1e6 / took.Seconds()
	return []result.Limit{{Name: "disk, sequential durable writes of 1 MiB", Value: rate, Unit: "MB/s", Note: note}}, nil
}

func (d *disk) write(fd int, buf []byte, at int64) error {
	n, err := unix.Pwrite(fd, buf, at)
	if err != nil || n != len(buf) {
		return fmt.Errorf("write %d bytes at %d of %s: %d written: %w", len(buf), at, d.path, n, err)
	}
	return nil
}

func (d *disk) durableWrite(ctx context.Context, limit time.Duration) ([]result.Limit, error) {
	fd, note, err := d.open(0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	hist, _, err := times(ctx, limit, func(n int) error { return d.write(fd, d.buf[:block], int64(n)*block%fileBytes) })
	if err != nil {
		return nil, err
	}
	return percentiles("disk, one durable write of 4 KiB", note, hist), nil
}

func (d *disk) fdatasync(ctx context.Context, limit time.Duration) ([]result.Limit, error) {
	fd, err := unix.Open(d.path, unix.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", d.path, err)
	}
	defer unix.Close(fd)
	hist, _, err := times(ctx, limit, func(n int) error {
		if err := d.write(fd, d.buf[:block], int64(n)*block%fileBytes); err != nil {
			return err
		}
		if err := unix.Fdatasync(fd); err != nil {
			return fmt.Errorf("fdatasync %s: %w", d.path, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return percentiles("disk, write of 4 KiB and fdatasync", "buffered, prewritten file", hist), nil
}
