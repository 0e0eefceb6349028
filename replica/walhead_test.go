package replica

import (
	"bytes"
	"testing"
)

// FuzzWALHead: any header is taken for what it says, or refused; what is taken is written the same way again.
func FuzzWALHead(f *testing.F) {
	batch := walHead([16]byte{1, 2, 3}, 7)
	f.Add(batch)
	for _, op := range []byte{opTruncate, opReset, opAfterGap, 0, 9} {
		f.Add(recordHead(batch, op, 1<<40))
	}
	f.Add(recordHead(batch, opTruncate, -1))
	f.Add(batch[:5])
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseHead(in)
		if err != nil {
			return
		}
		out := walHead(h.id, h.partition)
		if h.op != opBatch {
			out = recordHead(out, h.op, h.offset)
		}
		if !bytes.Equal(in, out) {
			t.Errorf("%x is read as %+v, which is written as %x", in, h, out)
		}
		if e, err := ParseWALHead(in); err != nil || e.Op.HasBatch() != (h.op == opBatch || h.op == opAfterGap) {
			t.Errorf("%x: %+v, %v", in, e, err)
		}
	})
}
