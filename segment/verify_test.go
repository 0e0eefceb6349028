package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"testing"
	"time"

	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/internal/vfs"
)

// testSeed is WEIR_SEED or a new one, printed.
func testSeed(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("WEIR_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("WEIR_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 3))
}

// stored is a batch as it was written, and where.
type stored struct {
	b    record.Batch
	file string
	pos  int64
}

// storedLog is a flushed log whose content is known.
type storedLog struct {
	t    *testing.T
	fs   *vfs.MemFS
	opt  StoreOptions
	cfg  *Config
	s    *Store
	l    *Log
	all  []stored
	end  int64
	good map[string][]byte // file contents as written
}

// newStoredLog writes n batches of up to maxRecord bytes a record.
func newStoredLog(t *testing.T, rng *rand.Rand, n, maxRecord int, change func(*StoreOptions, *Config)) *storedLog {
	t.Helper()
	sl := &storedLog{t: t, fs: vfs.NewMem(), cfg: defaultConfig(), good: map[string][]byte{}}
	sl.opt, _ = testOptions(sl.fs)
	sl.cfg.SegmentBytes, sl.cfg.IndexIntervalBytes = 60_000, 2048
	if change != nil {
		change(&sl.opt, sl.cfg)
	}
	sl.open()
	w := newWriter(t, sl.l)
	for range n {
		b := w.add(1+rng.IntN(4), rng.IntN(maxRecord), 1000)
		sl.all = append(sl.all, stored{b: append(record.Batch(nil), b...)})
	}
	flushAll(t, sl.s)
	sl.end = sl.l.End()
	sl.l.mu.Lock()
	segs := append([]*segment(nil), sl.l.mu.segs...)
	sl.l.mu.Unlock()
	for i := range sl.all {
		at := &sl.all[i]
		k := sort.Search(len(segs), func(k int) bool { return segs[k].base > at.b.BaseOffset() }) - 1
		at.file = segs[k].name
		if i > 0 && sl.all[i-1].file == at.file {
			at.pos = sl.all[i-1].pos + int64(len(sl.all[i-1].b))
		}
	}
	for _, g := range segs {
		sl.good[g.name] = readFS(t, sl.fs, g.name)
	}
	return sl
}

func (sl *storedLog) open() {
	sl.t.Helper()
	sl.s = openStore(sl.t, sl.opt)
	sl.l = openLog(sl.t, sl.s, "t-0", sl.cfg)
	sl.l.SetEpoch(0)
}

// damage is a changed stretch of a file, [from, to).
type damaged struct {
	file     string
	from, to int64
}

// hurt changes some bytes of a file and returns where.
func (sl *storedLog) hurt(rng *rand.Rand, file string) damaged {
	sl.t.Helper()
	good := sl.good[file]
	from := rng.Int64N(int64(len(good)))
	n := int64(1)
	kind := rng.IntN(4)
	if kind > 0 {
		n = min(1+rng.Int64N(5000), int64(len(good))-from)
	}
	bad := bytes.Clone(good)
	switch kind {
	case 0:
		bad[from] ^= 1 << rng.IntN(8)
	case 1:
		clear(bad[from : from+n])
	case 2:
		for i := range n {
			bad[from+i] = byte(rng.Uint32())
		}
	case 3: // another part of the same file
		copy(bad[from:from+n], good[rng.Int64N(int64(len(good))):])
	}
	for n > 0 && bad[from] == good[from] {
		from, n = from+1, n-1
	}
	for n > 0 && bad[from+n-1] == good[from+n-1] {
		n--
	}
	writeFS(sl.t, sl.fs, file, bad)
	return damaged{file, from, from + n}
}

func (d *damaged) hits(b *stored) bool {
	return b.file == d.file && d.from < b.pos+int64(len(b.b)) && b.pos < d.to
}

// check reads from every batch's offsets: what was not hurt must come as it was written, what was hurt must be an error that says so.
func (sl *storedLog) check(rng *rand.Rand, d []damaged) {
	sl.t.Helper()
	for i := range sl.all {
		b := &sl.all[i]
		hurt := false
		for k := range d {
			hurt = hurt || d[k].hits(b)
		}
		offset := b.b.BaseOffset() + rng.Int64N(int64(b.b.LastOffsetDelta())+1)
		r, err := sl.l.Read(offset, sl.end, 1+rng.IntN(30_000), true)
		if hurt {
			var bad *CorruptError
			if !errors.As(err, &bad) || bad.File != b.file || bad.Offset > offset || bad.NextOffset <= offset || bad.End < bad.Position {
				sl.t.Fatalf("read at %d in a damaged batch %+v of %d to %d at %d: %+v, %v", offset, d, b.b.BaseOffset(), b.b.LastOffset(), b.pos, r, err)
			}
			continue
		}
		if err != nil {
			sl.t.Fatalf("read at %d, damage %+v, batch at %d of %d bytes is good: %v", offset, d, b.pos, len(b.b), err)
		}
		got := readRange(r)
		for j := i; len(got) > 0; j++ {
			if !bytes.HasPrefix(got, sl.all[j].b) {
				sl.t.Fatalf("read at %d returned other bytes than were written, damage %+v", offset, d)
			}
			got = got[len(sl.all[j].b):]
		}
		if r.FirstOffset() != b.b.BaseOffset() || r.Size() == 0 {
			sl.t.Fatalf("read at %d gave %d bytes from offset %d", offset, r.Size(), r.FirstOffset())
		}
		r.Release()
	}
}

// TestDamageIsNeverServed changes files in many ways. Whatever was changed is noticed, and whatever was not is still there.
func TestDamageIsNeverServed(t *testing.T) {
	rng := testSeed(t)
	sl := newStoredLog(t, rng, 220, 900, nil)
	for range 40 {
		b := &sl.all[rng.IntN(len(sl.all))]
		d := sl.hurt(rng, b.file)
		sl.check(rng, []damaged{d})
		sl.check(rng, []damaged{d}) // with what is remembered by now
		writeFS(t, sl.fs, b.file, sl.good[b.file])
		sl.check(rng, nil)
	}
	if used := sl.s.memory.inUse(); used != 0 {
		t.Errorf("%d bytes of read memory are still taken", used)
	}
}

// TestDamageWithoutIndex: the same for closed segments whose indexes are lost, too.
func TestDamageWithoutIndex(t *testing.T) {
	rng := testSeed(t)
	sl := newStoredLog(t, rng, 220, 900, nil)
	last := sl.all[len(sl.all)-1].file
	for range 15 {
		b := &sl.all[rng.IntN(len(sl.all))]
		if b.file == last {
			continue // what a start says of the newest segment is another matter
		}
		closeStore(t, sl.s)
		d := sl.hurt(rng, b.file)
		g := segment{name: b.file}
		for _, kind := range []indexKind{offsetIndex, timeIndex} {
			if err := sl.fs.Remove(g.indexName(kind)); err != nil {
				t.Fatal(err)
			}
		}
		sl.open()
		sl.check(rng, []damaged{d})
		writeFS(t, sl.fs, b.file, sl.good[b.file])
		closeStore(t, sl.s)
		sl.open()
		sl.check(rng, nil)
	}
}

// TestTwoDamages: what lies between is there.
func TestTwoDamages(t *testing.T) {
	rng := testSeed(t)
	sl := newStoredLog(t, rng, 100, 2000, nil)
	for range 25 {
		i := rng.IntN(len(sl.all) - 2)
		if sl.all[i].file != sl.all[i+2].file {
			continue
		}
		bad := bytes.Clone(sl.good[sl.all[i].file])
		var d []damaged
		for _, b := range []stored{sl.all[i], sl.all[i+2]} {
			at := b.pos + crcFrom + rng.Int64N(int64(len(b.b)-crcFrom))
			bad[at] ^= 0x10
			d = append(d, damaged{b.file, at, at + 1})
		}
		writeFS(t, sl.fs, sl.all[i].file, bad)
		sl.check(rng, d)
		writeFS(t, sl.fs, sl.all[i].file, sl.good[sl.all[i].file])
	}
}

// TestTruncatedSegment: records that a closed segment has lost are damage, those of the next are there.
func TestTruncatedSegment(t *testing.T) {
	rng := testSeed(t)
	sl := newStoredLog(t, rng, 150, 900, nil)
	file := sl.all[0].file
	for range 12 {
		closeStore(t, sl.s)
		cut := rng.Int64N(int64(len(sl.good[file])))
		if rng.IntN(3) == 0 { // between two batches
			cut = sl.all[1+rng.IntN(10)].pos
		}
		writeFS(t, sl.fs, file, sl.good[file][:cut])
		sl.open()
		sl.check(rng, []damaged{{file, cut, int64(len(sl.good[file]))}})
		writeFS(t, sl.fs, file, sl.good[file])
		closeStore(t, sl.s)
		sl.open()
		sl.check(rng, nil)
	}
}

// TestBatchInsideARecord: a record may hold a batch, even one with the offsets that are looked for. It is not taken for one of the log.
func TestBatchInsideARecord(t *testing.T) {
	for _, index := range []int{512, 64 << 10} {
		t.Run(fmt.Sprint(index), func(t *testing.T) {
			fs := vfs.NewMem()
			o, _ := testOptions(fs)
			s := openStore(t, o)
			c := defaultConfig()
			c.IndexIntervalBytes = index
			w := newWriter(t, openLog(t, s, "t-0", c))
			w.add(1, 300, 0)
			inner := makeBatch(t, 1, 1, 700, 0)
			spec := record.NewSpec()
			spec.BaseOffset = 1
			outer, err := record.Build(spec, []record.Record{{Value: inner}})
			if err != nil {
				t.Fatal(err)
			}
			w.append(outer)
			for range 6 {
				w.add(1, 300, 0)
			}
			flushAll(t, s)
			data := bytes.Clone(w.want)
			for i := int(w.ends[0]); i < int(w.ends[0])+record.HeaderSize; i++ {
				data[i] = 0
			}
			writeFS(t, fs, segFile("t-0", 0, logSuffix), data)
			var bad *CorruptError
			if r, err := w.l.Read(1, w.l.End(), 1, true); !errors.As(err, &bad) || bad.NextOffset != 2 || bad.End != w.ends[1] {
				t.Fatalf("read of the record that holds a batch: %+v, %v", r, err)
			}
			if got := readAll(t, w.l, 2, w.l.End(), 400); !bytes.Equal(got, w.want[w.ends[1]:]) {
				t.Fatal("what follows differs")
			}
		})
	}
}

// TestLargeBatch: a batch larger than any pooled buffer is read, verified, and found damaged.
func TestLargeBatch(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	w.add(1, 100, 0)
	w.add(1, 17<<20, 0)
	w.add(1, 100, 0)
	flushAll(t, s)
	for _, maxBytes := range []int{1, 1 << 20, 64 << 20} {
		if got := readAll(t, w.l, 0, w.l.End(), maxBytes); !bytes.Equal(got, w.want) {
			t.Fatalf("max %d: bytes differ", maxBytes)
		}
		r, err := w.l.Read(1, w.l.End(), maxBytes, true)
		if err != nil || r.FirstOffset() != 1 || int64(r.Size()) < w.ends[1]-w.ends[0] {
			t.Fatalf("max %d: %v", maxBytes, err)
		}
		r.Release()
	}
	data := bytes.Clone(w.want)
	data[w.ends[1]-1] ^= 1
	writeFS(t, fs, segFile("t-0", 0, logSuffix), data)
	var bad *CorruptError
	if _, err := w.l.Read(1, w.l.End(), 1, true); !errors.As(err, &bad) || bad.Position != w.ends[0] || bad.NextOffset != 2 {
		t.Fatalf("damaged: %v", err)
	}
	if got := readAll(t, w.l, 2, w.l.End(), 1<<20); !bytes.Equal(got, w.want[w.ends[1]:]) {
		t.Fatal("what follows the damage differs")
	}
}

// TestLookupsVerify: a damaged timestamp leads no lookup astray.
func TestLookupsVerify(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for i := range 8 {
		w.add(1, 200, int64(1000+i))
	}
	flushAll(t, s)
	data := bytes.Clone(w.want)
	const offMaxTimestamp = 35
	clear(data[w.ends[2]+offMaxTimestamp : w.ends[2]+offMaxTimestamp+8]) // of the batch at offset 3
	writeFS(t, fs, segFile("t-0", 0, logSuffix), data)
	if _, _, ok, err := w.l.FindByTimestamp(1003); !errors.Is(err, ErrCorrupt) {
		t.Errorf("FindByTimestamp: found %v, %v", ok, err)
	}
	if offset, _, ok, err := w.l.FindByTimestamp(1002); err != nil || !ok || offset != 2 {
		t.Errorf("FindByTimestamp before the damage: %d, %v, %v", offset, ok, err)
	}
}

// TestScanVerifies: a producer's state is not rebuilt from a damaged header.
func TestScanVerifies(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for i := range 5 {
		spec := record.NewSpec()
		spec.BaseOffset, spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = int64(i), 7, 0, int32(i)
		b, err := record.Build(spec, []record.Record{{Value: make([]byte, 300)}})
		if err != nil {
			t.Fatal(err)
		}
		w.append(b)
	}
	flushAll(t, s)
	data := bytes.Clone(w.want)
	data[w.ends[2]+57-1] ^= 1 // the sequence number of the batch at offset 3
	writeFS(t, fs, segFile("t-0", 0, logSuffix), data)
	seen := 0
	err := w.l.Scan(0, func(h record.Batch) error {
		if h.BaseSequence() != int32(seen) {
			t.Errorf("sequence %d at offset %d", h.BaseSequence(), h.BaseOffset())
		}
		seen++
		return nil
	})
	if !errors.Is(err, ErrCorrupt) || seen != 3 {
		t.Fatalf("%d headers, %v", seen, err)
	}
}

// TestReadErrorMidway: what was read before an I/O error is served; who asks for the rest gets the error.
func TestReadErrorMidway(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for range 60 {
		w.add(1, 100_000, 0)
	}
	flushAll(t, s)
	bad := errors.New("bad sector")
	fs.SetHook(func(op, name string, off int64, n int) error {
		if op == "read" && off+int64(n) > 3<<20 {
			return bad
		}
		return nil
	})
	r, err := w.l.Read(0, w.l.End(), 64<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	data := readRange(r)
	next := r.NextOffset()
	checkRange(t, r, data)
	r.Release()
	if !bytes.HasPrefix(w.want, data) || len(data) < 1<<20 {
		t.Fatalf("%d bytes before the error", len(data))
	}
	for err == nil {
		if r, err = w.l.Read(next, w.l.End(), 64<<20, true); err != nil {
			break
		}
		next = r.NextOffset()
		r.Release()
	}
	if !errors.Is(err, bad) || next < 28 {
		t.Fatalf("at offset %d: %v", next, err)
	}
	fs.SetHook(nil)
	if got := readAll(t, w.l, 0, w.l.End(), 64<<20); !bytes.Equal(got, w.want) {
		t.Fatal("bytes differ after the disk has healed")
	}
	if used := s.memory.inUse(); used != 0 {
		t.Errorf("%d bytes of read memory are still taken", used)
	}
}

// TestLateReadKeepsItsBuffers: the kernel may write to the buffers of a read that was given up on; until then they are taken.
func TestLateReadKeepsItsBuffers(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	o.IOTimeout = 50 * time.Millisecond
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	w.add(1, 100_000, 0)
	flushAll(t, s)
	release, done := make(chan struct{}), make(chan struct{})
	fs.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "read" {
			<-release
			defer close(done)
		}
		return nil
	})
	before := iobuf.InUse()
	if _, err := w.l.Read(0, 1, 1<<20, true); !errors.Is(err, ErrDeadline) {
		t.Fatalf("read: %v", err)
	}
	if s.memory.inUse() == 0 || iobuf.InUse() == before {
		t.Error("the buffers were given back while the read was under way")
	}
	close(release)
	<-done
	closeStore(t, s)
	for s.memory.inUse() > 0 { // the call's goroutine has a few steps to go
		time.Sleep(time.Millisecond)
	}
}
