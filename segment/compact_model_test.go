package segment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/internal/record"
	"weir/internal/vfs"
)

// compactModel is a log, and everything that was ever written to it.
type compactModel struct {
	t   *rapid.T
	mem *vfs.MemFS
	cfg *Config
	s   *Store
	l   *Log
	lsn uint64

	written  []rec // by offset
	sent     []record.Batch
	now      time.Time
	cleaned  map[int64]time.Time // offset of a tombstone -> the first run that had it below the first dirty offset
	last     map[int64]int64     // last offset of each producer
	sequence map[int64]int32
}

func (m *compactModel) fatal(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *compactModel) open() {
	o, _ := testOptions(m.mem)
	s, err := NewStore(o)
	m.fatal(err)
	points, err := s.LoadCheckpoint()
	m.fatal(err)
	p := points["t-0"]
	m.s = s
	m.l, err = s.Open("t-0", always(m.cfg), p.RecoveryPoint, p.LogStart)
	m.fatal(err)
	m.lsn = 1
	for _, b := range m.sent { // the WAL has everything
		if b.NextOffset() <= m.l.End() {
			continue
		}
		m.fatal(m.l.Recovered(slices.Clone(b), m.lsn))
		m.lsn++
	}
}

func (m *compactModel) close() { m.fatal(m.s.Close(context.Background())) }

func (m *compactModel) append() {
	t := m.t
	var s compactSpec
	s.codec = record.Codec(rapid.IntRange(0, 4).Draw(t, "codec"))
	at := m.now.UnixMilli() - rapid.Int64Range(0, 100_000).Draw(t, "age")
	for range rapid.IntRange(1, 6).Draw(t, "records") {
		r := rec{at: at + rapid.Int64Range(-5, 5).Draw(t, "jitter"), key: fmt.Sprintf("k%d", rapid.IntRange(0, 12).Draw(t, "key"))}
		if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
			r.value = fmt.Sprintf("v%d-%d", len(m.written)+len(s.recs), rapid.Int64Range(0, 1<<40).Draw(t, "value"))
		}
		s.recs = append(s.recs, r)
	}
	base := m.l.End()
	if s.producer = rapid.Int64Range(0, 3).Draw(t, "producer"); s.producer > 0 {
		s.sequence = m.sequence[s.producer]
		m.sequence[s.producer] += int32(len(s.recs))
		m.last[s.producer] = base + int64(len(s.recs)) - 1
	}
	for i, r := range s.recs {
		r.offset = base + int64(i)
		m.written = append(m.written, r)
	}
	b := s.build(t, base)
	m.sent = append(m.sent, slices.Clone(b))
	m.fatal(m.s.Reserve(context.Background(), len(b)))
	_, err := m.l.Append(b, nil)
	m.fatal(err)
	m.lsn++
	m.l.Commit(b.NextOffset(), m.lsn)
}

func (m *compactModel) seal() { sealLog(m.t, m.l) }

func (m *compactModel) compact() {
	o := compactOptions(m.l, m.now)
	o.MapBytes = rapid.SampledFrom([]int64{1, 1 << 16}).Draw(m.t, "map bytes")
	o.ReadBytes = rapid.SampledFrom([]int{64, 700, 1 << 16}).Draw(m.t, "read bytes")
	o.WriteBytes = rapid.SampledFrom([]int{10, 600, 1 << 16}).Draw(m.t, "write bytes")
	o.Limit = m.l.LogStart() + rapid.Int64Range(0, m.l.End()-m.l.LogStart()).Draw(m.t, "limit")
	if rapid.Bool().Draw(m.t, "all") {
		o.Limit = m.l.End()
	}
	o.Producers = func() map[int64]LastBatch {
		out := map[int64]LastBatch{}
		for id, offset := range m.last {
			out[id] = LastBatch{Offset: offset}
		}
		return out
	}
	stats, err := m.l.Compact(context.Background(), o)
	m.fatal(err)
	for _, r := range m.written {
		if _, ok := m.cleaned[r.offset]; !ok && r.value == "" && r.offset < stats.FirstDirty {
			m.cleaned[r.offset] = m.now
		}
	}
	m.check()
}

// check compares the log with what was written.
func (m *compactModel) check() {
	t, start := m.t, m.l.LogStart()
	if m.l.End() != int64(len(m.written)) {
		t.Fatalf("log ends at %d, %d records were written", m.l.End(), len(m.written))
	}
	got := records(t, m.l)
	latest := map[string]int64{}
	for _, r := range m.written[start:] {
		latest[r.key] = r.offset
	}
	have := map[int64]bool{}
	m.l.mu.Lock()
	dirty := m.l.mu.clean.dirty
	m.l.mu.Unlock()
	clean := map[string]int64{}
	for _, r := range got {
		if r != m.written[r.offset] {
			t.Fatalf("read %+v, written %+v", r, m.written[r.offset])
		}
		have[r.offset] = true
		if before, twice := clean[r.key]; twice && r.offset < dirty {
			t.Fatalf("key %s is at offset %d and %d, below the first dirty offset %d", r.key, before, r.offset, dirty)
		}
		clean[r.key] = r.offset
	}
	for _, r := range m.written[start:] {
		since, cleaned := m.cleaned[r.offset]
		switch {
		case have[r.offset]:
		case r.offset >= dirty:
			t.Fatalf("record %+v is gone, but dirty from %d on", r, dirty)
		case latest[r.key] != r.offset:
		case r.value != "":
			t.Fatalf("record %+v is the last of its key, and gone", r)
		case !cleaned || m.now.Before(since.Add(m.cfg.DeleteRetention)):
			t.Fatalf("tombstone %+v went too early: at %v, cleaned at %v", r, m.now, since)
		}
	}
	if got, want := fmt.Sprint(view(got)), fmt.Sprint(view(m.written[start:])); got != want {
		t.Fatalf("a reader sees %s, want %s", got, want)
	}
	m.checkProducers(start)
	m.checkReads(start)
}

// checkProducers makes sure that the last sequence number of each producer can be found in the log.
func (m *compactModel) checkProducers(start int64) {
	found := map[int64]int64{}
	m.fatal(m.l.Scan(start, func(b record.Batch) error {
		if b.ProducerID() > 0 {
			found[b.ProducerID()] = b.LastOffset()
			if b.LastOffset() == m.last[b.ProducerID()] && b.LastSequence() != m.sequence[b.ProducerID()]-1 {
				return fmt.Errorf("producer %d ends at sequence %d, want %d", b.ProducerID(), b.LastSequence(), m.sequence[b.ProducerID()]-1)
			}
		}
		return nil
	}))
	for id, offset := range m.last {
		if offset >= start && found[id] != offset {
			m.t.Fatalf("the last batch of producer %d ends at %d, found %d", id, offset, found[id])
		}
	}
}

// checkReads fetches from every offset on.
func (m *compactModel) checkReads(start int64) {
	for offset := start; offset < m.l.End(); {
		r, err := m.l.Read(offset, m.l.End(), 300, true)
		m.fatal(err)
		data := readRange(r)
		next := r.NextOffset()
		r.Release()
		b, _, err := record.Next(data)
		m.fatal(err)
		if b.NextOffset() <= offset || next <= offset {
			m.t.Fatalf("offset %d: got the batch %d to %d, next %d", offset, b.BaseOffset(), b.LastOffset(), next)
		}
		offset = rapid.Int64Range(offset+1, max(next, offset+1)).Draw(m.t, "next read")
	}
}

func (m *compactModel) deleteRecords() {
	to := rapid.Int64Range(m.l.LogStart(), m.l.End()).Draw(m.t, "log start")
	m.fatal(m.l.AdvanceLogStart(to))
	waitIdle(m.t, m.s)
}

func (m *compactModel) crash() {
	seed := rapid.Uint64().Draw(m.t, "crash seed")
	clone := m.mem.CrashClone(rand.New(rand.NewPCG(seed, 1)), rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(m.t, "kept"))
	m.close()
	m.mem = clone
	m.open()
	if start := m.l.LogStart(); start > 0 {
		// What lies below it is not read any more.
		for offset := range m.cleaned {
			if offset < start {
				delete(m.cleaned, offset)
			}
		}
	}
}

// A compacted log against everything that was written to it: any order of appends, rolls, runs, time, restarts, crashes and deletions.
func TestCompactModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &compactModel{
			t: t, mem: vfs.NewMem(), cfg: compactConfig(), now: compactNow,
			cleaned: map[int64]time.Time{}, last: map[int64]int64{}, sequence: map[int64]int32{},
		}
		m.cfg.SegmentBytes = rapid.SampledFrom([]int64{300, 1000, 5000}).Draw(t, "segment bytes")
		m.open()
		defer func() {
			if err := m.s.Close(context.Background()); err != nil && !errors.Is(err, ErrClosed) {
				t.Fatal(err)
			}
		}()
		appends := func(*rapid.T) {
			for range rapid.IntRange(1, 5).Draw(t, "batches") {
				m.append()
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append":  appends,
			"again":   appends,
			"seal":    func(*rapid.T) { m.seal() },
			"compact": func(*rapid.T) { m.seal(); m.compact() },
			"partial": func(*rapid.T) { m.compact() },
			"wait": func(*rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 50).Draw(t, "minutes")) * time.Minute)
			},
			"restart": func(*rapid.T) { m.close(); m.open() },
			"crash":   func(*rapid.T) { m.crash() },
			"delete":  func(*rapid.T) { m.deleteRecords() },
			"":        func(*rapid.T) { m.check() },
		})
	})
}
