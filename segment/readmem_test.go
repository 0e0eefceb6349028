package segment

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/iobuf"
	"weir/internal/vfs"
)

// readStore has a small memory for reads, and a log of n batches of about size bytes.
func readStore(t *testing.T, memory int64, n, size int, flush bool) (*Store, *writer) {
	t.Helper()
	o, _ := testOptions(vfs.NewMem())
	o.ReadBytesMax, o.FlushBytes = memory, 1<<30
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for range n {
		w.add(1, size, 0)
	}
	if flush {
		flushAll(t, s)
	}
	return s, w
}

// TestReadMemoryIsBounded: readers that keep all they get use up what there is and no more, get smaller ranges on the way, and each of them
// at least one batch while there is room for one.
func TestReadMemoryIsBounded(t *testing.T) {
	for _, flush := range []bool{false, true} {
		for _, size := range []int{100, 3000, 20_000, 200_000} {
			const memory = 2 << 20
			s, w := readStore(t, memory, 2_000_000/size, size, flush)
			var held []*Range
			starved, smallest := 0, 1<<30
			for range 150 {
				sh := s.NewReader().Share()
				r, err := w.l.ReadShare(&sh, 0, w.l.End(), 1<<20, true)
				switch {
				case errors.Is(err, ErrReadMemory):
					starved++
					if !sh.Starved() {
						t.Error("the share does not know that it is starved")
					}
				case err != nil:
					t.Fatal(err)
				default:
					checkRange(t, r, readRange(r))
					smallest = min(smallest, r.Size())
					held = append(held, r)
				}
				sh.Close()
				if used := s.memory.inUse(); used > memory {
					t.Fatalf("%d bytes are taken of %d", used, memory)
				}
			}
			if starved == 0 && flush {
				t.Errorf("flushed %v, batches of %d: 150 readers of up to 1 MiB fit into %d bytes", flush, size, memory)
			}
			if len(held) < 8 || flush && smallest >= 1<<20-size {
				t.Errorf("flushed %v, batches of %d: %d ranges, the smallest of %d bytes", flush, size, len(held), smallest)
			}
			for _, r := range held {
				r.Release()
			}
			if used := s.memory.inUse(); used != 0 {
				t.Errorf("%d bytes are taken after all were released", used)
			}
		}
	}
}

// TestReadMemoryCountsWhatIsKept: memory that ranges keep alive after the tail has given it up is never more than what is counted.
func TestReadMemoryCountsWhatIsKept(t *testing.T) {
	rng := testSeed(t)
	before := iobuf.InUse()
	s, w := readStore(t, 2<<20, 3000, 400, false)
	var held []*Range
	for range 200 {
		sh := s.NewReader().Share()
		offset := rng.Int64N(w.l.End())
		r, err := w.l.ReadShare(&sh, offset, w.l.End(), 1+rng.IntN(300_000), true)
		sh.Close()
		if errors.Is(err, ErrReadMemory) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
	}
	flushAll(t, s)
	closeStore(t, s) // the engine gives the last write's memory back a moment after it reports the write
	if kept, counted := iobuf.InUse()-before, s.memory.inUse(); kept > counted || counted > 2<<20 {
		t.Errorf("ranges keep %d bytes alive, %d are counted", kept, counted)
	}
	for _, r := range held {
		data := readRange(r)
		if !bytes.Contains(w.want, data) {
			t.Fatal("bytes differ")
		}
		r.Release()
	}
	if left := iobuf.InUse() - before; left != 0 || s.memory.inUse() != 0 {
		t.Errorf("%d bytes left, %d counted", left, s.memory.inUse())
	}
}

// TestSharedChunkCountsOnce: a hundred readers of the same chunks of a tail cost those chunks, and a copy for each where a range has only
// little of one.
func TestSharedChunkCountsOnce(t *testing.T) {
	s, w := readStore(t, 64<<20, 4000, 400, false)
	var held []*Range
	first := int64(0)
	for i := range 100 {
		sh := s.NewReader().Share()
		r, err := w.l.ReadShare(&sh, 1000, w.l.End(), 600_000, true)
		sh.Close()
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
		if i == 0 {
			first = s.memory.inUse()
		}
	}
	if now := s.memory.inUse(); now > first+100*copyBelow {
		t.Errorf("one reader takes %d bytes, a hundred take %d", first, now)
	}
	for _, r := range held {
		r.Release()
	}
}

// TestSmallPiecesAreCopied: a reader of little does not keep a large chunk.
func TestSmallPiecesAreCopied(t *testing.T) {
	s, w := readStore(t, 64<<20, 4000, 400, false)
	sh := s.NewReader().Share()
	defer sh.Close()
	r, err := w.l.ReadShare(&sh, 3000, w.l.End(), 2000, true)
	if err != nil {
		t.Fatal(err)
	}
	if used := s.memory.inUse(); used > 4<<10 {
		t.Errorf("%d bytes are taken for a range of %d", used, r.Size())
	}
	if !bytes.Contains(w.want, readRange(r)) {
		t.Error("bytes differ")
	}
	r.Release()
}

// TestWaitForReadMemory: who found nothing is told when there is room, in turn, finds it kept for him, and no one is told in vain.
func TestWaitForReadMemory(t *testing.T) {
	s, w := readStore(t, 1<<20, 40, 100_000, true)
	var held []*Range
	for {
		sh := s.NewReader().Share()
		r, err := w.l.ReadShare(&sh, 0, w.l.End(), 1<<20, true)
		if errors.Is(err, ErrReadMemory) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
	}
	var woken []int
	shares := make([]Share, 3)
	for i := range shares {
		shares[i] = s.NewReader().Share()
		if _, err := w.l.ReadShare(&shares[i], int64(i), w.l.End(), 1, true); !errors.Is(err, ErrReadMemory) {
			t.Fatalf("read %d: %v", i, err)
		}
		if !shares[i].Wait(func() { woken = append(woken, i) }) {
			t.Fatalf("share %d need not wait", i)
		}
	}
	shares[1].Close() // gave up
	if got := counted(t, s.metrics.ReadWaits); got != 3 {
		t.Errorf("%v waits counted, want 3", got)
	}
	for _, r := range held {
		r.Release()
	}
	if len(woken) != 2 || woken[0] != 0 || woken[1] != 2 {
		t.Fatalf("woken: %v, want 0 and 2", woken)
	}
	// Others take all the rest; what was kept is still there.
	s.memory.mu.Lock()
	rest := s.memory.max - s.memory.mu.used
	s.memory.addLocked(nil, rest)
	s.memory.mu.Unlock()
	for _, i := range []int{0, 2} {
		shares[i].Retry()
		r, err := w.l.ReadShare(&shares[i], int64(i), w.l.End(), 1, true)
		if err != nil {
			t.Fatalf("read %d after the wait: %v", i, err)
		}
		checkRange(t, r, readRange(r))
		r.Release()
		shares[i].Close()
	}
	s.memory.give(nil, rest)
	if used := s.memory.inUse(); used != 0 {
		t.Errorf("%d bytes are taken in the end", used)
	}
}

// TestOneBatchOfAnySize: a batch larger than the whole memory can be read when nobody else reads.
func TestOneBatchOfAnySize(t *testing.T) {
	for _, flush := range []bool{false, true} {
		s, w := readStore(t, 1<<20, 2, 3<<20, flush)
		sh := s.NewReader().Share()
		r, err := w.l.ReadShare(&sh, 0, w.l.End(), 1, true)
		if err != nil {
			t.Fatal(err)
		}
		checkRange(t, r, readRange(r))
		other := s.NewReader().Share()
		if _, err := w.l.ReadShare(&other, 1, w.l.End(), 1, true); !errors.Is(err, ErrReadMemory) {
			t.Errorf("flushed %v: a second such batch beside it: %v", flush, err)
		}
		again := make(chan struct{})
		if !other.Wait(func() { close(again) }) {
			t.Error("it need not wait")
		}
		r.Release()
		<-again
		other.Retry()
		if r, err = w.l.ReadShare(&other, 1, w.l.End(), 1, true); err != nil {
			t.Fatal(err)
		}
		r.Release()
		sh.Close()
		other.Close()
	}
}

// TestReadersTogether: many readers and few bytes; each gets everything, exactly, and the bound holds.
func TestReadersTogether(t *testing.T) {
	const memory = 1 << 20
	s, w := readStore(t, memory, 600, 2000, false)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 5))
			reader := s.NewReader()
			var got []byte
			for offset := int64(0); offset < 600; {
				sh := reader.Share()
				r, err := w.l.ReadShare(&sh, offset, 600, 1+rng.IntN(200_000), true)
				for errors.Is(err, ErrReadMemory) {
					again := make(chan struct{})
					if sh.Wait(func() { close(again) }) {
						<-again
					}
					sh.Retry()
					r, err = w.l.ReadShare(&sh, offset, 600, 1, true)
				}
				sh.Close()
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, readRange(r)...)
				offset = r.NextOffset()
				if used := s.memory.inUse(); used > memory {
					t.Errorf("%d bytes taken", used)
				}
				r.Release()
			}
			if !bytes.Equal(got, w.want) {
				t.Errorf("reader %d got %d bytes of %d, or others", i, len(got), len(w.want))
			}
		})
	}
	flushAll(t, s)
	wg.Wait()
	if used := s.memory.inUse(); used != 0 {
		t.Errorf("%d bytes are taken in the end", used)
	}
}

func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var out dto.Metric
	if err := c.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue()
}
