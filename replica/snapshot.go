package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"sort"

	"weir/internal/record"
)

// A producer snapshot is a side file of a partition, named by the offset it was taken at: applying the batch headers
// from that offset on to it gives the present state. The layout, big-endian:
//
//	magic "WPS1" | offset i64 | count u32 | count x producer | crc32c u32 of all before
//	producer: id i64 | epoch i16 | last timestamp i64 | batches u8 | batches x batch
//	batch: base sequence i32 | last sequence i32 | base offset i64 | last offset i64 | timestamp i64
const (
	snapshotMagic    = "WPS1"
	snapshotSuffix   = ".snapshot"
	snapshotProducer = 8 + 2 + 8 + 1
	snapshotBatch    = 4 + 4 + 8 + 8 + 8
	// snapshotsKept: the newest may lie beyond what a crash left of the log, so the one before it stays.
	snapshotsKept = 2
)

var errSnapshot = errors.New("bad producer snapshot")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func snapshotName(offset int64) string { return fmt.Sprintf("%020d%s", offset, snapshotSuffix) }

// encode writes the state as of offset.
func (s *producers) encode(offset int64) []byte {
	be := binary.BigEndian
	out := append([]byte(nil), snapshotMagic...)
	out = be.AppendUint64(out, uint64(offset))
	out = be.AppendUint32(out, uint32(len(s.byID)))
	ids := make([]int64, 0, len(s.byID))
	for id := range s.byID {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		p := s.byID[id]
		out = be.AppendUint64(out, uint64(id))
		out = be.AppendUint16(out, uint16(p.epoch))
		out = be.AppendUint64(out, uint64(p.lastTimestamp))
		out = append(out, byte(p.count))
		for _, b := range p.batches[:p.count] {
			out = be.AppendUint32(out, uint32(b.baseSequence))
			out = be.AppendUint32(out, uint32(b.lastSequence))
			out = be.AppendUint64(out, uint64(b.baseOffset))
			out = be.AppendUint64(out, uint64(b.lastOffset))
			out = be.AppendUint64(out, uint64(b.timestamp))
		}
	}
	return be.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// decodeProducers reads a snapshot. Any damage is an error; the caller then falls back to an older one or to a scan.
func decodeProducers(data []byte) (producers, int64, error) {
	be := binary.BigEndian
	head := len(snapshotMagic) + 8 + 4
	if len(data) < head+4 || string(data[:4]) != snapshotMagic {
		return producers{}, 0, fmt.Errorf("%w: %d bytes, magic missing", errSnapshot, len(data))
	}
	body, sum := data[:len(data)-4], be.Uint32(data[len(data)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return producers{}, 0, fmt.Errorf("%w: checksum %08x, calculated %08x", errSnapshot, sum, got)
	}
	offset, count := int64(be.Uint64(body[4:])), be.Uint32(body[12:])
	s, in := producers{byID: map[int64]*producer{}}, body[head:]
	for range count {
		if len(in) < snapshotProducer {
			return producers{}, 0, fmt.Errorf("%w: cut short", errSnapshot)
		}
		p := &producer{epoch: int16(be.Uint16(in[8:])), lastTimestamp: int64(be.Uint64(in[10:])), count: int8(in[18])}
		id := int64(be.Uint64(in))
		in = in[snapshotProducer:]
		if p.count < 0 || p.count > producerBatches || len(in) < int(p.count)*snapshotBatch {
			return producers{}, 0, fmt.Errorf("%w: producer %d with %d batches in %d bytes", errSnapshot, id, p.count, len(in))
		}
		for i := range p.batches[:p.count] {
			p.batches[i] = batchRef{
				baseSequence: int32(be.Uint32(in)), lastSequence: int32(be.Uint32(in[4:])),
				baseOffset: int64(be.Uint64(in[8:])), lastOffset: int64(be.Uint64(in[16:])),
				timestamp: int64(be.Uint64(in[24:])),
			}
			in = in[snapshotBatch:]
		}
		s.byID[id] = p
	}
	if len(in) > 0 {
		return producers{}, 0, fmt.Errorf("%w: %d bytes too many", errSnapshot, len(in))
	}
	return s, offset, nil
}

// writeSnapshot saves the producers' state as of the log's present end, and deletes older snapshots. It waits until all that is in the
// state is durable: a snapshot of records that a crash undoes would be taken, later, for one of those written in their place. If the log is
// truncated meanwhile there is none.
func (p *Partition) writeSnapshot() {
	if p.loadProducers() != nil {
		return // said by it
	}
	p.mu.Lock()
	p.expireProducersLocked()
	offset, cuts := p.log.End(), p.mu.cuts
	data := p.mu.producers.encode(offset)
	p.mu.Unlock()
	if offset == p.log.LogStart() {
		return // an empty log needs none
	}
	if !p.waitDurable(offset, cuts) {
		return
	}
	written, ok := p.beginSnapshot(cuts)
	if !ok {
		return
	}
	defer p.endSnapshot(written)
	if err := p.log.WriteSide(snapshotName(offset), data); err != nil {
		p.m.log.Warn("producer snapshot not written; the next start scans more", "partition", p.name, "err", err)
		return
	}
	names, err := p.log.ListSide(snapshotSuffix)
	if err != nil {
		p.m.log.Warn("cannot list producer snapshots", "partition", p.name, "err", err)
		return
	}
	for _, name := range names[:max(len(names)-snapshotsKept, 0)] { // sorted: oldest first
		if err := p.log.RemoveSide(name); err != nil {
			p.m.log.Warn("cannot delete old producer snapshot", "partition", p.name, "file", name, "err", err)
		}
	}
}

// beginSnapshot keeps truncations waiting until endSnapshot; false: one has come between, or is under way.
func (p *Partition) beginSnapshot(cuts uint64) (written chan struct{}, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.cuts != cuts || p.mu.truncation != nil || p.mu.snapshotting != nil {
		return nil, false
	}
	written = make(chan struct{})
	p.mu.snapshotting = written
	return written, true
}

func (p *Partition) endSnapshot(written chan struct{}) {
	p.mu.Lock()
	p.mu.snapshotting = nil
	p.mu.Unlock()
	close(written)
}

// restoreProducers reads the newest usable snapshot and the batch headers behind it.
func (p *Partition) restoreProducers() (state producers, err error) {
	from := p.log.LogStart()
	if p.log.End() == from {
		return producers{}, nil
	}
	names, err := p.log.ListSide(snapshotSuffix)
	if err != nil {
		return producers{}, err
	}
	for _, name := range slices.Backward(names) {
		data, err := p.log.ReadSide(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return producers{}, err
		}
		saved, offset, err := decodeProducers(data)
		if err == nil && offset > p.log.End() {
			// The end of the log is damaged. What will be written there is not what this is a snapshot of.
			p.m.log.Warn("producer snapshot is of records that are lost; deleted", "partition", p.name, "file", name, "log_end", p.log.End())
			if err := p.log.RemoveSide(name); err != nil {
				return producers{}, err
			}
			continue
		}
		if err != nil {
			p.m.log.Warn("producer snapshot ignored", "partition", p.name, "file", name, "err", err)
			continue
		}
		state, from = saved, max(offset, from)
		break
	}
	err = p.log.Scan(from, func(header record.Batch) error {
		state.add(header, header.MaxTimestamp())
		return nil
	})
	return state, err
}

// waitDurable waits until everything below offset is durable on this node; false if the partition ends, or is truncated, before.
func (p *Partition) waitDurable(offset int64, cuts uint64) bool {
	risen := make(chan struct{}, 1)
	wake := func() {
		select {
		case risen <- struct{}{}:
		default:
		}
	}
	// Without other replicas the high watermark is what is durable, and nobody else is told.
	replicated, alone := Waiter{Wake: wake}, Waiter{Wake: wake}
	p.WaitAppend(&replicated)
	defer replicated.Stop()
	p.Wait(&alone)
	defer alone.Stop()
	for p.Durable() < offset {
		if p.Closed() || p.cutSince(cuts) {
			return p.Durable() >= offset
		}
		select {
		case <-risen:
		case <-p.m.background.closing:
			return false
		}
	}
	return true
}

// cutSince reports whether the log was truncated since cuts were counted.
func (p *Partition) cutSince(cuts uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.cuts != cuts
}
