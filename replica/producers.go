package replica

import (
	"fmt"

	"weir/internal/record"
	"weir/segment"
)

// producerBatches is how many batches of a producer are remembered to recognise a retry. Kafka's clients keep at most
// five requests in flight per connection for that reason.
const producerBatches = 5

// producers is what a partition knows of its idempotent producers (KIP-98). The partition's lock guards it.
// It is rebuilt after a restart from a snapshot and the headers of the batches behind it.
type producers struct {
	byID map[int64]*producer
}

// producer is the state of one producer id.
type producer struct {
	epoch         int16
	count         int8                      // batches in use
	batches       [producerBatches]batchRef // oldest first
	lastTimestamp int64                     // ms: when it last wrote, for expiry
}

// batchRef remembers one appended batch.
type batchRef struct {
	baseSequence, lastSequence int32
	baseOffset, lastOffset     int64
	timestamp                  int64
}

// check decides about a batch before it gets an offset. It returns the remembered batch if b is a retry of it, or
// an error if b must be refused. A batch of no producer always passes.
func (s *producers) check(b record.Batch) (dup *batchRef, err error) {
	id := b.ProducerID()
	if id == record.NoProducerID {
		return nil, nil
	}
	p := s.byID[id]
	if p == nil {
		// Nothing is known: the id is new here, or expired. Kafka accepts any first sequence.
		return nil, nil
	}
	epoch, seq := b.ProducerEpoch(), b.BaseSequence()
	switch {
	case epoch < p.epoch:
		return nil, fmt.Errorf("%w: producer %d has epoch %d, got %d", ErrStaleEpoch, id, p.epoch, epoch)
	case epoch > p.epoch:
		if seq != 0 {
			return nil, fmt.Errorf("%w: producer %d starts epoch %d at sequence %d, want 0", ErrOutOfOrder, id, epoch, seq)
		}
		return nil, nil
	}
	for i := range p.batches[:p.count] {
		if r := &p.batches[i]; r.baseSequence == seq && r.lastSequence == b.LastSequence() {
			return r, nil
		}
	}
	if p.count == 0 {
		return nil, nil
	}
	if want := record.AddSequence(p.batches[p.count-1].lastSequence, 1); seq != want {
		return nil, fmt.Errorf("%w: producer %d epoch %d sent sequence %d, want %d", ErrOutOfOrder, id, epoch, seq, want)
	}
	return nil, nil
}

// add remembers a batch that was appended; header may be just the batch's header. now is in ms.
func (s *producers) add(header record.Batch, now int64) {
	id := header.ProducerID()
	if id == record.NoProducerID || header.IsControl() {
		return
	}
	if s.byID == nil {
		s.byID = map[int64]*producer{}
	}
	p := s.byID[id]
	if p == nil {
		p = &producer{epoch: header.ProducerEpoch()}
		s.byID[id] = p
	}
	if p.epoch != header.ProducerEpoch() {
		p.epoch, p.count = header.ProducerEpoch(), 0
	}
	if int(p.count) == producerBatches {
		copy(p.batches[:], p.batches[1:])
		p.count--
	}
	p.batches[p.count] = batchRef{
		baseSequence: header.BaseSequence(), lastSequence: header.LastSequence(),
		baseOffset: header.BaseOffset(), lastOffset: header.LastOffset(),
		timestamp: header.MaxTimestamp(),
	}
	p.count++
	p.lastTimestamp = now
}

// last returns the last batch of each producer.
func (s *producers) last() map[int64]segment.LastBatch {
	m := make(map[int64]segment.LastBatch, len(s.byID))
	for id, p := range s.byID {
		b := segment.LastBatch{Offset: -1, Epoch: p.epoch}
		if p.count > 0 {
			b.Offset = p.batches[p.count-1].lastOffset
		}
		m[id] = b
	}
	return m
}

// expire forgets producers that wrote nothing since before (ms).
func (s *producers) expire(before int64) {
	for id, p := range s.byID {
		if p.lastTimestamp < before {
			delete(s.byID, id)
		}
	}
}

// truncate forgets the batches at or beyond end. It reports whether what is left is what one would know who had never seen them: of a producer all
// of whose batches go, the earlier ones are not remembered any more, so that the log has to be read.
//
// Fewer batches may be left of a producer than are remembered otherwise. Those that are missing are older than five that were in the log, so
// their producer has had their acknowledgements.
func (s *producers) truncate(end int64) (known bool) {
	for _, p := range s.byID {
		n := p.count
		for n > 0 && p.batches[n-1].lastOffset >= end {
			n--
		}
		if n == 0 && p.count > 0 {
			return false
		}
		p.count = n
	}
	return true
}
