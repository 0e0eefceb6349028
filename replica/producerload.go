package replica

import (
	"errors"
	"fmt"

	"weir/internal/record"
	"weir/segment"
)

// The state of a partition's producers is read from its newest snapshot and the headers of the batches behind it. That is not done at the
// start: with thousands of partitions it would be gigabytes to read before the first client is served. It is done when somebody needs it -
// the first batch of an idempotent producer, a snapshot, a compaction - and for all the others one after another in the background, when
// the node is up. Batches without a producer need it not and change nothing in it, so they are taken meanwhile.

// loadProducers makes sure that the producers' state is in memory. The first caller reads it, others wait for that one. After an error the
// next caller tries again. It does I/O.
func (p *Partition) loadProducers() error {
	for !p.producersLoaded.Load() {
		loading, mine := p.claimLoad()
		if mine {
			if err := p.readProducers(loading); err != nil {
				return err
			}
			continue
		}
		select {
		case <-loading:
		case <-p.m.background.closing:
			return fmt.Errorf("%w: %s: shutting down", ErrNotHere, p.name)
		}
	}
	return nil
}

var loaded = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// claimLoad returns what to wait for; mine: the caller is to read the state, and closes it then. A caller that comes when the state has just been
// read must not read it again: it would lack what is appended meanwhile.
func (p *Partition) claimLoad() (loading chan struct{}, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.producersLoaded.Load():
		return loaded, false
	case p.mu.loading != nil:
		return p.mu.loading, false
	}
	p.mu.loading = make(chan struct{})
	return p.mu.loading, true
}

func (p *Partition) readProducers(loading chan struct{}) error {
	p.mu.Lock()
	cuts := p.mu.cuts
	p.mu.Unlock()
	state, err := p.restoreProducers()
	switch {
	case errors.Is(err, segment.ErrClosed): // the topic was deleted, or the node is going
		err = fmt.Errorf("%w: %s: producer state: %w", ErrNotHere, p.name, err)
	case err != nil:
		err = fmt.Errorf("%w: %s: producer state: %w", ErrStorage, p.name, err)
		p.m.log.Error("producer state cannot be read; idempotent producers are refused", "partition", p.name, "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(loading)
	p.mu.loading = nil
	switch {
	case err != nil:
		p.mu.producers = producers{}
	case p.mu.cuts != cuts:
		// The log was truncated meanwhile: it is read again.
	default:
		p.mu.producers = state
		p.producersLoaded.Store(true)
	}
	return err
}

// needsProducers reports whether b has to be held against the state of its producer.
func needsProducers(b record.Batch) bool { return b.ProducerID() != record.NoProducerID }

// lockWithProducers takes the partition's lock, with the producers' state in memory if b needs it. A truncation that comes late, of the time when this
// node followed, may drop what was just loaded: then it is loaded again.
func (p *Partition) lockWithProducers(b record.Batch) error {
	for {
		if needsProducers(b) {
			if err := p.loadProducers(); err != nil {
				return err
			}
		}
		p.mu.Lock()
		if !needsProducers(b) || p.producersLoaded.Load() {
			return nil
		}
		p.mu.Unlock()
	}
}

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
