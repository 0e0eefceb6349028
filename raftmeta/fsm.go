package raftmeta

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
)

// fsm is the state machine that raft drives, from one goroutine: raft's fsm goroutine, or NewRaft before that one runs.
type fsm struct {
	pub     *publisher
	clk     clock.Clock
	metrics *Metrics
	fatal   func(error) // called when an entry cannot be applied: this node must not go on
	applied func()      // called when an image was published

	image  *Image // newest applied; the published one may have another ControllerID
	behind bool   // the published one is newer, see show
	apply  thread // raft's fsm goroutine
	snaps  *thread
	broken error // why nothing is applied any more
	cause  error // of the last failed Restore, which raft only logs
}

func newFSM(pub *publisher, clk clock.Clock, m *Metrics, fatal func(error)) *fsm {
	return &fsm{pub: pub, clk: clk, metrics: m, fatal: fatal, applied: func() {}, image: pub.image.Load()}
}

// restart makes the state machine empty for a raft that begins anew: with its snapshot, or with the first entry if it has none. What was published
// stays so until it is that far again, see show. No raft runs.
func (f *fsm) restart() { f.image, f.behind, f.broken = emptyImage(), true, nil }

// ApplyBatch applies committed entries in order and publishes one image for all of them. A command's failure is its result; an
// entry that cannot be decoded stops the state machine for good, because the other nodes may well have applied it.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	f.apply.enter()
	start := f.clk.Now()
	responses := make([]any, len(logs))
	b := newBuilder(f.image)
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			responses[i] = f.applyEntry(b, l)
		}
	}
	f.show(b.finish())
	f.applied()
	f.metrics.commitIndex.Set(float64(logs[len(logs)-1].Index))
	f.observe(start)
	return responses
}

// show makes next the newest image, and publishes it. When raft is opened anew over an older snapshot, because a newer one could not be written,
// it applies again what was published already: until it is that far nobody is shown the past.
func (f *fsm) show(next *Image, d *Delta) {
	f.image = next
	cur := f.pub.image.Load()
	if next.Version < cur.Version {
		f.behind = true
		return
	}
	if f.behind {
		d, f.behind = diff(cur, next), false
	}
	f.pub.publish(next, d)
}

func (f *fsm) applyEntry(b *builder, l *raft.Log) any {
	if f.broken != nil {
		return f.broken
	}
	cmds, err := decodeEntry(l.Data)
	if err != nil {
		f.broken = fmt.Errorf("%w: entry %d of term %d cannot be applied: %w", ErrPoisoned, l.Index, l.Term, err)
		f.fatal(f.broken)
		return f.broken
	}
	b.index = l.Index
	results := make([]Result, len(cmds))
	for i, c := range cmds {
		results[i] = c.apply(b)
	}
	return results
}

// Apply is ApplyBatch of one entry.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *fsm) observe(start time.Time) {
	f.metrics.applySeconds.Observe(f.clk.Now().Sub(start).Seconds())
	f.metrics.imageVersion.Set(float64(f.image.Version))
	f.metrics.topics.Set(float64(f.image.NumTopics()))
	f.metrics.partitions.Set(float64(f.image.NumPartitions()))
}

// Snapshot costs nothing: the image is immutable.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.broken != nil {
		return nil, f.broken
	}
	return imageSnapshot{f.image, f.snaps}, nil
}

// Restore replaces everything by a snapshot.
func (f *fsm) Restore(r io.ReadCloser) error {
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(r, snapshotBytesMax+1)); err != nil {
		return f.restoreFailed(fmt.Errorf("read snapshot: %w", err))
	}
	img, err := decodeImage(buf.Bytes())
	if err != nil {
		return f.restoreFailed(fmt.Errorf("decode snapshot of %d bytes: %w", buf.Len(), err))
	}
	f.broken, f.cause = nil, nil
	f.show(img, diff(f.image, img))
	f.observe(f.clk.Now())
	return nil
}

func (f *fsm) restoreFailed(err error) error {
	f.cause = err
	return err
}

// imageSnapshot writes an image to a snapshot.
type imageSnapshot struct {
	img *Image
	on  *thread
}

// Persist runs on raft's goroutine of snapshots.
func (s imageSnapshot) Persist(sink raft.SnapshotSink) error {
	s.on.enter()
	if _, err := sink.Write(encodeImage(s.img)); err != nil {
		return err // raft cancels the sink
	}
	return nil // raft closes the sink
}

func (imageSnapshot) Release() {}
