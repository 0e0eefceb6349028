package broker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/replica"
)

// DeleteRecords (key 21) v0-2. v2 is flexible. Kafka answers when the log start has moved in memory, and a crash can bring the records back;
// here the answer waits until the new log start is on disk. All partitions of a request share one write, and so do requests
// that come while one is under way. Then it waits until the in-sync replicas have followed, which they do with their next fetches: the low watermark that the
// answer tells is that of all of them.

// lowWatermarkUnknown is the low watermark of a partition whose deletion failed.
const lowWatermarkUnknown = -1

// recordsDeletion is one request on its way.
type recordsDeletion struct {
	c     *call
	resp  *kmsg.DeleteRecordsResponse
	tried []replica.Deletion
	rows  []*kmsg.DeleteRecordsResponseTopicPartition // of tried
	left  atomic.Int32                                // of mu.waits

	mu struct {
		sync.Mutex
		answered bool
		stop     func()           // ends the wait; nil: it has not begun
		waits    []*watermarkWait // for the in-sync replicas
	}
}

// watermarkWait waits for the low watermark of one partition.
type watermarkWait struct {
	d      *recordsDeletion
	at     *replica.Deletion
	epoch  int32 // the leader's, when the wait began
	waiter replica.Waiter
	over   atomic.Bool
}

func (c *call) deleteRecords(req kmsg.Request) {
	r := req.(*kmsg.DeleteRecordsRequest)
	d := &recordsDeletion{c: c, resp: kmsg.NewPtrDeleteRecordsResponse()}
	asked := d.layOut(r)
	for t := range d.resp.Topics {
		topic := &d.resp.Topics[t]
		for p := range topic.Partitions {
			row := &topic.Partitions[p]
			part, err := c.deletableFrom(topic.Topic, row.Partition)
			if err != nil {
				row.ErrorCode = codeOf(err)
				continue
			}
			d.rows = append(d.rows, row)
			d.tried = append(d.tried, replica.Deletion{Partition: part, Offset: asked[topicPartition{topic.Topic, row.Partition}]})
		}
	}
	if !c.b.parts.DeleteRecords(d.tried, d.durable) {
		d.answer(nil)
		return
	}
	d.wait(time.Duration(max(r.TimeoutMillis, 0)) * time.Millisecond)
}

// layOut makes a row for each partition and returns the offsets asked for. Of a partition that is named twice the last offset counts, as
// in Kafka.
func (d *recordsDeletion) layOut(r *kmsg.DeleteRecordsRequest) map[topicPartition]int64 {
	asked := map[topicPartition]int64{}
	place := map[string]int{}
	for i := range r.Topics {
		name := r.Topics[i].Topic
		at, known := place[name]
		if !known {
			at = len(d.resp.Topics)
			place[name] = at
			t := kmsg.NewDeleteRecordsResponseTopic()
			t.Topic = name
			d.resp.Topics = append(d.resp.Topics, t)
		}
		t := &d.resp.Topics[at]
		for _, p := range r.Topics[i].Partitions {
			key := topicPartition{name, p.Partition}
			if _, twice := asked[key]; !twice {
				row := kmsg.NewDeleteRecordsResponseTopicPartition()
				row.Partition, row.LowWatermark = p.Partition, lowWatermarkUnknown
				t.Partitions = append(t.Partitions, row)
			}
			asked[key] = p.Offset
		}
	}
	return asked
}

// deletableFrom returns a partition that clients may delete from.
func (c *call) deletableFrom(topic string, index int32) (*replica.Partition, error) {
	p, err := c.leaderOf(topic, index)
	if err == nil && p.Internal() {
		return nil, refuse(kerr.InvalidTopicException, "Cannot delete records of internal topic %s", topic)
	}
	return p, err
}

// durable is called when this node's log starts are on disk, or cannot get there.
func (d *recordsDeletion) durable(err error) {
	if err != nil {
		d.answer(err)
		return
	}
	var waits []*watermarkWait
	for i := range d.tried {
		t := &d.tried[i]
		if t.Err == nil && t.Partition.LowWatermark() < t.LowWatermark {
			w := &watermarkWait{d: d, at: t, epoch: t.Partition.LeaderEpoch()}
			w.waiter.Wake = w.look
			waits = append(waits, w)
		}
	}
	if len(waits) == 0 {
		d.answer(nil)
		return
	}
	d.mu.Lock()
	answered := d.mu.answered
	d.mu.waits = waits
	d.mu.Unlock()
	if answered {
		return
	}
	d.left.Store(int32(len(waits)))
	for _, w := range waits {
		w.at.Partition.WaitAppend(&w.waiter)
		w.look()
	}
	d.mu.Lock()
	answered = d.mu.answered
	d.mu.Unlock()
	if answered { // meanwhile: what was registered after that is taken back here
		stopAll(waits)
	}
}

// behind reports whether the in-sync replicas of a partition were waited for, and are not known to have followed.
func behind(waits []*watermarkWait, t *replica.Deletion) bool {
	for _, w := range waits {
		if w.at == t {
			return !w.leads() || t.Partition.LowWatermark() < t.LowWatermark
		}
	}
	return false
}

func stopAll(waits []*watermarkWait) {
	for _, w := range waits {
		w.waiter.Stop()
	}
}

// look ends the wait if the in-sync replicas have followed, or if they need not any more because another node leads. It runs on whatever
// goroutine moved the partition, and must be quick.
func (w *watermarkWait) look() {
	p := w.at.Partition
	if w.over.Load() || p.LowWatermark() < w.at.LowWatermark && w.leads() || w.over.Swap(true) {
		return
	}
	if w.d.left.Add(-1) == 0 {
		go w.d.answer(nil)
	}
}

func (w *watermarkWait) leads() bool {
	p := w.at.Partition
	return p.IsLeader() && p.LeaderEpoch() == w.epoch && !p.Closed()
}

// wait bounds the wait for the disk and the replicas: by the request's timeout, and by the disk's stall.
func (d *recordsDeletion) wait(limit time.Duration) {
	ctx, cancel := context.WithTimeoutCause(d.c.b.parts.UntilStalled(), limit,
		refuse(kerr.RequestTimedOut, "the new log start was not on the disks of all in-sync replicas within %s; it may still get there", limit))
	end := context.AfterFunc(ctx, func() { d.answer(context.Cause(ctx)) })
	stop := func() {
		end()
		cancel()
	}
	d.mu.Lock()
	d.mu.stop = stop
	answered := d.mu.answered
	d.mu.Unlock()
	if answered {
		stop()
	}
}

// answer sends the response, once. err is why what was not refused before is not known to be durable.
func (d *recordsDeletion) answer(err error) {
	d.mu.Lock()
	first, stop, waits := !d.mu.answered, d.mu.stop, d.mu.waits
	d.mu.answered = true
	d.mu.Unlock()
	stopAll(waits)
	if stop != nil {
		stop()
	}
	if !first {
		return
	}
	var deleted []string
	for i := range d.tried {
		t, row := &d.tried[i], d.rows[i]
		switch {
		case t.Err != nil:
			row.ErrorCode = codeOf(t.Err)
		case err != nil && (waits == nil || behind(waits, t)): // not known to be on disk, or not everywhere
			row.ErrorCode = codeOf(err)
		case behind(waits, t):
			row.ErrorCode = kerr.NotLeaderForPartition.Code
		default:
			row.LowWatermark = t.LowWatermark
			if name := t.Partition.Topic(); !slices.Contains(deleted, name) {
				deleted = append(deleted, name)
			}
		}
	}
	if err != nil {
		d.c.b.faults.Warn("deletion of records is not known to be on disk", "", "partitions", len(d.tried), "peer", d.c.r.Conn.RemoteAddr(), "err", err)
	}
	d.c.logTopics("records deleted", deleted)
	d.c.reply(d.resp)
}
