package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// Propose makes changes: all of cmds as one entry of the log, applied in order, each for itself: one that fails does not undo the
// others. It returns when this node has applied them and all subscribers have run. Result i is that of cmds[i]; the error is for the
// whole: ErrNotLeader, ErrBackpressure, ErrTooLarge, ErrPoisoned, ErrClosed (nothing was done), ErrTimeout, ErrLeadershipLost and
// the context's own (unknown). Concurrent callers share a write to disk.
func (m *Meta) Propose(ctx context.Context, cmds ...Command) ([]Result, error) {
	if len(cmds) == 0 {
		return nil, nil
	}
	if held := m.store.heldBytes(); held > m.o.refuseBytes() {
		m.o.Metrics.refused.Inc()
		m.askSnapshot()
		return nil, fmt.Errorf("%w: the log holds %d bytes, at most %d, because snapshots fail", ErrBackpressure, held, m.o.refuseBytes())
	}
	results := make([]Result, len(cmds))
	valid, at := m.prepare(cmds, results)
	if len(valid) == 0 {
		return results, nil
	}
	data := encodeEntry(valid)
	if len(data) > entryBytesMax {
		return nil, fmt.Errorf("%w: %d commands are %d bytes, want at most %d", ErrTooLarge, len(valid), len(data), entryBytesMax)
	}
	began := m.o.Clock.Now()
	applied, err := m.commit(ctx, data)
	if err != nil {
		return nil, err
	}
	m.o.Metrics.commitSeconds.Observe(m.o.Clock.Now().Sub(began).Seconds())
	for i, r := range applied {
		results[at[i]] = r
	}
	return results, nil
}

// commit hands an entry to raft and waits for its results.
func (m *Meta) commit(ctx context.Context, data []byte) ([]Result, error) {
	if err := m.gate.enter(len(data)); err != nil {
		if errors.Is(err, ErrBackpressure) {
			m.o.Metrics.refused.Inc()
		}
		return nil, err
	}
	if m.raft().State() != raft.Leader {
		m.gate.leave(len(data))
		return nil, m.explain(raft.ErrNotLeader) // raft's main goroutine may be waiting for the disk
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.o.ProposeTimeout, &timeoutError{"", m.o.ProposeTimeout})
	defer cancel()
	ended := make(chan outcome, 1)
	go func() {
		defer m.gate.leave(len(data))
		ended <- m.await(m.raft().Apply(data, m.o.ProposeTimeout))
	}()
	select {
	case out := <-ended:
		return out.results, out.err
	case <-ctx.Done():
		return nil, fmt.Errorf("propose: %w", context.Cause(ctx))
	}
}

type outcome struct {
	results []Result
	err     error
}

func (m *Meta) await(f raft.ApplyFuture) outcome {
	if err := f.Error(); err != nil {
		return outcome{err: m.explain(err)}
	}
	switch r := f.Response().(type) {
	case []Result:
		return outcome{results: r}
	case error:
		return outcome{err: r}
	default:
		return outcome{err: fmt.Errorf("BUG: raftmeta: apply returned a %T", r)}
	}
}

// explain puts raft's errors into this package's.
func (m *Meta) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrPoisoned):
		return err
	case m.Poisoned() != nil:
		return m.Poisoned()
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		_, id := m.raft().LeaderWithID()
		return fmt.Errorf("%w: node %d leads, as far as node %d knows", ErrNotLeader, nodeID(id), m.o.NodeID)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w: %w", ErrLeadershipLost, err)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: raft took no change for %s", ErrTimeout, m.o.ProposeTimeout)
	case errors.Is(err, raft.ErrRaftShutdown):
		select {
		case <-m.closing:
			return ErrClosed
		default:
			return fmt.Errorf("%w: raft is being opened anew", ErrNotLeader)
		}
	}
	return err
}

// prepare fills in what must be decided once and not by every node: ids and replicas. What cannot be decided is a result already;
// at gives the places of the others.
func (m *Meta) prepare(cmds []Command, results []Result) (valid []Command, at []int) {
	img := m.Image()
	for i, c := range cmds {
		c, err := m.complete(img, c)
		if err != nil {
			results[i].Err = err
			continue
		}
		valid, at = append(valid, c), append(at, i)
	}
	return valid, at
}

func (m *Meta) complete(img *Image, c Command) (Command, error) {
	switch c := c.(type) {
	case CreateTopic:
		if err := ValidateTopicName(c.Name); err != nil {
			return nil, err
		}
		if c.ID == ([16]byte{}) {
			c.ID = NewID()
		}
		if c.Assignment != nil {
			return c, nil
		}
		var err error
		c.Assignment, err = m.place(img, c.Name, 0, int(c.Partitions), int(c.ReplicationFactor))
		return c, err
	case AddPartitions:
		t := img.Topic(c.Topic)
		if c.Assignment != nil || t == nil || int(c.Total) <= len(t.Partitions) {
			return c, nil
		}
		have := len(t.Partitions)
		var err error
		c.Assignment, err = m.place(img, c.Topic, have, int(c.Total)-have, len(t.Partitions[0].Replicas))
		return c, err
	}
	return c, nil
}

// place spreads partitions over the brokers: leaders in turn, from a start that depends on the topic, followers behind them.
func (m *Meta) place(img *Image, topic string, first, count, factor int) ([][]int32, error) {
	ids := []int32{m.o.NodeID}
	if brokers := img.Brokers(); len(brokers) > 0 {
		ids = ids[:0]
		for _, b := range brokers {
			ids = append(ids, b.ID)
		}
	}
	if factor == 0 {
		factor = 1
	}
	if count < 1 || first+count > partitionsMax {
		return nil, fmt.Errorf("%w: topic %s: %d, want 1 to %d", ErrInvalidPartitions, topic, first+count, partitionsMax)
	}
	if factor < 1 || factor > min(len(ids), replicasMax) {
		return nil, fmt.Errorf("%w: topic %s: factor %d, want 1 to %d, as there are %d brokers", ErrInvalidReplication, topic, factor, min(len(ids), replicasMax), len(ids))
	}
	start := first
	for _, c := range []byte(topic) {
		start += int(c)
	}
	lists := make([][]int32, len(ids)) // one per leader, shared
	for i := range lists {
		lists[i] = slices.Concat(ids[i:], ids[:i])[:factor]
	}
	out := make([][]int32, count)
	for i := range out {
		out[i] = lists[(start+i)%len(ids)]
	}
	return out, nil
}
