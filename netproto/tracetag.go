package netproto

import (
	"encoding/binary"

	"weir/internal/budget"
)

// A request that a node sends for a client's request carries the trace of that, as a tagged field of the request header, where KIP-482 lets anybody add some
// that others skip. Its key is far from those that Kafka gives out one after the other.
const traceTag = 0x57656972 // "Weir"

// parseTags reads the tags of a request header.
func (r *Request) parseTags(d *decoder) {
	for n := d.tags("header"); n > 0 && d.err == nil; n-- {
		if key, value := d.tag("header"); key == traceTag && d.err == nil {
			r.Trace, _ = budget.ParseTrace(value) // what is none of ours is skipped, like any other tag
		}
	}
}

// appendTags writes the tags of a request header: the trace, if there is one.
func appendTags(b []byte, trace *budget.Trace) []byte {
	if trace == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.AppendUvarint(b, traceTag)
	b = binary.AppendUvarint(b, budget.TraceBytes)
	return trace.Append(b)
}

// tagBytes is the length of what appendTags writes.
func tagBytes(trace *budget.Trace) int {
	if trace == nil {
		return 1
	}
	return len(appendTags(make([]byte, 0, 64), trace))
}
