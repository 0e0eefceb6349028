package raftmeta

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestOpenedAnewWhileChangesWait: changes that are committed, but not yet applied, when raft is to be opened anew are answered. Raft forgets them when it is
// shut down, so it is shut down behind them; one that is forgotten is under way for ever, and Close waits for it.
func TestOpenedAnewWhileChangesWait(t *testing.T) {
	cluster(t, 1, func(t *testing.T, r *rig) {
		r.allReady()
		x := r.leader()
		var armed atomic.Bool
		release := make(chan struct{})
		free := sync.OnceFunc(func() { close(release) })
		defer free()
		defer x.Subscribe(func(_ *Image, d *Delta) {
			if armed.Load() && len(d.Created) > 0 {
				<-release
			}
		})()
		armed.Store(true)
		const changes = 16
		begun := x.raft().LastIndex()
		answers := make(chan error, changes)
		for i := range uint64(changes) { // each committed by itself: when raft is shut down it has a dice for each
			go func() {
				_, err := x.Propose(t.Context(), CreateTopic{Name: fmt.Sprint("t", i), Assignment: [][]int32{{1}}})
				answers <- err
			}()
			r.until("it is committed", func() bool { return x.raft().CommitIndex() == begun+i+1 })
		}
		before := x.raft()
		x.trans.mute()
		x.trans.onTorn()
		synctest.Wait()
		if x.raft() != before || len(answers) != 0 {
			t.Fatalf("%d changes are answered: the test does not reach what it is for", len(answers))
		}
		free()
		r.until("raft is opened anew", func() bool { return x.raft() != before })
		for range changes {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		x.gate.mu.Lock()
		if n := x.gate.mu.inside; n != 0 {
			t.Errorf("%d changes are under way for ever", n)
		}
		x.gate.mu.Unlock()
		r.create("after")
		if n := x.Image().NumTopics(); n != changes+1 {
			t.Errorf("%d topics, want %d", n, changes+1)
		}
	})
}
