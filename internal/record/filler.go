package record

import "encoding/binary"

// NewFiller returns a batch without records that stands for the offsets from base to base+lastOffsetDelta, as compaction leaves one.
// Readers pass over it. It has no producer, no timestamp and no leader epoch.
func NewFiller(base int64, lastOffsetDelta int32) Batch {
	b := make(Batch, HeaderSize)
	be := binary.BigEndian
	b.SetBaseOffset(base)
	be.PutUint32(b[offBatchLength:], HeaderSize-LengthSize)
	b.SetLeaderEpoch(-1)
	b[offMagic] = Magic
	be.PutUint32(b[offLastOffsetDelta:], uint32(lastOffsetDelta))
	const none = ^uint64(0)
	be.PutUint64(b[offBaseTimestamp:], none)
	be.PutUint64(b[offMaxTimestamp:], none)
	be.PutUint64(b[offProducerID:], none)
	be.PutUint16(b[offProducerEpoch:], 0xffff)
	be.PutUint32(b[offBaseSequence:], 0xffffffff)
	b.StampCRC()
	return b
}
