package replica

import (
	"errors"
	"fmt"

	"weir/segment"
)

// ToHighWatermark, as a Deletion's Offset, asks for all that consumers can see.
const ToHighWatermark = -1

// Deletion asks for a partition's records below Offset to go.
type Deletion struct {
	Partition *Partition
	Offset    int64 // or ToHighWatermark

	// LowWatermark is the partition's log start afterwards.
	LowWatermark int64
	// Err says why nothing was done: ErrPolicy, ErrOffsetOutOfRange, ErrNotHere.
	Err error
}

// DeleteRecords raises the log start of partitions. Their readers see it when DeleteRecords returns, with LowWatermark or Err in each
// Deletion. If any of them is without Err, wait is true and done is called once, on another goroutine: with nil when a crash
// cannot undo the deletions any more, else with ErrStorage. All of them wait for the same write.
func (m *Manager) DeleteRecords(list []Deletion, done func(error)) (wait bool) {
	moves := make([]segment.LogStartMove, 0, len(list))
	asked := make([]*Deletion, 0, len(list))
	for i := range list {
		d := &list[i]
		var offset int64
		if offset, d.Err = d.Partition.deletable(d.Offset); d.Err == nil {
			moves = append(moves, segment.LogStartMove{Log: d.Partition.log, Offset: offset})
			asked = append(asked, d)
		}
	}
	if !m.background.enter() {
		for _, d := range asked {
			d.Err = fmt.Errorf("%w: %s: shutting down", ErrNotHere, d.Partition.name)
		}
		return false
	}
	filled := make(chan struct{})
	wait = m.store.AdvanceLogStarts(moves, func(err error) {
		defer m.background.leave()
		<-filled
		m.space.changed()
		done(wrapStorage(err))
	})
	if !wait {
		m.background.leave()
	}
	for i, d := range asked {
		d.LowWatermark, d.Err = d.Partition.log.LogStart(), d.Partition.moveError(moves[i].Err)
	}
	close(filled)
	for _, d := range asked {
		if d.Err == nil {
			d.Partition.followers.wake() // they take the log start over with their next fetch
		}
	}
	return wait
}

// deletable returns the offset below which records are to go.
func (p *Partition) deletable(offset int64) (int64, error) {
	if t := p.settings.Load().Topic; t.Compact && !t.Delete {
		return 0, fmt.Errorf("%w: %s is only compacted", ErrPolicy, p.name)
	}
	limit := p.HighWatermark()
	if offset == ToHighWatermark {
		return limit, nil
	}
	if offset < 0 || offset > limit {
		return 0, fmt.Errorf("%w: %s: %d is not in 0 to the high watermark, %d", ErrOffsetOutOfRange, p.name, offset, limit)
	}
	return offset, nil
}

func (p *Partition) moveError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, segment.ErrClosed):
		return fmt.Errorf("%w: %s: %w", ErrNotHere, p.name, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrOffsetOutOfRange, p.name, err)
}
