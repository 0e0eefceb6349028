package replica

import (
	"errors"
	"fmt"

	"weir/segment"
)

// NewReader makes what stands for a connection in the memory for reads.
func (m *Manager) NewReader() *segment.Reader { return m.store.NewReader() }

// NewFollowerReader is NewReader for a node that follows partitions that this one leads.
func (m *Manager) NewFollowerReader() *segment.Reader { return m.store.NewFollowerReader() }

// followerReadBytes is the part of the memory for reads that is kept for followers: two full answers for each of two of them, but no more than a quarter.
func (m *Manager) followerReadBytes() int64 {
	if !m.cfg.Clustered() {
		return 0
	}
	return min(m.cfg.FetchMemoryMaxBytes/4, 4*int64(m.cfg.ReplicaFetchResponseMaxBytes))
}

// Read is ReadShare for a reader whose memory is not bounded.
func (p *Partition) Read(offset, limit int64, maxBytes int, minOneBatch bool) (*segment.Range, error) {
	return p.ReadShare(nil, offset, limit, maxBytes, minOneBatch)
}

// ReadShare returns whole batches from offset on, below limit (a high watermark or last stable offset that the caller took
// from p). The range must be released. With minOneBatch the first batch is returned even if it is larger than
// maxBytes. An offset that is not in [LogStart, limit] gives ErrOffsetOutOfRange; offset == limit gives nil. Where there is no memory for one
// batch it is segment.ErrReadMemory, where the first batch is damaged segment.ErrCorrupt.
func (p *Partition) ReadShare(sh *segment.Share, offset, limit int64, maxBytes int, minOneBatch bool) (*segment.Range, error) {
	if start, end := p.log.LogStart(), p.log.End(); offset < start || offset > end {
		return nil, fmt.Errorf("%w: %s: %d is not in %d to %d", ErrOffsetOutOfRange, p.name, offset, start, end)
	}
	if offset >= limit || (maxBytes <= 0 && !minOneBatch) {
		return nil, nil
	}
	r, err := p.log.ReadShare(sh, offset, limit, maxBytes, minOneBatch)
	switch {
	case err == nil, errors.Is(err, segment.ErrReadMemory), errors.Is(err, segment.ErrCorrupt):
		return r, err
	case errors.Is(err, segment.ErrOffsetOutOfRange): // deleted meanwhile
		return nil, fmt.Errorf("%w: %s: %w", ErrOffsetOutOfRange, p.name, err)
	case errors.Is(err, segment.ErrClosed):
		return nil, fmt.Errorf("%w: %s: %w", ErrNotHere, p.name, err)
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
}
