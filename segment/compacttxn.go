package segment

import (
	"context"
	"math"

	"weir/internal/record"
)

// transactions tells which batches belong to aborted transactions and which markers are still needed, while a log is read in order.
// A transaction's data may go at once if it was aborted; its marker stays until all of its data is gone, and then for
// delete.retention.ms, so that a reader who began earlier can make sense of what it has read.
type transactions struct {
	aborted   []abortedTxn    // by their first offset; those that began already are gone
	reading   map[int64]*bool // aborted ones that the reader is inside of, by producer id: whether data of it was seen
	committed map[int64]bool  // producers of which data was seen that is not of an aborted transaction
}

type abortedTxn struct {
	producer, first, last int64 // last: offset of the marker
}

// newTransactions serves a reader that begins at offset from.
func newTransactions(aborted []abortedTxn, from int64) *transactions {
	t := &transactions{reading: map[int64]*bool{}, committed: map[int64]bool{}}
	for _, a := range aborted {
		if a.last >= from {
			t.aborted = append(t.aborted, a)
		}
	}
	return t
}

// upTo begins the aborted transactions that begin at or before offset.
func (t *transactions) upTo(offset int64) {
	for len(t.aborted) > 0 && t.aborted[0].first <= offset {
		t.reading[t.aborted[0].producer] = new(bool)
		t.aborted = t.aborted[1:]
	}
}

// discard reports whether b, the next batch, may go: data of an aborted transaction, or a marker whose transaction has no data left.
func (t *transactions) discard(b record.Batch) (bool, error) {
	if !b.IsTransactional() && !b.IsControl() {
		return false, nil
	}
	t.upTo(b.LastOffset())
	id := b.ProducerID()
	if !b.IsControl() {
		if seen := t.reading[id]; seen != nil {
			*seen = true
			return true, nil
		}
		t.committed[id] = true
		return false, nil
	}
	kind, ok, err := b.Control()
	switch {
	case err != nil:
		return false, err
	case !ok:
		return true, nil // cleaned before
	case kind == record.ControlAbort:
		seen := t.reading[id]
		delete(t.reading, id)
		return seen == nil || !*seen, nil
	case kind == record.ControlCommit:
		seen := t.committed[id]
		delete(t.committed, id)
		return !seen, nil
	}
	return false, nil // a kind that means nothing to a cleaner stays
}

// scanTransactions reads the segments for markers. It returns the aborted transactions in them, in the order in which they began, and the
// first offset of a transaction without an end: nothing from there on may be compacted.
func (c *compaction) scanTransactions(ctx context.Context, segs []*segment) (aborted []abortedTxn, open int64, err error) {
	began := map[int64]int64{} // first offset of the present transaction, by producer id
	place := map[int64]int{}   // and its place in aborted, as long as it may still turn out to be committed
	var all []abortedTxn
	var keep []bool
	for _, g := range segs {
		err := c.each(ctx, g, g.base, func(b record.Batch) (bool, error) {
			id := b.ProducerID()
			_, known := began[id]
			switch {
			case b.IsControl():
				kind, ok, err := b.Control()
				if err != nil || !ok || !known || kind == record.ControlOther {
					return true, err
				}
				all[place[id]].last, keep[place[id]] = b.LastOffset(), kind == record.ControlAbort
				delete(began, id)
			case b.IsTransactional() && !known:
				began[id], place[id] = b.BaseOffset(), len(all)
				all, keep = append(all, abortedTxn{producer: id, first: b.BaseOffset()}), append(keep, false)
			}
			return true, nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	for i, t := range all {
		if keep[i] {
			aborted = append(aborted, t)
		}
	}
	open = math.MaxInt64
	for _, first := range began {
		open = min(open, first)
	}
	return aborted, open, nil
}
