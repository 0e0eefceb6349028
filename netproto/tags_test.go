package netproto

import (
	"encoding/binary"
	"errors"
	"testing"
)

// TestTagsAreBounded: the tags of one request are bounded together, wherever they are: each structure that has some costs a map, many times
// what a stranger sends for it.
func TestTagsAreBounded(t *testing.T) {
	atTheEnd := func(n int) []byte { // of ApiVersions v3
		body := binary.AppendUvarint([]byte{2, 'a', 2, 'b'}, uint64(n))
		for key := range n {
			body = append(binary.AppendUvarint(body, uint64(key)), 0)
		}
		return body
	}
	inElements := func(n int) []byte { // of LeaveGroup v5, whose members have one each
		body := binary.AppendUvarint([]byte{2, 'g'}, uint64(n)+1)
		for range n {
			body = append(body, 1, 0, 0, 1, 0, 0)
		}
		return append(body, 0)
	}
	for name, tt := range map[string]struct {
		key, version int16
		body         func(n int) []byte
	}{
		"of the request":   {keyApiVersions, 3, atTheEnd},
		"of many elements": {13, 5, inElements},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decodeBody(tt.key, tt.version, tt.body(tagsMax)); err != nil {
				t.Errorf("%d tags: %v", tagsMax, err)
			}
			if _, err := decodeBody(tt.key, tt.version, tt.body(tagsMax+1)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d tags: error %v, want ErrMalformed", tagsMax+1, err)
			}
		})
	}
}
