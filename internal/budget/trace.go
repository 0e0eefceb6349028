package budget

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
)

// Trace joins what several nodes did for one request. A request that no other node sees gets its ids when, and if, they are needed.
type Trace struct {
	ID      [16]byte // all zeroes: none yet
	Parent  [8]byte  // the span that caused this one, on another node; all zeroes: this is the first
	Span    [8]byte  // this request's
	Sampled bool     // it is to be exported even if it is not slow
}

// TraceBytes is the length of an encoded Trace: id, span and flags, as W3C's traceparent has them.
const TraceBytes = 16 + 8 + 1

const flagSampled = 1

// NewTrace draws ids.
func NewTrace(sampled bool) Trace {
	t := Trace{Sampled: sampled}
	putRandom(t.ID[:8])
	putRandom(t.ID[8:])
	putRandom(t.Span[:])
	return t
}

func putRandom(b []byte) {
	for v := rand.Uint64() | 1; len(b) > 0; b = b[1:] { // never all zeroes, which is no id
		b[0], v = byte(v), v>>8
	}
}

// Known reports whether there are ids.
func (t *Trace) Known() bool { return t.ID != [16]byte{} }

// Append encodes the trace for another node, whose span will be a child of this one.
func (t *Trace) Append(b []byte) []byte {
	b = append(b, t.ID[:]...)
	b = append(b, t.Span[:]...)
	if t.Sampled {
		return append(b, flagSampled)
	}
	return append(b, 0)
}

// ParseTrace reads what Append wrote on another node; ok is false for anything else.
func ParseTrace(b []byte) (t Trace, ok bool) {
	if len(b) != TraceBytes {
		return Trace{}, false
	}
	copy(t.ID[:], b)
	copy(t.Parent[:], b[16:])
	t.Sampled = b[24]&flagSampled != 0
	if !t.Known() || t.Parent == [8]byte{} {
		return Trace{}, false
	}
	putRandom(t.Span[:])
	return t, true
}

// String is the trace's id in hex.
func (t *Trace) String() string { return hex.EncodeToString(t.ID[:]) }

type contextKey struct{}

// WithTrace has the calls that are made with ctx carry the trace to the other node.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// FromContext returns what WithTrace put there.
func FromContext(ctx context.Context) (t Trace, ok bool) {
	t, ok = ctx.Value(contextKey{}).(Trace)
	return t, ok
}
