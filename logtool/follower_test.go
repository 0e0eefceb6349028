package logtool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/record"
	"weir/raftmeta"
	"weir/replica"
	"weir/replica/machine"
)

// followedTopic is a topic of the images that another node, 2, leads: this node follows it, and its log is cut when that node has another history.
const (
	followedTopic      = "followed"
	followedPartitions = 3
	otherNode          = 2
)

var followedID = [16]byte{99}

// otherLeader is the other node. Its logs are what the test makes of them.
type otherLeader struct {
	mu    sync.Mutex
	logs  [followedPartitions]otherLog
	asked map[replica.PartKey]replica.AskPart
	moved chan struct{}
}

// otherLog is a log of the leader, as it now is.
type otherLog struct {
	epoch      int32
	start, end int64
	batches    []record.Batch
	epochs     machine.Epochs
	stale      bool // the follower is not told of it for now: its metadata has another epoch
}

func newOtherLeader() *otherLeader { return &otherLeader{moved: make(chan struct{})} }

// change changes a log, and answers who waits.
func (o *otherLeader) change(index int32, f func(*otherLog)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(&o.logs[index])
	close(o.moved)
	o.moved = make(chan struct{})
}

// add appends a batch, gap offsets behind the end: as if compaction had taken what was between.
func (l *otherLog) add(b record.Batch, gap int64) {
	l.epochs.Assign(l.epoch, l.end)
	b.SetBaseOffset(l.end + gap)
	b.SetLeaderEpoch(l.epoch)
	l.batches, l.end = append(l.batches, b), b.NextOffset()
}

// rewrite gives up what lies at or beyond an offset: somebody led who did not have it.
func (l *otherLog) rewrite(at int64) {
	i := slices.IndexFunc(l.batches, func(b record.Batch) bool { return b.NextOffset() > at })
	if i >= 0 {
		l.batches = slices.Clip(l.batches[:i])
	}
	l.end = l.start
	if n := len(l.batches); n > 0 {
		l.end = l.batches[n-1].NextOffset()
	}
	l.epochs.TruncateEnd(l.end)
}

// forget lets the log begin at an offset behind its end: retention has taken everything.
func (l *otherLog) forget(at int64) {
	l.start, l.end, l.batches = at, at, nil
	l.epochs.Clear()
}

func (o *otherLeader) Fetch(ctx context.Context, _ int32, ask *replica.FetchAsk) (*replica.FetchAnswer, error) {
	deadline := time.NewTimer(ask.MaxWait)
	defer deadline.Stop()
	for first := true; ; first = false {
		o.mu.Lock()
		if first {
			o.note(ask)
		}
		answer, moved := o.answerLocked(), o.moved
		o.mu.Unlock()
		if len(answer.Parts) > 0 {
			return answer, nil
		}
		select {
		case <-moved:
		case <-deadline.C:
			return answer, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (o *otherLeader) note(ask *replica.FetchAsk) {
	if ask.Full || o.asked == nil {
		o.asked = map[replica.PartKey]replica.AskPart{}
	}
	for _, k := range ask.Forget {
		delete(o.asked, k)
	}
	for _, p := range ask.Parts {
		o.asked[replica.PartKey{TopicID: p.TopicID, Index: p.Index}] = p
	}
}

func (o *otherLeader) answerLocked() *replica.FetchAnswer {
	a := &replica.FetchAnswer{}
	for k, ask := range o.asked {
		l := &o.logs[k.Index]
		if l.stale || ask.CurrentEpoch != l.epoch {
			continue
		}
		part := replica.AnswerPart{TopicID: k.TopicID, Index: k.Index, HighWatermark: l.end, LogStart: l.start, Leader: otherNode, LeaderEpoch: l.epoch}
		if ask.LastEpoch >= 0 {
			if floor, end := l.epochs.EndFor(ask.LastEpoch, l.end); floor >= 0 && (floor != ask.LastEpoch || end < ask.Offset) {
				part.Diverging = &replica.EpochEnd{Epoch: floor, End: end}
			}
		}
		if part.Diverging == nil {
			if ask.Offset < l.start || ask.Offset > l.end {
				part.Err = replica.ErrOffsetOutOfRange
			}
			for _, b := range l.batches {
				if part.Err == nil && b.NextOffset() > ask.Offset {
					part.Records = append(part.Records, b...)
				}
			}
		}
		if part.Err != nil || part.Diverging != nil || len(part.Records) > 0 || part.HighWatermark != ask.HighWatermark {
			a.Parts = append(a.Parts, part)
		}
	}
	return a
}

// followed is the other half: this node's.
type followed struct {
	t     testing.TB
	b     *broker
	other *otherLeader
}

// begin makes the topic, or follows on in another life.
func (f *followed) begin(first bool) {
	if !first {
		return
	}
	var assignment [][]int32
	for range followedPartitions {
		assignment = append(assignment, []int32{otherNode, 1})
	}
	must(f.t, f.b.propose(raftmeta.RegisterBroker{ID: otherNode, Host: "127.0.0.1", Port: 9093}))
	must(f.t, f.b.propose(raftmeta.CreateTopic{Name: followedTopic, ID: followedID, Assignment: assignment, Configs: map[string]string{"internal.segment.bytes": "16384", "index.interval.bytes": "1024"}}))
}

// step does something to a log, and waits until this node has it.
func (f *followed) step(rng *rand.Rand) {
	index := rng.Int32N(followedPartitions)
	switch kind := rng.IntN(10); {
	case kind < 7:
		f.append(index, rng)
	case kind < 9:
		f.diverge(index, rng)
	default:
		f.restart(index, rng)
	}
	f.await(index)
}

func (f *followed) append(index int32, rng *rand.Rand) {
	f.other.change(index, func(l *otherLog) {
		for range 1 + rng.IntN(4) {
			spec := record.NewSpec()
			n := 1 + rng.IntN(4)
			if index == 0 { // an idempotent producer whose sequence numbers are the offsets
				spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = 88, 0, int32(l.end)
			}
			gap := int64(0)
			if index == 2 && rng.IntN(3) == 0 {
				gap = rng.Int64N(20)
			}
			l.add(randomBatch(f.t, rng, spec, n), gap)
		}
	})
}

// diverge: another history from somewhere on, in a new epoch.
func (f *followed) diverge(index int32, rng *rand.Rand) {
	f.other.change(index, func(l *otherLog) {
		l.stale = true
		at := l.end - rng.Int64N(12)
		if rng.IntN(3) == 0 {
			at = l.start + rng.Int64N(l.end-l.start+1)
		}
		l.rewrite(max(at, l.start))
	})
	f.epoch(index)
	f.append(index, rng)
}

// restart: the leader's log begins behind this node's.
func (f *followed) restart(index int32, rng *rand.Rand) {
	f.other.change(index, func(l *otherLog) {
		l.stale = true
		l.forget(l.end + rng.Int64N(50))
	})
	f.epoch(index)
	f.append(index, rng)
}

func (f *followed) epoch(index int32) {
	p := f.b.meta.Image().TopicByID(followedID).Partitions[index]
	must(f.t, f.b.propose(raftmeta.ChangePartition{TopicID: followedID, Partition: index, PartitionEpoch: p.PartitionEpoch, Leader: otherNode, NewEpoch: true, ISR: []int32{otherNode}}))
	f.other.change(index, func(l *otherLog) {
		l.epoch = f.b.meta.Image().TopicByID(followedID).Partitions[index].LeaderEpoch
		l.stale = false
	})
}

// await waits until the log ends where the leader's does, durably.
func (f *followed) await(index int32) {
	p := f.b.ByName(followedTopic, index)
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		f.other.mu.Lock()
		l := &f.other.logs[index]
		same := p.Durable() == l.end && p.HighWatermark() == l.end && p.LogStart() <= l.start
		if n := len(l.batches); same && n > 0 {
			same = p.EpochAt(l.end-1) == l.batches[n-1].LeaderEpoch()
		}
		f.other.mu.Unlock()
		if same {
			return
		}
		if time.Since(began) > 20*time.Second {
			f.t.Fatalf("%s-%d: %d to %d (durable), the leader has %d to %d", followedTopic, index, p.LogStart(), p.Durable(), l.start, l.end)
		}
	}
}

// acked adds what the leader has to what was acknowledged.
func (f *followed) acked(im *image) {
	for index := range int32(followedPartitions) {
		log := &f.other.logs[index]
		for _, b := range log.batches {
			im.acked.add(followedTopic, index, b)
		}
		if n := len(log.batches); index == 0 && n > 0 {
			im.last[key(followedTopic, index)] = slices.Clone(log.batches[n-1])
		}
	}
}

// lead has this node lead what it has followed, so that it can be read up to its end and written to.
func (b *broker) lead() error {
	t := b.meta.Image().TopicByID(followedID)
	if t == nil {
		return nil
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if p.Leader == 1 {
			continue
		}
		change := raftmeta.ChangePartition{TopicID: followedID, Partition: int32(i), PartitionEpoch: p.PartitionEpoch, Leader: 1, NewEpoch: true, ISR: []int32{1}}
		if err := b.propose(change); err != nil {
			return fmt.Errorf("lead %s-%d: %w", followedTopic, i, err)
		}
	}
	return nil
}
