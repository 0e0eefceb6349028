package replica

import (
	"encoding/binary"
	"fmt"
)

// Entries of the write-ahead log have one of two headers, told apart by their size. All integers are big-endian.
//
//	a batch:  topic id (16) | partition (4)
//	others:   topic id (16) | partition (4) | what (1) | offset (8)
//
// What an entry of the second kind is: a truncation, after which the log ends at the offset; a reset, after which it begins and ends there; a
// batch of a follower, before which its log ended at the offset, since the leader's has been compacted. The first two have no body.
const (
	headSize       = 16 + 4
	recordHeadSize = headSize + 1 + 8
)

const (
	opBatch    byte = 0
	opTruncate byte = 1
	opReset    byte = 2
	opAfterGap byte = 3
)

// head is the header of an entry.
type head struct {
	id        [16]byte
	partition int32
	op        byte
	offset    int64 // not of a batch
}

// walHead is the header in front of the partition's batches in the WAL.
func walHead(id [16]byte, partition int32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, headSize), id[:]...), uint32(partition))
}

// recordHead is the header of another entry of the partition whose batches have batchHead.
func recordHead(batchHead []byte, op byte, offset int64) []byte {
	h := append(make([]byte, 0, recordHeadSize), batchHead...)
	return binary.BigEndian.AppendUint64(append(h, op), uint64(offset))
}

// followerHead is the header in front of a batch that begins at base and comes from the leader, where the log ends at end.
func (p *Partition) followerHead(end, base int64) []byte {
	if base <= end {
		return p.head
	}
	return recordHead(p.head, opAfterGap, end)
}

// parseHead is the inverse of walHead and recordHead.
func parseHead(b []byte) (h head, err error) {
	if len(b) != headSize && len(b) != recordHeadSize {
		return h, fmt.Errorf("WAL entry header of %d bytes, %d or %d expected", len(b), headSize, recordHeadSize)
	}
	copy(h.id[:], b)
	h.partition = int32(binary.BigEndian.Uint32(b[16:]))
	if len(b) == headSize {
		return h, nil
	}
	h.op, h.offset = b[headSize], int64(binary.BigEndian.Uint64(b[headSize+1:]))
	if h.op < opTruncate || h.op > opAfterGap || h.offset < 0 {
		return h, fmt.Errorf("WAL entry header says %d with offset %d: %d to %d expected", h.op, h.offset, opTruncate, opAfterGap)
	}
	return h, nil
}
