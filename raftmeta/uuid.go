package raftmeta

import (
	"crypto/rand"
	"encoding/base64"
)

// NewID returns a random version 4 UUID, which is never zero. As Kafka does, ids whose text begins with a dash are avoided:
// they would read as a flag on a command line.
func NewID() [16]byte {
	for {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the process instead
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if FormatID(id)[0] != '-' {
			return id
		}
	}
}

// FormatID writes an id as Kafka does: 22 characters of URL-safe base64 without padding.
func FormatID(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }
