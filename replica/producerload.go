package replica

import (
	"fmt"

	"weir/internal/record"
)

// The state of a partition's producers is read from its newest snapshot and the headers of the batches behind it. That is not done at the
// start: with thousands of partitions it would be gigabytes to read before the first client is served. It is done when somebody needs it -
// the first batch of an idempotent producer, a snapshot, a compaction - and for all the others one after another in the background, when
// the node is up. Batches without a producer need it not and change nothing in it, so they are taken meanwhile.

// loadProducers makes sure that the producers' state is in memory. The first caller reads it, others wait for that one. After an error the
// next caller tries again. It does I/O.
func (p *Partition) loadProducers() error {
	for !p.producersLoaded.Load() {
		p.mu.Lock()
		loading := p.mu.loading
		if loading == nil {
			loading = make(chan struct{})
			p.mu.loading = loading
			p.mu.Unlock()
			return p.readProducers(loading)
		}
		p.mu.Unlock()
		select {
		case <-loading:
		case <-p.m.background.closing:
			return fmt.Errorf("%w: %s: shutting down", ErrNotHere, p.name)
		}
	}
	return nil
}

func (p *Partition) readProducers(loading chan struct{}) error {
	err := p.restoreProducers()
	if err != nil {
		err = fmt.Errorf("%w: %s: producer state: %w", ErrStorage, p.name, err)
		p.m.log.Error("producer state cannot be read; idempotent producers are refused", "partition", p.name, "err", err)
	}
	p.mu.Lock()
	p.mu.loading = nil
	if err != nil {
		p.mu.producers = producers{}
	}
	p.mu.Unlock()
	if err == nil {
		p.producersLoaded.Store(true)
	}
	close(loading)
	return err
}

// needsProducers reports whether b has to be held against the state of its producer.
func needsProducers(b record.Batch) bool { return b.ProducerID() != record.NoProducerID }

// loadAllProducers reads what nobody has asked for yet.
func (m *Manager) loadAllProducers() {
	for _, p := range m.all() {
		if m.ctx.Err() != nil {
			return
		}
		if !p.Closed() {
			_ = p.loadProducers() // said by it; tried again when it is needed
		}
	}
}
