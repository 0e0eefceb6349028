package uring

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"weir/internal/vfs"
)

// cpuTime is the processor time of this process so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWrite measures a ring's own cost (null: /dev/null takes everything at once) and durable writes into a prewritten
// file (direct), at different depths.
func BenchmarkWrite(b *testing.B) {
	for _, v := range variants {
		for _, w := range []struct {
			name  string
			bytes int
			depth int
		}{{"null", 4096, 1}, {"null", 4096, 8}, {"direct", 4096, 1}, {"direct", 65536, 8}} {
			b.Run(fmt.Sprintf("%s/%s/%dKiB/depth%d", v.name, w.name, w.bytes>>10, w.depth), func(b *testing.B) {
				if v.opt.Locked {
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
				}
				o := v.opt
				o.StallAfter = -1
				r, err := New(o)
				if err != nil {
					b.Skip(err)
				}
				benchWrites(b, r, benchFile(b, w.name, w.bytes*w.depth), w.bytes, w.depth)
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

func benchFile(b *testing.B, kind string, bytes int) vfs.File {
	if kind == "null" {
		return benchOpen(b, "/dev/null", 0)
	}
	name := b.TempDir() + "/file"
	f := benchOpen(b, name, vfs.Create)
	if _, err := f.WriteAt(make([]byte, bytes), 0); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return benchOpen(b, name, vfs.Direct|vfs.DSync)
}

func benchOpen(b *testing.B, name string, flag vfs.Flag) vfs.File {
	f, err := vfs.OS{}.OpenFile(name, flag)
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return f
}

func benchWrites(b *testing.B, r Ring, f vfs.File, bytes, depth int) {
	mem, err := syscall.Mmap(-1, 0, bytes*depth, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(mem) }()
	left := b.N
	again := func(op *Op) {
		if left > 0 {
			left--
			if err := r.Push(op); err != nil {
				b.Error(err)
			}
		}
	}
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	for i := range depth {
		again(&Op{Kind: OpWrite, File: f, Buf: mem[i*bytes : (i+1)*bytes], Off: int64(i * bytes), Timeout: time.Minute, Released: again,
			Done: func(_ *Op, _ int, err error) {
				if err != nil {
					b.Error(err)
				}
			}})
	}
	for r.InFlight() > 0 {
		if err := r.Wait(true); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkEngine measures the way through an Engine: hand over, wake, wait.
func BenchmarkEngine(b *testing.B) {
	for _, v := range variants {
		if v.opt.Locked {
			continue
		}
		for _, goroutines := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/null/%d", v.name, goroutines), func(b *testing.B) {
				e, err := NewEngine(v.opt)
				if err != nil {
					b.Skip(err)
				}
				f := benchOpen(b, "/dev/null", 0)
				b.ReportAllocs()
				before := cpuTime(b)
				b.SetParallelism(max(1, goroutines/runtime.GOMAXPROCS(0)))
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					buf := make([]byte, 512)
					for pb.Next() {
						if _, err := e.Do(&Op{Kind: OpWrite, File: f, Buf: buf, Timeout: time.Minute}); err != nil {
							b.Error(err)
						}
					}
				})
				b.StopTimer()
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
