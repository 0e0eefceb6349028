package segment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
)

// fataler is what testing.TB and rapid.T have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// rec is a record as the tests write and read it.
type rec struct {
	offset, at int64
	key, value string // value "": a tombstone
}

func compactConfig() *Config {
	c := defaultConfig()
	c.Delete, c.Compact, c.SegmentBytes, c.IndexIntervalBytes = false, true, 2000, 512
	c.DeleteRetention, c.MaxCompactionLag, c.MinDirtyRatio = time.Hour, 1<<63-1, 0.5
	return c
}

func compactOptions(l *Log, now time.Time) CompactOptions {
	return CompactOptions{
		Limit: l.End(), Now: now, MapBytes: 1 << 16, MapLoad: 0.9, ReadBytes: 700, WriteBytes: 600,
		Throttle: func(ctx context.Context, _ int) error { return ctx.Err() },
	}
}

// compactSpec is a batch to be.
type compactSpec struct {
	codec    record.Codec
	producer int64 // 0: none
	epoch    int16
	sequence int32
	flags    int16
	recs     []rec
}

func (s compactSpec) build(t fataler, base int64) record.Batch {
	t.Helper()
	spec := record.NewSpec()
	spec.BaseOffset, spec.Codec, spec.Attributes = base, s.codec, s.flags
	if s.producer > 0 {
		spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = s.producer, s.epoch, s.sequence
	}
	var recs []record.Record
	for _, r := range s.recs {
		out := record.Record{Timestamp: r.at, Key: []byte(r.key)}
		if r.value != "" {
			out.Value = []byte(r.value)
		}
		recs = append(recs, out)
	}
	b, err := record.Build(spec, recs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put appends a batch of records key=value; "key=" is a tombstone.
func (w *writer) put(at int64, pairs ...string) record.Batch {
	w.t.Helper()
	return w.putSpec(compactSpec{recs: parsePairs(at, pairs)})
}

func parsePairs(at int64, pairs []string) []rec {
	var recs []rec
	for _, p := range pairs {
		key, value, _ := strings.Cut(p, "=")
		recs = append(recs, rec{at: at, key: key, value: value})
	}
	return recs
}

func (w *writer) putSpec(s compactSpec) record.Batch {
	w.t.Helper()
	b := s.build(w.t, w.l.End())
	w.append(b)
	return b
}

// seal makes the next append begin a new segment, and puts everything before it into files.
func (w *writer) seal() {
	w.t.Helper()
	sealLog(w.t, w.l)
}

func sealLog(t fataler, l *Log) {
	t.Helper()
	l.mu.Lock()
	if g := l.activeLocked(); g.size > 0 {
		l.sealActiveLocked(g)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.s.FlushAll(ctx); err != nil {
		t.Fatal(err)
	}
	waitIdle(t, l.s)
}

// waitIdle waits for the store's background work.
func waitIdle(t fataler, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.waitBackground(ctx); err != nil {
		t.Fatal(err)
	}
}

// records reads all records from the log start on.
func records(t fataler, l *Log) []rec {
	t.Helper()
	var out []rec
	start := l.LogStart()
	next := int64(0)
	err := l.ReadAll(start, func(b record.Batch) error {
		if b.BaseOffset() < next {
			return fmt.Errorf("batch at offset %d, want at least %d", b.BaseOffset(), next)
		}
		next = b.NextOffset()
		if b.IsControl() {
			return nil
		}
		return b.Each(func(r *record.Record) bool {
			if r.Offset >= start {
				out = append(out, rec{offset: r.Offset, at: r.Timestamp, key: string(r.Key), value: string(r.Value)})
			}
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// shown is records as "offset:key=value".
func shown(recs []rec) string {
	var b strings.Builder
	for i, r := range recs {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d:%s=%s", r.offset, r.key, r.value)
	}
	return b.String()
}

// view is what a reader makes of the records: the last value of each key.
func view(recs []rec) map[string]string {
	m := map[string]string{}
	for _, r := range recs {
		if r.value == "" {
			delete(m, r.key)
		} else {
			m[r.key] = r.value
		}
	}
	return m
}

func mustCompact(t fataler, l *Log, o CompactOptions) CompactStats {
	t.Helper()
	stats, err := l.Compact(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

var compactNow = time.UnixMilli(1_000_000_000)

func TestCompactKeepsTheLastOfEachKey(t *testing.T) {
	for _, codec := range []record.Codec{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			o, _ := testOptions(vfs.NewMem())
			s := openStore(t, o)
			l := openLog(t, s, "t-0", compactConfig())
			w := newWriter(t, l)
			put := func(pairs ...string) { w.putSpec(compactSpec{codec: codec, recs: parsePairs(5, pairs)}) }
			put("a=1", "b=1", "c=1")
			put("a=2", "d=1")
			w.seal()
			put("b=2", "a=3")
			w.seal()
			put("c=9") // active: neither compacted nor looked at
			stats := mustCompact(t, l, compactOptions(l, compactNow))
			if got, want := shown(records(t, l)), "2:c=1 4:d=1 5:b=2 6:a=3 7:c=9"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if stats.FirstDirty != 7 || stats.Before != 2 || stats.After != 1 || stats.RecordsDropped != 3 || stats.RecordsKept != 4 {
				t.Errorf("stats %+v", stats)
			}
			if l.Segments() != 2 || l.End() != 8 {
				t.Errorf("%d segments up to offset %d, want 2 up to 8", l.Segments(), l.End())
			}
			before := l.Size()
			if stats = mustCompact(t, l, compactOptions(l, compactNow)); stats.Before != 0 || l.Size() != before {
				t.Errorf("nothing was dirty, yet %+v", stats)
			}
		})
	}
}

func TestCompactKeepsWhatBatchesSay(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", compactConfig())
	w := newWriter(t, l)
	was := w.putSpec(compactSpec{producer: 7, epoch: 3, sequence: 40, recs: parsePairs(100, []string{"a=1", "b=1", "c=1"})})
	w.put(200, "a=2", "c=2")
	w.seal()
	mustCompact(t, l, compactOptions(l, compactNow))
	var first record.Batch
	if err := l.ReadAll(0, func(b record.Batch) error {
		if first == nil {
			first = b
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if first.BaseOffset() != 0 || first.LastOffset() != 2 || first.Count() != 1 || first.ProducerID() != 7 || first.ProducerEpoch() != 3 ||
		first.BaseSequence() != 40 || first.LastSequence() != 42 || first.LeaderEpoch() != was.LeaderEpoch() || first.MaxTimestamp() != 100 {
		t.Errorf("the header does not say what it said: base %d last %d count %d producer %d/%d/%d", first.BaseOffset(), first.LastOffset(),
			first.Count(), first.ProducerID(), first.ProducerEpoch(), first.BaseSequence())
	}
	// A fetch inside the batch's offsets, before and after its one record, gets the batch.
	for offset := range int64(3) {
		r, err := l.Read(offset, l.End(), 1, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := record.Batch(readRange(r)); got.BaseOffset() != 0 {
			t.Errorf("offset %d: got the batch at %d", offset, got.BaseOffset())
		}
		r.Release()
	}
}

func TestReadInsideAGapGetsTheNextBatch(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.SegmentBytes = 1 << 20
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	w.put(1, "a=1") // 0
	for i := range 50 {
		w.put(int64(2+i), fmt.Sprintf("b=%d", i)) // 1 to 50
	}
	w.seal()
	w.put(100, "c=1") // 51
	mustCompact(t, l, compactOptions(l, compactNow))
	for offset, want := range map[int64]int64{0: 0, 1: 50, 2: 50, 49: 50, 50: 50, 51: 51} {
		r, err := l.Read(offset, l.End(), 1<<20, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := record.Batch(readRange(r)); len(got) == 0 || got.BaseOffset() != want {
			t.Errorf("offset %d: got %d bytes, want the batch at %d", offset, len(got), want)
		}
		r.Release()
	}
	if r, err := l.Read(1, 50, 1<<20, true); err != nil || r.Size() != 0 {
		t.Errorf("below the limit there is nothing, but got %d bytes, %v", r.Size(), err)
	}
	for ts, want := range map[int64]int64{0: 0, 1: 0, 2: 50, 51: 50, 52: 51, 100: 51} {
		if offset, _, ok, err := l.FindByTimestamp(ts); err != nil || !ok || offset != want {
			t.Errorf("time %d: offset %d, %v, %v, want %d", ts, offset, ok, err, want)
		}
	}
	if offset, ts, ok, err := l.MaxTimestamp(); err != nil || !ok || offset != 51 || ts != 100 {
		t.Errorf("greatest time: offset %d, time %d, %v, %v", offset, ts, ok, err)
	}
}

func TestTombstonesStayForTheirTime(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	w.put(10, "a=1", "b=1")
	w.put(20, "a=", "c=1")
	w.seal()
	w.put(30, "x=1")
	w.seal()
	mustCompact(t, l, compactOptions(l, compactNow))
	if got, want := shown(records(t, l)), "1:b=1 2:a= 3:c=1 4:x=1"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	var dated record.Batch
	if err := l.ReadAll(2, func(b record.Batch) error {
		if dated == nil {
			dated = b
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	horizon, ok := dated.DeleteHorizon()
	if want := compactNow.Add(cfg.DeleteRetention).UnixMilli(); !ok || horizon != want {
		t.Fatalf("delete horizon %d %v, want %d", horizon, ok, want)
	}
	for _, r := range records(t, l) {
		if want := map[int64]int64{1: 10, 2: 20, 3: 20, 4: 30}[r.offset]; r.at != want {
			t.Errorf("record at offset %d has time %d, want %d: base timestamps were rewritten wrongly", r.offset, r.at, want)
		}
	}
	state, err := l.CompactionState(compactNow, l.End())
	if err != nil || state.Due || !state.Next.Equal(time.UnixMilli(horizon)) {
		t.Fatalf("state %+v, %v: want a look at the horizon", state, err)
	}
	later := compactNow.Add(cfg.DeleteRetention)
	if state, err = l.CompactionState(later, l.End()); err != nil || !state.Due {
		t.Fatalf("state %+v, %v: want a run", state, err)
	}
	early := compactOptions(l, later.Add(-time.Millisecond))
	mustCompact(t, l, early)
	if got, want := shown(records(t, l)), "1:b=1 2:a= 3:c=1 4:x=1"; got != want {
		t.Errorf("a moment early: got %s, want %s", got, want)
	}
	mustCompact(t, l, compactOptions(l, later))
	if got, want := shown(records(t, l)), "1:b=1 3:c=1 4:x=1"; got != want {
		t.Errorf("after the horizon: got %s, want %s", got, want)
	}
	if state, err = l.CompactionState(later, l.End()); err != nil || state.Due || !state.Next.IsZero() {
		t.Errorf("nothing is left to wait for, but %+v, %v", state, err)
	}
}

func TestCompactKeepsTheLastBatchOfEachProducer(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", compactConfig())
	w := newWriter(t, l)
	w.putSpec(compactSpec{producer: 1, sequence: 0, recs: parsePairs(1, []string{"a=1", "b=1"})}) // 0, 1
	w.putSpec(compactSpec{producer: 2, sequence: 5, recs: parsePairs(1, []string{"a=2"})})        // 2
	w.putSpec(compactSpec{producer: 1, sequence: 2, recs: parsePairs(1, []string{"a=3", "b=3"})}) // 3, 4
	w.put(1, "a=4", "b=4", "z=1")                                                                 // 5 to 7
	w.seal()
	opt := compactOptions(l, compactNow)
	opt.Producers = func() map[int64]LastBatch { return map[int64]LastBatch{1: {Offset: 4}, 2: {Offset: 2}} }
	mustCompact(t, l, opt)
	got := headers(t, l)
	if want := []string{"2-2 producer 2 sequence 5-5 records 0", "3-4 producer 1 sequence 2-3 records 0", "5-7 producer -1 sequence -1-1 records 3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// Producer 2 is forgotten: its batch goes with the next run that has a reason to rewrite the segment.
	opt.Producers = func() map[int64]LastBatch { return map[int64]LastBatch{1: {Offset: 4}} }
	w.put(1, "z=2")
	w.seal()
	mustCompact(t, l, opt)
	if got := headers(t, l); len(got) != 3 || got[0] != "3-4 producer 1 sequence 2-3 records 0" {
		t.Errorf("got %q", got)
	}
}

func headers(t fataler, l *Log) []string {
	t.Helper()
	var out []string
	if err := l.Scan(l.LogStart(), func(b record.Batch) error {
		out = append(out, fmt.Sprintf("%d-%d producer %d sequence %d-%d records %d",
			b.BaseOffset(), b.LastOffset(), b.ProducerID(), b.BaseSequence(), b.LastSequence(), b.Count()))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// The newest offset survives although nothing of the last segment's records does.
func TestCompactKeepsTheEndOfTheLog(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	w.put(1, "a=1")
	w.put(2, "a=")
	w.put(3, "b=1")
	w.put(4, "b=")
	w.seal()
	mustCompact(t, l, compactOptions(l, compactNow))
	mustCompact(t, l, compactOptions(l, compactNow.Add(2*cfg.DeleteRetention)))
	if got := headers(t, l); len(got) != 1 || !strings.HasPrefix(got[0], "3-3 ") || len(records(t, l)) != 0 {
		t.Errorf("got %q, want one empty batch at offset 3", got)
	}
	closeStore(t, s)
	s = openStore(t, o)
	if l = openLog(t, s, "t-0", cfg); l.End() != 4 {
		t.Errorf("the log ends at %d, want 4", l.End())
	}
}

// A segment in which nothing is superseded is not written again.
func TestCompactLeavesSegmentsThatDoNotChange(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.SegmentBytes = 400
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	for i := range 5 {
		w.put(1, fmt.Sprintf("a%d=1", i))
	}
	w.seal()
	for i := range 5 { // only the last batch of this one changes
		w.put(1, fmt.Sprintf("b%d=1", i))
	}
	w.seal()
	w.put(1, "b4=2")
	w.seal()
	l.mu.Lock()
	first, second := l.mu.segs[0], l.mu.segs[1]
	l.mu.Unlock()
	stats := mustCompact(t, l, compactOptions(l, compactNow))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.segs[0] != first || l.mu.segs[1] == second || stats.BytesWritten >= second.size+100 || stats.RecordsDropped != 1 {
		t.Errorf("stats %+v, %d segments", stats, len(l.mu.segs))
	}
}

func TestCompactTakesSeveralPassesWhereKeysDoNotFit(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	var all []rec
	for i := range 400 {
		key, value := fmt.Sprintf("k%d", i%200), fmt.Sprint(i)
		b := w.put(1, key+"="+value)
		all = append(all, rec{offset: b.BaseOffset(), key: key, value: value})
	}
	w.seal()
	opt := compactOptions(l, compactNow)
	opt.MapBytes = mapSlotsMin * mapEntrySize
	passes := 0
	for {
		stats := mustCompact(t, l, opt)
		if passes++; !stats.Partial {
			break
		}
	}
	if passes < 200/mapSlotsMin {
		t.Errorf("%d passes over 200 keys with room for %d", passes, mapSlotsMin)
	}
	got := records(t, l)
	if len(got) != 200 || fmt.Sprint(view(got)) != fmt.Sprint(view(all)) {
		t.Errorf("%d records are left, want 200: %s", len(got), shown(got))
	}
}

func TestCompactRefusesABatchWithMoreKeysThanTheMap(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", compactConfig())
	w := newWriter(t, l)
	var pairs []string
	for i := range mapSlotsMin + 1 {
		pairs = append(pairs, fmt.Sprintf("k%d=1", i))
	}
	w.put(1, pairs...)
	w.seal()
	opt := compactOptions(l, compactNow)
	opt.MapBytes = 1
	if _, err := l.Compact(context.Background(), opt); !errors.Is(err, ErrMapFull) {
		t.Errorf("got %v, want ErrMapFull", err)
	}
}

// A segment that was in its file before the next append closed it is as closed as others: it has its index, its log's owner is told, and it
// is compacted.
func TestSegmentFlushedBeforeItIsSealed(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.SegmentBytes = 150
	l := openLog(t, s, "t-0", cfg)
	rolled := make(chan int64, 1)
	l.OnRoll(func(base int64) { rolled <- base })
	w := newWriter(t, l)
	w.put(1, "a=1", "a=2")
	flushAll(t, s)
	w.put(1, "b=1", "b=2", "b=3", "b=4", "b=5", "b=6")
	if base := <-rolled; base != 2 {
		t.Errorf("rolled at %d, want 2", base)
	}
	mustCompact(t, l, compactOptions(l, compactNow))
	if got := shown(records(t, l)[:1]); got != "1:a=2" {
		t.Errorf("got %s, want 1:a=2", got)
	}
}
