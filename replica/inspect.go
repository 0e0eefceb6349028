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

// ParseWALHead tells whose batch an entry of the write-ahead log carries.
func ParseWALHead(head []byte) (id [16]byte, partition int32, err error) { return parseWALHead(head) }

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
