package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/uring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testDir = "/data"

// events records what a store reports.
type events struct {
	mu      sync.Mutex
	flushed []uint64
	errs    []error
	errDirs []string
	errCh   chan error
}

func (e *events) lastFlushed() (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.flushed) == 0 {
		return 0, false
	}
	return e.flushed[len(e.flushed)-1], true
}

func testOptions(fs vfs.FS) (StoreOptions, *events) {
	ev := &events{errCh: make(chan error, 100)}
	return StoreOptions{
		FS: fs, Dir: testDir, Engine: uring.Options{Backend: uring.BackendPortable},
		FlushAge: time.Hour, IOTimeout: 10 * time.Second,
		OnFlushed: func(lsn uint64, _ bool) {
			ev.mu.Lock()
			ev.flushed = append(ev.flushed, lsn)
			ev.mu.Unlock()
		},
		OnError: func(dir string, err error) {
			ev.mu.Lock()
			ev.errs, ev.errDirs = append(ev.errs, err), append(ev.errDirs, dir)
			ev.mu.Unlock()
			select {
			case ev.errCh <- err:
			default:
			}
		},
	}, ev
}

// openStore makes a store that is closed at the end of the test, unless the test has closed it.
func openStore(t testing.TB, o StoreOptions) *Store {
	t.Helper()
	s, err := NewStore(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := s.Close(ctx)
	if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFailed) && !errors.Is(err, ErrNoSpace) {
		t.Errorf("Close: %v", err)
	}
}

func defaultConfig() *Config {
	return &Config{SegmentBytes: 1 << 30, RetentionBytes: -1, RetentionAge: -1, IndexIntervalBytes: 4096, Delete: true}
}

func always(c *Config) func() *Config { return func() *Config { return c } }

func openLog(t testing.TB, s *Store, dir string, c *Config) *Log {
	t.Helper()
	points, err := s.LoadCheckpoint()
	if err != nil {
		t.Fatal(err)
	}
	p := points[dir]
	l, err := s.Open(dir, always(c), p.RecoveryPoint, p.LogStart)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// makeBatch builds a batch of n records of size bytes at offset, with timestamps from ts on.
func makeBatch(t testing.TB, offset int64, n, size int, ts int64) record.Batch {
	t.Helper()
	return makeCodecBatch(t, record.None, offset, n, size, ts)
}

func makeCodecBatch(t testing.TB, codec record.Codec, offset int64, n, size int, ts int64) record.Batch {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(offset), 7))
	recs := make([]record.Record, n)
	for i := range recs {
		v := make([]byte, size)
		for j := range v {
			v[j] = byte(rng.Uint32())
		}
		recs[i] = record.Record{Timestamp: ts + int64(i), Key: fmt.Appendf(nil, "k%d", offset+int64(i)), Value: v}
	}
	spec := record.NewSpec()
	spec.BaseOffset, spec.Codec = offset, codec
	b, err := record.Build(spec, recs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// writer appends and commits as the replica and the WAL would, and keeps what it wrote.
type writer struct {
	t    testing.TB
	l    *Log
	lsn  uint64
	want []byte // all bytes appended since start
	ends []int64
	offs []int64 // next offsets, parallel to ends
}

func newWriter(t testing.TB, l *Log) *writer { return &writer{t: t, l: l, lsn: 1000} }

func (w *writer) add(n, size int, ts int64) record.Batch {
	w.t.Helper()
	b := makeBatch(w.t, w.l.End(), n, size, ts)
	w.append(b)
	return b
}

func (w *writer) append(b record.Batch) {
	w.t.Helper()
	if err := w.l.s.Reserve(context.Background(), len(b)); err != nil {
		w.t.Fatal(err)
	}
	got, err := w.l.Append(b, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		w.t.Fatal("Append returned other bytes")
	}
	w.want = append(w.want, b...)
	w.ends = append(w.ends, int64(len(w.want)))
	w.offs = append(w.offs, b.NextOffset())
	w.lsn += uint64(len(b))
	w.l.Commit(b.NextOffset(), w.lsn)
}

func flushAll(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.FlushAll(ctx); err != nil {
		t.Fatal(err)
	}
}

// readRange copies a range's bytes.
func readRange(r *Range) []byte {
	var out []byte
	for _, b := range r.Buffers() {
		out = append(out, b...)
	}
	return out
}

// readAll reads the log with Read from offset to limit, at most max bytes at a time.
func readAll(t testing.TB, l *Log, offset, limit int64, maxBytes int) []byte {
	t.Helper()
	var out []byte
	for offset < limit {
		r, err := l.Read(offset, limit, maxBytes, true)
		if err != nil {
			t.Fatal(err)
		}
		data := readRange(r)
		if len(data) != r.Size() {
			t.Fatalf("Size %d, buffers have %d bytes", r.Size(), len(data))
		}
		if r.Size() == 0 || r.NextOffset() <= offset {
			t.Fatalf("no progress at offset %d: size %d, next %d", offset, r.Size(), r.NextOffset())
		}
		checkRange(t, r, data)
		out = append(out, data...)
		offset = r.NextOffset()
		r.Release()
	}
	return out
}

// checkRange makes sure that a range holds whole valid batches from FirstOffset to NextOffset.
func checkRange(t testing.TB, r *Range, data []byte) {
	t.Helper()
	next := r.FirstOffset()
	for len(data) > 0 {
		b, rest, err := record.Next(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		if b.BaseOffset() != next {
			t.Fatalf("batch at offset %d, want %d", b.BaseOffset(), next)
		}
		next, data = b.NextOffset(), rest
	}
	if next != r.NextOffset() {
		t.Fatalf("NextOffset %d, batches end at %d", r.NextOffset(), next)
	}
}
