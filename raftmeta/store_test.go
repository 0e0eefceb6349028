package raftmeta

import (
	"fmt"
	"math"
	"testing"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
	"weir/uring"
)

func testStore(t *testing.T, fs vfs.FS, dir string) *store {
	t.Helper()
	return storeCovered(t, fs, dir, math.MaxUint64)
}

// storeCovered has a snapshot up to covered.
func storeCovered(t *testing.T, fs vfs.FS, dir string, covered uint64) *store {
	t.Helper()
	o := Options{FS: fs, Dir: dir, FileBytes: 64 << 10, FilesMax: 8}
	o.setDefaults()
	m := &Meta{o: o, grown: make(chan struct{}, 1), failed: make(chan struct{}), gate: newGate(1, 1)}
	m.trans = newTransport(&m.o, m.ClusterID)
	so := m.storeOptions()
	so.wal.Ring = uring.Options{Backend: uring.BackendPortable}
	so.covered = func() uint64 { return covered }
	s, err := openStore(so)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func reopenStore(t *testing.T, s *store, dir string) *store {
	t.Helper()
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	return testStore(t, vfs.OS{}, dir)
}

func entryOf(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(fmt.Sprintf("%d/%d", index, term))}
}

func storeRange(t *testing.T, s *store, from, to, term uint64) {
	t.Helper()
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, entryOf(i, term))
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// wantLog checks that the log holds exactly [first, last], with the terms given.
func wantLog(t *testing.T, s *store, first, last uint64, term func(uint64) uint64) {
	t.Helper()
	f, _ := s.FirstIndex()
	l, _ := s.LastIndex()
	if f != first || l != last {
		t.Fatalf("log is %d to %d, want %d to %d", f, l, first, last)
	}
	for i := first; i <= last && i > 0; i++ {
		var got raft.Log
		if err := s.GetLog(i, &got); err != nil || got.Index != i || got.Term != term(i) || string(got.Data) != string(entryOf(i, term(i)).Data) {
			t.Fatalf("entry %d: %+v, %v", i, got, err)
		}
	}
	var none raft.Log
	for _, i := range []uint64{0, first - 1, last + 1} {
		if err := s.GetLog(i, &none); err != raft.ErrLogNotFound {
			t.Fatalf("entry %d outside of the log: %v", i, err)
		}
	}
}

func TestStoreSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, vfs.OS{}, dir)
	one := func(uint64) uint64 { return 1 }
	mixed := func(i uint64) uint64 {
		if i > 6 {
			return 2
		}
		return 1
	}
	steps := []struct {
		name        string
		do          func() error
		first, last uint64
		term        func(uint64) uint64
	}{
		{"empty", func() error { return nil }, 0, 0, one},
		{"store", func() error { storeRange(t, s, 1, 10, 1); return nil }, 1, 10, one},
		{"delete suffix", func() error { return s.DeleteRange(7, 10) }, 1, 6, one},
		{"store over it", func() error { storeRange(t, s, 7, 9, 2); return nil }, 1, 9, mixed},
		{"delete prefix", func() error { return s.DeleteRange(1, 4) }, 4, 9, mixed},
		{"delete what is gone", func() error { return s.DeleteRange(1, 4) }, 4, 9, mixed},
		{"delete all", func() error { return s.DeleteRange(4, 9) }, 0, 0, one},
		{"store behind a gap", func() error { storeRange(t, s, 20, 22, 1); return nil }, 20, 22, one},
	}
	for _, st := range steps {
		if err := st.do(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		wantLog(t, s, st.first, st.last, st.term)
		s = reopenStore(t, s, dir)
		wantLog(t, s, st.first, st.last, st.term)
	}
	if err := s.StoreLog(entryOf(24, 1)); err == nil {
		t.Fatal("an entry behind a gap was stored")
	}
	if err := s.DeleteRange(21, 21); err == nil {
		t.Fatal("an entry was deleted from the middle")
	}
	if got := s.prefixDeleted(); got != 9 {
		t.Fatalf("prefix deleted up to %d, want 9", got)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// TestStableValuesOutliveRecycling writes a term once and then several times as much log as the files hold, shortening it
// as it goes: the term's first record is long overwritten.
func TestStableValuesOutliveRecycling(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, vfs.OS{}, dir)
	if err := s.SetUint64([]byte(keyCurrentTerm), 7); err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]byte("LastVoteCand"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	const blocks = 3 * 8 * 64 << 10 / 4096
	for i := uint64(1); i <= blocks; i++ {
		storeRange(t, s, i, i, 7)
		if i%16 == 0 {
			if err := s.DeleteRange(1, i-2); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = reopenStore(t, s, dir)
	if term, err := s.GetUint64([]byte(keyCurrentTerm)); err != nil || term != 7 {
		t.Fatalf("term %d, %v", term, err)
	}
	if v, _ := s.Get([]byte("LastVoteCand")); string(v) != "1" {
		t.Fatalf("vote %q", v)
	}
	wantLog(t, s, blocks-2, blocks, func(uint64) uint64 { return 7 })
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// TestVoteIsOneRecord: raft stores a vote in two steps. The first alone is nothing, and nothing is between.
func TestVoteIsOneRecord(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, vfs.OS{}, dir)
	want := func(term uint64, candidate string) {
		t.Helper()
		got, err := s.GetUint64([]byte(keyLastVoteTerm))
		if v, _ := s.Get([]byte(keyLastVoteCand)); err != nil || got != term || string(v) != candidate {
			t.Fatalf("vote for %q in term %d, %v, want %q in %d", v, got, err, candidate, term)
		}
	}
	want(0, "")
	for term := uint64(1); term < 4; term++ { // the same candidate again and again
		if err := s.SetUint64([]byte(keyLastVoteTerm), term); err != nil {
			t.Fatal(err)
		}
		if before := s.wal.Stats().Entries; before != term-1 {
			t.Fatalf("%d records, want %d", before, term-1)
		}
		if err := s.Set([]byte(keyLastVoteCand), []byte("a:1")); err != nil {
			t.Fatal(err)
		}
		want(term, "a:1")
	}
	if err := s.SetUint64([]byte(keyLastVoteTerm), 9); err != nil {
		t.Fatal(err)
	}
	want(3, "a:1")
	s = reopenStore(t, s, dir)
	want(3, "a:1")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// TestVoteOfAnOlderRelease: it was stored as raft's two values.
func TestVoteOfAnOlderRelease(t *testing.T) {
	s := testStore(t, vfs.OS{}, t.TempDir())
	defer s.close() //nolint:errcheck // no matter here
	s.remember(keyLastVoteTerm, []byte{0, 0, 0, 0, 0, 0, 0, 7}, 1)
	s.remember(keyLastVoteCand, []byte("b:1"), 2)
	if term, err := s.GetUint64([]byte(keyLastVoteTerm)); err != nil || term != 7 {
		t.Fatalf("term %d, %v", term, err)
	}
	if v, _ := s.Get([]byte(keyLastVoteCand)); string(v) != "b:1" {
		t.Fatalf("candidate %q", v)
	}
}

func TestEqualStableValueIsNotWritten(t *testing.T) {
	s := testStore(t, vfs.OS{}, t.TempDir())
	defer s.close() //nolint:errcheck // no matter here
	for range 2 {
		if err := s.SetUint64([]byte(keyCurrentTerm), 3); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.wal.Stats().Entries; n != 1 {
		t.Fatalf("%d records, want 1", n)
	}
}
