package replica

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"weir/raftmeta"
)

// heldSource delays a fetcher between taking an answer and waiting for the disk, as a full tail, a cut of another log or a busy machine does.
type heldSource struct {
	Source
	armed    atomic.Bool
	held, on chan struct{}
}

func (s *heldSource) Fetch(ctx context.Context, leader int32, ask *FetchAsk) (*FetchAnswer, error) {
	a, err := s.Source.Fetch(ctx, leader, ask)
	if err != nil || leader != 1 {
		return a, err
	}
	for i := range a.Parts {
		if a.Parts[i].Index == 0 && len(a.Parts[i].Records) > 0 && s.armed.CompareAndSwap(true, false) {
			a.Release = func() { close(s.held); <-s.on }
		}
	}
	return a, err
}

// TestFetcherSurvivesAPartitionThatMoved: what a fetcher waits for may have been cut away by the next leader's.
func TestFetcherSurvivesAPartitionThatMoved(t *testing.T) {
	c := newCluster(t, 3, nil)
	defer c.close()
	src := &heldSource{Source: c.nodes[3], held: make(chan struct{}), on: make(chan struct{})}
	c.nodes[3].stop()
	c.nodes[3].source = src
	c.nodes[3].start()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}, {1, 3}}})
	for index := range int32(2) {
		if _, err := c.produce("t", index, 1, valueBatch(t, "0")); err != nil {
			t.Fatal(err)
		}
	}
	c.same("t", 0, 1, 2, 3)
	c.isolate(2, true)
	src.armed.Store(true)
	c.appendTo(1, "node 2 does not have this")
	<-src.held // node 3 has it
	c.elect("t", 0, 2, 2, 3)
	c.isolate(2, false)
	moved := c.up(3).ByName("t", 0)
	c.until("node 3 has cut it off", func() bool { return moved.End() == 1 && moved.LeaderEpoch() > 0 && moved.Durable() == 1 })
	close(src.on)
	for i := range 3 {
		done := make(chan error, 1)
		go func() {
			_, err := c.produce("t", 1, 1, valueBatch(t, fmt.Sprint(i)))
			done <- err
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("node 3 does not fetch from node 1 any more")
			c.elect("t", 0, 2, 2) // lets the test end: node 2 writes where the old end was
			if _, err := c.produce("t", 0, 2, valueBatch(t, "x")); err != nil {
				t.Log(err)
			}
			<-done
			return
		}
	}
}
