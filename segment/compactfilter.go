package segment

import (
	"context"
	"errors"
	"io"

	"weir/internal/record"
)

// batchFilter decides, batch by batch and in order, what of a group of segments is kept, and hands it to a writer. The writer is made at
// the first batch that changes: a segment in which nothing does is left where it is.
type batchFilter struct {
	c         *compaction
	ctx       context.Context
	w         *cleanedFile // nil: nothing has changed yet
	txns      *transactions
	producers map[int64]LastBatch
	base, end int64 // offsets of the group
}

// take decides about b, of segment g.
func (f *batchFilter) take(g *segment, b record.Batch) error {
	out, err := f.decide(b)
	if err != nil {
		return g.corrupt(f.c.at, b.BaseOffset(), err)
	}
	if same := len(out) > 0 && &out[0] == &b[0]; f.w == nil && !same {
		if err := f.begin(g, b.BaseOffset()); err != nil {
			return err
		}
	}
	if f.w == nil || len(out) == 0 {
		return nil
	}
	return f.w.add(out)
}

// begin makes the writer and gives it the batches of g before an offset, which stay as they are.
func (f *batchFilter) begin(g *segment, before int64) (err error) {
	if f.w, err = f.c.newCleaned(f.ctx, f.base, f.end); err != nil || before <= g.base {
		return err
	}
	r, err := f.c.s.openBatches(g, make([]byte, f.c.opt.ReadBytes), f.c.opt.Throttle)
	if err != nil {
		return err
	}
	defer r.close()
	for {
		b, err := r.batch(f.ctx)
		if errors.Is(err, io.EOF) || err == nil && b.BaseOffset() >= before {
			f.c.stats.BytesRead += r.read
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.w.add(b); err != nil {
			return err
		}
	}
}

// decide returns what is kept of b: b itself, a batch in its place, or nothing.
func (f *batchFilter) decide(b record.Batch) (record.Batch, error) {
	done, err := f.txns.discard(b)
	if err != nil {
		return nil, err
	}
	if f.dropped(b, done) {
		f.c.stats.RecordsDropped += int64(b.Count())
		return f.withoutRecords(b), nil
	}
	horizon := f.c.opt.Now.Add(f.c.cfg.DeleteRetention).UnixMilli()
	dated := false
	r, err := f.c.filter.Apply(b, horizon, func(s *record.Skim) record.Verdict {
		v := f.judge(b, s, done)
		dated = dated || v == record.KeepDated
		return v
	})
	if err != nil {
		return nil, err
	}
	f.c.stats.RecordsKept += int64(r.Kept)
	f.c.stats.RecordsDropped += int64(r.Dropped)
	if r.Batch == nil {
		return f.withoutRecords(b), nil
	}
	if dated {
		if at, ok := r.Batch.DeleteHorizon(); ok {
			f.c.horizon = min(f.c.horizon, at)
		}
	}
	return r.Batch, nil
}

// dropped reports whether the batch as a whole may go: aborted data at once, a marker after its delete horizon.
func (f *batchFilter) dropped(b record.Batch, done bool) bool {
	if !done || !b.IsControl() {
		return done
	}
	at, ok := b.DeleteHorizon()
	return ok && at <= f.c.opt.Now.UnixMilli()
}

// judge decides about one record. done: b is a marker that nothing needs any more, but for the time it must still stay.
func (f *batchFilter) judge(b record.Batch, s *record.Skim, done bool) record.Verdict {
	offset := b.BaseOffset() + s.OffsetDelta
	switch {
	case b.IsControl() && done:
		return record.KeepDated
	case b.IsControl(), offset >= f.c.mapped:
		return record.Keep
	case s.Key == nil, offset < f.c.keys.last(s.Key):
		return record.Drop // a record without a key is there from before the topic was compacted
	case !s.Tombstone:
		return record.Keep
	}
	if at, ok := b.DeleteHorizon(); ok && at <= f.c.opt.Now.UnixMilli() {
		return record.Drop
	}
	return record.KeepDated
}

// withoutRecords returns what is kept of a batch without records because others need it: the sequence numbers of its producer, if it is the last
// of that, and the end of the segment, so that a segment's end can be told from a file that was cut.
func (f *batchFilter) withoutRecords(b record.Batch) record.Batch {
	switch {
	case b.NextOffset() != f.end && !f.lastOfProducer(b):
		return nil
	case b.Count() == 0:
		return b
	}
	return b.Empty()
}

func (f *batchFilter) lastOfProducer(b record.Batch) bool {
	last, ok := f.producers[b.ProducerID()]
	switch {
	case !ok || b.ProducerID() == record.NoProducerID:
		return false
	case last.Offset >= 0:
		return b.LastOffset() == last.Offset
	}
	return b.IsControl() && b.ProducerEpoch() == last.Epoch
}
