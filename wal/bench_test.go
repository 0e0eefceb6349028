package wal

import (
	"fmt"
	"testing"

	"weir/internal/vfs"
	"weir/uring"
)

// benchLog is a log on a real file system that releases everything at once.
func benchLog(b *testing.B) *WAL {
	var w *WAL
	w, err := Open(Options{FS: vfs.OS{}, Dir: b.TempDir(), LockThread: true, Ring: uring.Options{},
		OnCommit: func(group []*Entry, err error) {
			for _, e := range group {
				e.Owner.(chan error) <- err
			}
			w.Release(group[0].LSN)
		}})
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Start(); err != nil {
		b.Fatal(err)
	}
	return w
}

// BenchmarkAppend: producers that each wait for their entry before the next, as unbatched clients do.
func BenchmarkAppend(b *testing.B) {
	for _, tc := range []struct{ bytes, producers, window int }{
		{100, 1, 1}, {100, 64, 1}, {100, 64, 64}, {1 << 20, 1, 1}, {1 << 20, 4, 4},
	} {
		b.Run(fmt.Sprintf("%dB/%dproducers/%dinflight", tc.bytes, tc.producers, tc.window), func(b *testing.B) {
			w := benchLog(b)
			b.SetBytes(int64(tc.bytes))
			b.ReportAllocs()
			b.ResetTimer()
			done := make(chan error, tc.producers)
			for p := range tc.producers {
				go func() { done <- produce(w, (b.N+p)/tc.producers, tc.bytes, tc.window) }()
			}
			for range tc.producers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			s := w.Stats()
			b.ReportMetric(float64(s.Entries)/float64(max(s.Groups, 1)), "entries/group")
			b.ReportMetric(float64(s.DeviceBytes)/float64(max(s.Bytes, 1)), "device/byte")
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// produce appends n entries, window of them in flight.
func produce(w *WAL, n, bytes, window int) error {
	acks := make(chan error, window)
	es := make([]Entry, window)
	payload := body(1, bytes)[:bytes]
	for i := range es {
		es[i] = Entry{Kind: KindInline, Body: payload, Owner: acks}
	}
	for i := range n {
		if i >= window {
			if err := <-acks; err != nil {
				return err
			}
		}
		if err := w.Append(&es[i%window]); err != nil {
			return err
		}
	}
	for range min(n, window) {
		if err := <-acks; err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkStartNew(b *testing.B) {
	for b.Loop() {
		w := benchLog(b)
		b.StopTimer()
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
