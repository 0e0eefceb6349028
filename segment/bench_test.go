package segment

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/uring"
)

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, err := NewStore(StoreOptions{FS: vfs.OS{}, Dir: b.TempDir(), Engine: uring.Options{}, FlushAge: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeStore(b, s) })
	return s
}

// BenchmarkAppend is an append with its share of commit and flush to a real file.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := benchStore(b)
			l := openLog(b, s, "t-0", defaultConfig())
			batch := makeBatch(b, 0, 1, size, 0)
			src := iobuf.Get(len(batch))
			copy(src.Bytes(), batch)
			batch = record.Batch(src.Bytes())
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			ctx := context.Background()
			next := int64(0)
			for b.Loop() {
				if err := s.Reserve(ctx, len(batch)); err != nil {
					b.Fatal(err)
				}
				batch.SetBaseOffset(next)
				if size >= keepBytes { // a buffer of its own, as each request has
					own := iobuf.Get(len(batch))
					copy(own.Bytes(), batch)
					if _, err := l.Append(own.Bytes(), own); err != nil {
						b.Fatal(err)
					}
					own.Release()
				} else if _, err := l.Append(batch, nil); err != nil {
					b.Fatal(err)
				}
				next++
				l.Commit(next, uint64(next))
			}
			src.Release()
		})
	}
}

var sink int

func BenchmarkReadTail(b *testing.B) { benchRead(b, false) }

func BenchmarkReadFile(b *testing.B) { benchRead(b, true) }

func benchRead(b *testing.B, flush bool) {
	for _, maxBytes := range []int{1, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(maxBytes), func(b *testing.B) {
			s := benchStore(b)
			s.flusher.s.opt.FlushBytes = 1 << 30
			l := openLog(b, s, "t-0", defaultConfig())
			w := newWriter(b, l)
			for range 4000 {
				w.add(1, 4000, 0)
			}
			if flush {
				flushAll(b, s)
			}
			b.ReportAllocs()
			var bytes, offset int64
			for b.Loop() {
				r, err := l.Read(offset, l.End(), maxBytes, true)
				if err != nil {
					b.Fatal(err)
				}
				bytes += int64(r.Size())
				offset = r.NextOffset()
				sink += len(r.Buffers())
				r.Release()
				if offset == l.End() {
					offset = 0
				}
			}
			b.SetBytes(bytes / int64(b.N))
		})
	}
}

// BenchmarkIdleLogs shows what a log costs that has been opened, and one that holds a small unflushed batch.
func BenchmarkOpen(b *testing.B) {
	s := benchStore(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := s.Open(fmt.Sprintf("t-%d", i), always(defaultConfig()), 0, 0); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
