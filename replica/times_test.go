package replica

import (
	"errors"
	"testing"
	"time"

	"weir/internal/budget"
	"weir/internal/vfs"
	"weir/raftmeta"
)

func mark() budget.Mark { return budget.At(time.Now()) }

// inOrder fails unless the marks that an append got to follow each other.
func (a *Append) inOrder(t *testing.T) {
	t.Helper()
	last := budget.Mark(0)
	for i, m := range []budget.Mark{a.Times.Asked, a.Times.Locked, a.Times.Began, a.Times.Durable} {
		if m == 0 {
			continue
		}
		if m < last {
			t.Errorf("mark %d is %d, before the last one, %d: %+v", i, m, last, a.Times)
		}
		last = m
	}
}

// The marks of an append that waits for the lock, for the disk, and of one that is given up meanwhile.
func TestTimesOfAnAppend(t *testing.T) {
	disk, g := vfs.NewMem(), &gate{}
	disk.SetHook(g.hook)
	n := openNodeOn(t, disk, "/d", map[string]string{"io.engine": "portable", "log.dir.stall.ms": "60000"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)

	p.mu.Lock()
	asking, done := make(chan struct{}), make(chan *Append, 1)
	b := valueBatch(t, "x")
	if err := n.Reserve(len(b), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	go func() {
		close(asking)
		p.Append(&Append{Batch: b, Done: func(a *Append) { done <- a }})
	}()
	<-asking
	released := mark()
	p.mu.Unlock()
	a := <-done
	if a.inOrder(t); a.Err != nil || a.Times.Locked < released || a.Times.Began == 0 || a.Times.Durable == 0 || a.Times.Last != 1 {
		t.Errorf("the lock was released at %d: %+v, %v", released, a.Times, a.Err)
	}

	struck := make(chan struct{}, 100)
	g.shut(func(op, name string) bool {
		held := dataWAL(op, name)
		if held {
			struck <- struct{}{}
		}
		return held
	})
	slow, lost := n.begin(p, valueBatch(t, "x")), make(chan *Append, 1)
	<-struck
	if err := n.Reserve(len(b), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	waits := &Append{Batch: valueBatch(t, "x"), Done: func(a *Append) { lost <- a }}
	p.Append(waits)
	given := errors.New("given up")
	p.GiveUp(waits, given)
	if a := <-lost; !errors.Is(a.Err, given) || a.Times.Locked == 0 || a.Times.Durable != 0 {
		t.Errorf("given up before it was durable: %+v, %v", a.Times, a.Err)
	}
	opened := mark()
	g.open(nil)
	a = <-slow
	if a.inOrder(t); a.Err != nil || a.Times.Began == 0 || a.Times.Began > opened || a.Times.Durable < opened {
		t.Errorf("the disk answered at %d: %+v, %v", opened, a.Times, a.Err)
	}
}
