package raftmeta

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestOpenedAnewWhileAMessageIsHeld: a leader that was cut off still holds a message for a follower that is gone when it hears of its tear, before it hears
// that its term is over. Raft waits for the message when it shuts down, so it must be let go.
func TestOpenedAnewWhileAMessageIsHeld(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		old := r.leader()
		rest := r.others(old.id)
		down, other := rest[0], rest[1]
		r.stop(down)
		r.create("held")
		r.until("a message is held", func() bool { return old.held(down) })

		var armed atomic.Bool
		blocked, release := make(chan struct{}), make(chan struct{})
		free := sync.OnceFunc(func() { close(release) })
		defer old.trans.lapse() // lets a failed test end
		defer free()
		defer old.Subscribe(func(img *Image, d *Delta) { // on the lead goroutine
			if d.Controller && img.ControllerID == -1 && armed.Swap(false) {
				close(blocked)
				<-release
			}
		})()
		armed.Store(true)
		r.net.isolate(old.id, true, other)
		<-blocked
		synctest.Wait()
		select { // nobody hears it any more: as if the tear, which is there as well when the lead goroutine looks, were taken first
		case leading := <-old.raft().LeaderCh():
			if leading {
				t.Fatal("it has won an election")
			}
		default:
			t.Fatal("the end of the term was heard already: the test does not reach what it is for")
		}
		if !old.held(down) {
			t.Fatal("nothing is held any more: the test does not reach what it is for")
		}
		before := old.raft()
		old.trans.mute()
		old.trans.onTorn()
		free()
		r.until("raft is opened anew", func() bool { return old.raft() != before })
		r.net.isolate(old.id, false, other)
		r.start(down, nil)
		r.create("after")
		r.converged()
	})
}

// held says whether a message is held for a node.
func (x *node) held(id int32) bool {
	x.trans.mu.Lock()
	defer x.trans.mu.Unlock()
	p := x.trans.mu.peers[id]
	return p != nil && p.revived != nil
}
