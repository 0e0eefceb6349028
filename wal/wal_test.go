package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"weir/uring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a log under test with a record of all that it reported.
type rig struct {
	t  testing.TB
	w  *WAL
	mu struct {
		sync.Mutex
		cond     sync.Cond
		acked    [][]byte // bodies, in order
		lsns     []LSN
		failed   []error
		failedBy []*Entry
		poisons  []error
		pressure []LSN
	}
	appended int
}

// tinyOptions is a log of files of 64 KiB in the directory "d" of fsys.
func tinyOptions() Options {
	return Options{Dir: "d", FileBytes: 64 << 10, FilesMax: 4, GroupBytesMax: 16 << 10,
		Ring: uring.Options{Backend: uring.BackendPortable, Threads: depthMax}}
}

func newRig(t testing.TB, o Options) *rig {
	r := &rig{t: t}
	r.mu.cond.L = &r.mu
	o.OnCommit = r.onCommit
	o.OnPoison = func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.poisons = append(r.mu.poisons, err)
	}
	o.OnPressure = func(oldest LSN) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.pressure = append(r.mu.pressure, oldest)
		r.mu.cond.Broadcast()
	}
	w, err := Open(o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	r.w = w
	return r
}

func (r *rig) onCommit(group []*Entry, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range group {
		if err != nil {
			r.mu.failed = append(r.mu.failed, err)
			r.mu.failedBy = append(r.mu.failedBy, e)
			continue
		}
		if n := len(r.mu.lsns); n > 0 && e.LSN <= r.mu.lsns[n-1] {
			r.t.Errorf("LSN %d after %d", e.LSN, r.mu.lsns[n-1])
		}
		r.mu.acked = append(r.mu.acked, bytes.Clone(e.Body))
		r.mu.lsns = append(r.mu.lsns, e.LSN)
	}
	r.mu.cond.Broadcast()
}

// start replays and starts, and returns the bodies that were recovered.
func (r *rig) start() [][]byte {
	r.t.Helper()
	got, err := replay(r.w)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.w.Start(); err != nil {
		r.t.Fatal(err)
	}
	return got
}

func replay(w *WAL) (bodies [][]byte, err error) {
	last := LSN(0)
	err = w.Replay(func(lsn LSN, kind Kind, head, body []byte) error {
		if lsn <= last {
			return fmt.Errorf("LSN %d after %d", lsn, last)
		}
		last = lsn
		bodies = append(bodies, bytes.Clone(body))
		return nil
	})
	return bodies, err
}

func (r *rig) append(body []byte) {
	r.t.Helper()
	if err := r.w.Append(&Entry{Kind: KindInline, Head: []byte("head"), Body: body}); err != nil {
		r.t.Fatalf("Append: %v", err)
	}
	r.appended++
}

// settled waits until n entries were reported, acknowledged or failed.
func (r *rig) settled(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.mu.acked)+len(r.mu.failed) < n {
		r.mu.cond.Wait()
	}
}

// commit appends one entry and waits for it: a group of its own.
func (r *rig) commit(body []byte) {
	r.t.Helper()
	r.append(body)
	r.settled(r.appended)
}

func (r *rig) close() {
	r.t.Helper()
	if err := r.w.Close(); err != nil {
		r.t.Fatalf("Close: %v", err)
	}
}

// body returns n bytes that depend on i and begin with it.
func body(i, n int) []byte {
	b := make([]byte, max(n, 8))
	for k := range b {
		b[k] = byte(i*31 + k*7 + 1)
	}
	binary.BigEndian.PutUint64(b, uint64(i))
	return b
}

func sameBodies(t testing.TB, what string, got, want [][]byte) {
	t.Helper()
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("%s: got %d entries, want %d; first difference at %d", what, len(got), len(want), firstDifference(got, want))
	}
}

func firstDifference(a, b [][]byte) int {
	for i := range min(len(a), len(b)) {
		if !bytes.Equal(a[i], b[i]) {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestCommitAndRecoverOverRestarts(t *testing.T) {
	fs := newImage()
	var want [][]byte
	for life := range 5 {
		o := tinyOptions()
		o.FS = fs
		r := newRig(t, o)
		sameBodies(t, fmt.Sprintf("life %d", life), r.start(), want)
		for i := range 20 {
			b := body(life*100+i, 10+i*37)
			want = append(want, b)
			if i%3 == 0 {
				r.commit(b)
			} else {
				r.append(b)
			}
		}
		r.close()
		sameBodies(t, "acknowledged", r.mu.acked, want[len(want)-20:])
		if got, want := r.w.Durable(), r.w.End(); got != want {
			t.Fatalf("durable %d, end %d after Close", got, want)
		}
		if life >= 1 { // each life takes a file
			want = dropFiles(t, fs, want)
		}
	}
}

// dropFiles reopens the log, releases everything, commits one entry so that the release is recorded, and returns what is left.
func dropFiles(t *testing.T, fs *imageFS, want [][]byte) [][]byte {
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	sameBodies(t, "before release", r.start(), want)
	r.w.Release(r.w.Durable())
	r.commit(body(9999, 8))
	r.w.Release(r.w.Durable())
	r.close()
	r = newRig(t, o)
	got := r.start()
	if !bytes.Equal(got[len(got)-1], body(9999, 8)) {
		t.Fatalf("last entry is lost after release")
	}
	r.close()
	return got
}

func TestEntryFields(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	x := External{TopicID: [16]byte{1, 2}, Partition: 3, BaseOffset: 10, NextOffset: 12, SegmentBase: 5, Position: 77, Length: 9, CRC: 42}
	es := []*Entry{
		{Kind: KindInline, Head: nil, Body: nil},
		{Kind: KindInline, Head: bytes.Repeat([]byte{7}, HeadBytesMax), Body: []byte("b")},
		{Kind: KindExternal, Head: []byte("h"), Body: x.AppendTo(nil)},
	}
	if err := r.w.AppendBatch(es); err != nil {
		t.Fatal(err)
	}
	r.close()
	w := newRig(t, o).w
	i := 0
	err := w.Replay(func(lsn LSN, kind Kind, head, body []byte) error {
		e := es[i]
		if lsn != e.LSN || kind != e.Kind || !bytes.Equal(head, e.Head) || !bytes.Equal(body, e.Body) {
			t.Errorf("entry %d: got %d %d %x %x, want %d %d %x %x", i, lsn, kind, head, body, e.LSN, e.Kind, e.Head, e.Body)
		}
		i++
		return nil
	})
	if err != nil || i != len(es) {
		t.Fatalf("replayed %d entries, %v; want %d", i, err, len(es))
	}
	if got, err := ParseExternal(es[2].Body); err != nil || got != x {
		t.Fatalf("external: got %+v, %v; want %+v", got, err, x)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAppendRefuses(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	if err := r.w.Append(&Entry{Kind: KindInline}); !errors.Is(err, ErrClosed) {
		t.Errorf("before Start: %v, want %v", err, ErrClosed)
	}
	r.start()
	for _, tc := range []struct {
		name string
		e    Entry
		want error
	}{
		{"long head", Entry{Kind: KindInline, Head: make([]byte, HeadBytesMax+1)}, ErrTooLarge},
		{"long body", Entry{Kind: KindInline, Body: make([]byte, 64<<10)}, ErrTooLarge},
		{"one byte too long", Entry{Kind: KindInline, Body: make([]byte, 64<<10-2*blockBytes-frameBytes+1)}, ErrTooLarge},
		{"no kind", Entry{}, ErrKind},
		{"group kind", Entry{Kind: kindGroup}, ErrKind},
		{"bad external", Entry{Kind: KindExternal, Body: []byte("x")}, ErrKind},
	} {
		if err := r.w.Append(&tc.e); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	biggest := body(1, 64<<10-2*blockBytes-frameBytes-len("head"))
	r.commit(biggest)
	r.commit(biggest)
	r.close()
	if err := r.w.Append(&Entry{Kind: KindInline}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v, want %v", err, ErrClosed)
	}
	r = newRig(t, o)
	sameBodies(t, "biggest entries", r.start(), [][]byte{biggest, biggest})
	r.close()
}

func TestRecyclingUnderLoad(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	var released LSN
	for i := range 2000 {
		r.append(body(i, 700))
		if i%50 == 49 {
			r.settled(i + 1)
			// Keep the last 60 entries.
			r.mu.Lock()
			if n := len(r.mu.lsns); n > 60 {
				released = r.mu.lsns[n-60]
			}
			r.mu.Unlock()
			r.w.Release(released)
		}
	}
	r.close()
	if s := r.w.Stats(); s.Entries != 2000 {
		t.Errorf("stats count %d entries, want 2000", s.Entries)
	}
	if slots := len(fs.files) - 1; slots > o.FilesMax { // one is the proof file
		t.Fatalf("%d slots, want at most %d", slots, o.FilesMax)
	}
	r2 := newRig(t, o)
	got := r2.start()
	if len(got) < 60 {
		t.Fatalf("recovered %d entries, want at least the 60 that were not released", len(got))
	}
	sameBodies(t, "after recycling", got, r.mu.acked[2000-len(got):])
	r2.close()
}

func TestBlocksWithoutFreeFileAndGoesOn(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS, o.FilesMax = fs, 2
	r := newRig(t, o)
	r.start()
	for i := range 12 { // a file takes 5 groups of 12 KiB
		r.append(body(i, 12<<10-100))
	}
	r.mu.Lock()
	for len(r.mu.pressure) == 0 || len(r.mu.acked) < 10 {
		r.mu.cond.Wait()
	}
	oldest := r.mu.pressure[len(r.mu.pressure)-1]
	r.mu.Unlock()
	if want := LSN(2 * 64 << 10); oldest != want {
		t.Fatalf("pressure up to LSN %d, want the end of the first file, %d", oldest, want)
	}
	r.w.Release(oldest)
	r.settled(12)
	if len(r.mu.failed) > 0 {
		t.Fatalf("failed: %v", r.mu.failed)
	}
	r.close()
}

func TestCloseFailsWhatNoFileIsFreeFor(t *testing.T) {
	o := tinyOptions()
	o.FS, o.FilesMax = newImage(), 2
	r := newRig(t, o)
	r.start()
	for i := range 12 {
		r.append(body(i, 12<<10-100))
	}
	r.close()
	r.settled(12)
	if len(r.mu.acked) != 10 || len(r.mu.failed) == 0 || !errors.Is(r.mu.failed[0], ErrClosed) {
		t.Fatalf("acknowledged %d, failed %v; want 10 acknowledged and 2 failed with %v", len(r.mu.acked), r.mu.failed, ErrClosed)
	}
}

func TestInspectShowsEverything(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	for i := range 9 {
		r.commit(body(i, 12<<10))
	}
	r.close()
	count := map[ItemType]int{}
	err := Inspect(fs, "d", func(it Item) error {
		count[it.Type]++
		if it.Type == ItemEntry && !bytes.Equal(it.Body, body(count[ItemEntry]-1, 12<<10)) {
			t.Errorf("entry %d differs", count[ItemEntry])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count[ItemEntry] != 9 || count[ItemGroup] != 10 || count[ItemFile] < 2 || count[ItemEnd] != 1 {
		t.Fatalf("items: %v, want 9 entries, 10 groups (one closes the log), 2 files or more, 1 end", count)
	}
	if err := Inspect(fs, "d", func(Item) error { return io.ErrUnexpectedEOF }); err != io.ErrUnexpectedEOF {
		t.Fatalf("error of fn: %v", err)
	}
}
