package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/replica"
)

// DeleteRecords (key 21) v0-2. v2 is flexible. Kafka answers when the log start has moved in memory, and a crash can bring the records back;
// here the answer waits until the new log start is on disk. All partitions of a request share one write, and so do requests
// that come while one is under way.

// lowWatermarkUnknown is the low watermark of a partition whose deletion failed.
const lowWatermarkUnknown = -1

// recordsDeletion is one request on its way.
type recordsDeletion struct {
	c     *call
	resp  *kmsg.DeleteRecordsResponse
	tried []replica.Deletion
	rows  []*kmsg.DeleteRecordsResponseTopicPartition // of tried

	mu struct {
		sync.Mutex
		answered bool
		stop     func() // ends the wait; nil: it has not begun
	}
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
	if !c.b.parts.DeleteRecords(d.tried, d.answer) {
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

// wait bounds the wait for the disk: by the request's timeout, and by the disk's stall.
func (d *recordsDeletion) wait(limit time.Duration) {
	ctx, cancel := context.WithTimeoutCause(d.c.b.parts.UntilStalled(), limit,
		refuse(kerr.RequestTimedOut, "the new log start was not on disk within %s; it may still get there", limit))
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
	first, stop := !d.mu.answered, d.mu.stop
	d.mu.answered = true
	d.mu.Unlock()
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
		case err != nil:
			row.ErrorCode = codeOf(err)
		default:
			row.LowWatermark = t.LowWatermark
			if name := t.Partition.Topic(); !slices.Contains(deleted, name) {
				deleted = append(deleted, name)
			}
		}
	}
	if err != nil {
		d.c.b.log.Warn("deletion of records is not known to be on disk", "partitions", len(d.tried), "peer", d.c.r.Conn.RemoteAddr(), "err", err)
	}
	d.c.logTopics("records deleted", deleted)
	d.c.reply(d.resp)
}
