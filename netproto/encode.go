package netproto

import (
	"encoding/binary"
	"math"
)

// The append functions write Kafka's primitive types in the plain or, where flexible, the compact form.

func appendInt16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }
func appendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }
func appendInt64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

func appendUvarint(b []byte, v int) []byte { return binary.AppendUvarint(b, uint64(v)) }

func appendCount(b []byte, flexible bool, n int) []byte {
	if flexible {
		return appendUvarint(b, n+1)
	}
	return appendInt32(b, int32(n))
}

func appendString[T string | []byte](b []byte, flexible bool, s T) []byte {
	if flexible {
		b = appendUvarint(b, len(s)+1)
	} else {
		b = appendInt16(b, int16(len(s)))
	}
	return append(b, s...)
}

// appendNullable writes a string, or null for "". What a string cannot hold is cut off: it is a message for people.
func appendNullable(b []byte, flexible bool, s string) []byte {
	s = s[:min(len(s), math.MaxInt16)]
	switch {
	case s != "":
		return appendString(b, flexible, s)
	case flexible:
		return append(b, 0)
	}
	return appendInt16(b, -1)
}

// appendNoTags writes an empty tag section, where there is one.
func appendNoTags(b []byte, flexible bool) []byte {
	if flexible {
		return append(b, 0)
	}
	return b
}

// LeaderAndEpoch tells a client where the leader is now (KIP-951).
type LeaderAndEpoch struct {
	LeaderID    int32 // -1: unknown
	LeaderEpoch int32
}

// leaderTagSize is the size of a tag's value that holds a LeaderAndEpoch and an empty tag section.
const leaderTagSize = 4 + 4 + 1

// appendLeaderTag writes the leader as a tag.
func appendLeaderTag(b []byte, tag int, l *LeaderAndEpoch) []byte {
	b = appendUvarint(b, tag)
	b = appendUvarint(b, leaderTagSize)
	b = appendInt32(b, l.LeaderID)
	b = appendInt32(b, l.LeaderEpoch)
	return append(b, 0)
}

// NodeEndpoint is the address of a leader named in a response.
type NodeEndpoint struct {
	ID   int32
	Host string
	Port int32
	Rack string // "": null
}

// appendEndTags writes the tag section that ends a response: the node endpoints, if any.
func appendEndTags(b []byte, nodes []NodeEndpoint) []byte {
	if len(nodes) == 0 {
		return append(b, 0)
	}
	b = append(b, 1, 0) // one tag, number 0
	size := uvarintSize(len(nodes) + 1)
	for i := range nodes {
		n := &nodes[i]
		size += 4 + uvarintSize(len(n.Host)+1) + len(n.Host) + 4 + uvarintSize(len(n.Rack)+1) + len(n.Rack) + 1
	}
	b = appendUvarint(b, size)
	b = appendCount(b, true, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		b = appendInt32(b, n.ID)
		b = appendString(b, true, n.Host)
		b = appendInt32(b, n.Port)
		b = appendNullable(b, true, n.Rack)
		b = append(b, 0)
	}
	return b
}

func uvarintSize(v int) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
