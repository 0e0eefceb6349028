package broker

import (
	"encoding/binary"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/iobuf"
)

// hasParked reports whether any connection has a fetch waiting.
func hasParked(r *Running) bool { return r.b.waiting.Load() > 0 }

// frameOf is a request frame with this header and body; size < 0 means the true one.
func frameOf(size int64, key, version int16, body []byte) []byte {
	head := binary.BigEndian.AppendUint16(nil, uint16(key))
	head = binary.BigEndian.AppendUint16(head, uint16(version))
	head = binary.BigEndian.AppendUint32(head, 1)
	head = append(head, 0, 1, 'c')
	frame := append(head, body...)
	if size < 0 {
		size = int64(len(frame))
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(size)), frame...)
}

// TestHostileFrames: each closes its connection, allocates nothing for what it only claims, and leaves the broker well.
func TestHostileFrames(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	createTopic(t, dial(t, r), "t", 1)
	before := iobuf.InUse()
	for _, c := range []struct {
		what  string
		bytes []byte
	}{
		{"length 2^31-1", frameOf(1<<31-1, 0, 9, nil)},
		{"negative length", frameOf(1<<32-1, 0, 9, nil)},
		{"length 0", frameOf(0, 0, 9, nil)},
		{"length of half a header", frameOf(5, 0, 9, nil)},
		{"unknown api key", frameOf(-1, 9999, 0, nil)},
		{"negative api key", frameOf(-1, -1, 0, nil)},
		{"produce version of the past", frameOf(-1, 0, 2, nil)},
		{"produce version of the future", frameOf(-1, 0, 99, nil)},
		{"metadata version of the future", frameOf(-1, 3, 99, nil)},
		{"produce with an empty body", frameOf(-1, 0, 3, nil)},
		{"produce with 2^31-1 topics", frameOf(-1, 0, 3, []byte{0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff})},
		{"fetch with an empty body", frameOf(-1, 1, 4, nil)},
		{"metadata with 2^31-1 topics", frameOf(-1, 3, 1, []byte{0x7f, 0xff, 0xff, 0xff})},
		{"metadata with trailing bytes", frameOf(-1, 3, 1, []byte{0, 0, 0, 0, 1})},
	} {
		w := dial(t, r)
		if _, err := w.conn.Write(c.bytes); err != nil {
			t.Fatal(err)
		}
		w.closed(c.what)
	}
	if grown := iobuf.InUse() - before; grown > 16<<20 {
		t.Errorf("%d bytes more in use", grown)
	}
	mustProduce(t, dial(t, r), "t", "still here")
}

// TestUnknownApiVersionsVersion: ApiVersions alone is answered in version 0 when its version is unknown (KIP-35).
func TestUnknownApiVersionsVersion(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	if _, err := w.conn.Write(frameOf(-1, apiVersionsKey, 99, nil)); err != nil {
		t.Fatal(err)
	}
	_, body, err := w.frame()
	if err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	if resp.ErrorCode != 35 || len(resp.ApiKeys) == 0 {
		t.Errorf("code %d with %d keys, want UNSUPPORTED_VERSION (35) and the table", resp.ErrorCode, len(resp.ApiKeys))
	}
	got := w.do(kmsg.NewPtrApiVersionsRequest()).(*kmsg.ApiVersionsResponse)
	if got.ErrorCode != 0 {
		t.Errorf("version 0 on the same connection: code %d", got.ErrorCode)
	}
}
