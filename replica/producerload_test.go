package replica

import (
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// TestProducersAreReadWhenNeeded: a node starts without its producers' state. A plain batch does not need it; an idempotent one gets
// it, and is refused while it cannot be read, but not for ever.
func TestProducersAreReadWhenNeeded(t *testing.T) {
	mem := vfs.NewMem()
	extra := map[string]string{"io.engine": "portable"}
	n := openNodeOn(t, mem, "/node", extra)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	spec := record.NewSpec()
	spec.ProducerID, spec.ProducerEpoch = 7, 2
	send := func(sequence int32) *Append {
		spec.BaseSequence = sequence
		b, err := record.Build(spec, []record.Record{{Timestamp: 1, Value: []byte("mine")}})
		if err != nil {
			t.Fatal(err)
		}
		return n.append(n.ByName("t", 0), b)
	}
	for sequence := range int32(3) {
		if a := send(sequence); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	n.close()

	var broken atomic.Bool
	broken.Store(true)
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if broken.Load() && op == "open" && strings.HasSuffix(name, snapshotSuffix) {
			return syscall.EIO
		}
		return nil
	})
	n = openNodeOn(t, mem, "/node", extra)
	defer n.close()
	n.mustAppend(n.ByName("t", 0), valueBatch(t, "plain"))
	if a := send(2); !errors.Is(a.Err, ErrStorage) || !errors.Is(a.Err, syscall.EIO) {
		t.Errorf("an idempotent batch while the state cannot be read: %v, want ErrStorage", a.Err)
	}
	broken.Store(false)
	if a := send(2); a.Err != nil || a.BaseOffset != 2 {
		t.Errorf("a retry of the last batch: offset %d, %v, want 2", a.BaseOffset, a.Err)
	}
	if a := send(9); !errors.Is(a.Err, ErrOutOfOrder) {
		t.Errorf("a gap in the sequence numbers: %v, want ErrOutOfOrder", a.Err)
	}
	if a := send(3); a.Err != nil || a.BaseOffset != 4 {
		t.Errorf("the next batch: offset %d, %v, want 4", a.BaseOffset, a.Err)
	}
}

// TestProducersAreReadOnce: a caller that found the state missing, and comes to read it when another just has, does not: a second reading would lack
// what is appended while it goes on.
func TestProducersAreReadOnce(t *testing.T) {
	n := openNodeOn(t, vfs.NewMem(), "/node", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	n.mustAppend(p, batchOf(t, 0, 7, 0, 0, 1))
	loading, mine := p.claimLoad()
	if mine {
		t.Fatal("the state would be read a second time")
	}
	<-loading
	if a := n.append(p, batchOf(t, 0, 7, 0, 0, 1)); a.Err != nil || a.BaseOffset != 0 {
		t.Errorf("a retry: offset %d, %v", a.BaseOffset, a.Err)
	}
}

// TestProducersAreReadAgain: a truncation takes effect, and drops the producers' state, when an append has made sure of it and waits for the lock. The
// append loads it again: it knows a retry of what is left, and what was cut off it takes as new.
func TestProducersAreReadAgain(t *testing.T) {
	for range 20 {
		producersAreReadAgain(t)
	}
}

func producersAreReadAgain(t *testing.T) {
	n := openNodeOn(t, vfs.NewMem(), "/node", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	for seq := range int32(3) {
		n.mustAppend(p, batchOf(t, 0, 7, 0, seq, 1))
	}
	p.mu.Lock()
	begun := make(chan struct{})
	ended := []<-chan *Append{}
	for _, seq := range []int32{2, 5} {
		b := batchOf(t, 0, 7, 0, seq, 1)
		if err := n.Reserve(len(b), time.Minute); err != nil {
			t.Fatal(err)
		}
		done := make(chan *Append, 1)
		ended = append(ended, done)
		go func() {
			begun <- struct{}{}
			p.Append(&Append{Batch: b, Done: func(a *Append) { done <- a }})
		}()
		<-begun
	}
	for range 100 { // they come to the lock, or not yet: both must be right
		runtime.Gosched()
	}
	time.Sleep(time.Millisecond)
	p.mu.cuts++
	p.mu.producers = producers{}
	p.producersLoaded.Store(false)
	p.mu.Unlock()
	if a := <-ended[0]; a.Err != nil || a.BaseOffset != 2 {
		t.Errorf("a retry: offset %d, %v, want 2", a.BaseOffset, a.Err)
	}
	if a := <-ended[1]; !errors.Is(a.Err, ErrOutOfOrder) {
		t.Errorf("a gap in the sequence numbers: offset %d, %v, want ErrOutOfOrder", a.BaseOffset, a.Err)
	}
}

// TestProducersOfADeletedTopic: the topic goes while its producers' state is read. That is no failure of the storage: the client is told that the partition
// is not here.
func TestProducersOfADeletedTopic(t *testing.T) {
	mem := vfs.NewMem()
	extra := map[string]string{"io.engine": "portable"}
	n := openNodeOn(t, mem, "/node", extra)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	n.mustAppend(n.ByName("t", 0), batchOf(t, 0, 7, 0, 0, 1))
	n.close()

	n = openNodeOn(t, mem, "/node", extra)
	defer n.close()
	p := n.ByName("t", 0)
	p.m.background.close() // it may have read the state by now
	p.producersLoaded.Store(false)
	p.m.store.Remove(p.log)
	if err := p.loadProducers(); !errors.Is(err, ErrNotHere) || errors.Is(err, ErrStorage) {
		t.Errorf("the producers of a log that is closed: %v, want ErrNotHere alone", err)
	}
}
