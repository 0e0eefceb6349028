package replica

import (
	"encoding/base64"
	"strconv"
	"strings"
)

// What offline tools need to know of the formats that this package owns.

// ParseDirName is the inverse of what names a partition's directory; ok is false for any other name.
func ParseDirName(name string) (topic string, partition int32, id [16]byte, ok bool) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return "", 0, id, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(name[dot+1:])
	dash := strings.LastIndexByte(name[:dot], '-')
	if err != nil || len(raw) != len(id) || dash < 1 {
		return "", 0, id, false
	}
	n, err := strconv.ParseUint(name[dash+1:dot], 10, 31)
	copy(id[:], raw)
	return name[:dash], int32(n), id, err == nil
}

// DirName names a partition's directory below topics/.
func DirName(topic string, partition int32, id [16]byte) string { return dirName(topic, partition, id) }

// WALEntry is what the header of an entry of the write-ahead log says.
type WALEntry struct {
	TopicID   [16]byte
	Partition int32
	Op        WALOp
	Offset    int64 // what it means depends on Op
}

// WALOp is what an entry does to its partition's log.
type WALOp byte

// The entries there are.
const (
	WALBatch    = WALOp(opBatch)    // appends the batch that is its body
	WALTruncate = WALOp(opTruncate) // the log ends at Offset
	WALReset    = WALOp(opReset)    // the log begins and ends at Offset
	WALAfterGap = WALOp(opAfterGap) // appends the batch that is its body; the log ended at Offset, and the offsets between have no records
)

// HasBatch reports whether the entry's body is a batch.
func (op WALOp) HasBatch() bool { return op == WALBatch || op == WALAfterGap }

// ParseWALHead tells what an entry of the write-ahead log is, and whose.
func ParseWALHead(b []byte) (WALEntry, error) {
	h, err := parseHead(b)
	return WALEntry{TopicID: h.id, Partition: h.partition, Op: WALOp(h.op), Offset: h.offset}, err
}

// SnapshotSuffix ends the names of producer snapshots.
const SnapshotSuffix = snapshotSuffix

// ProducerState is one producer in a snapshot.
type ProducerState struct {
	ID            int64 `json:"id"`
	Epoch         int16 `json:"epoch"`
	LastTimestamp int64 `json:"last_timestamp"`
	LastSequence  int32 `json:"last_sequence"`
	LastOffset    int64 `json:"last_offset"`
}

// InspectSnapshot decodes a producer snapshot. The error says what is damaged.
func InspectSnapshot(data []byte) (offset int64, states []ProducerState, err error) {
	s, offset, err := decodeProducers(data)
	if err != nil {
		return 0, nil, err
	}
	for id, p := range s.byID {
		st := ProducerState{ID: id, Epoch: p.epoch, LastTimestamp: p.lastTimestamp, LastSequence: -1, LastOffset: -1}
		if p.count > 0 {
			last := p.batches[p.count-1]
			st.LastSequence, st.LastOffset = last.lastSequence, last.lastOffset
		}
		states = append(states, st)
	}
	return offset, states, nil
}
