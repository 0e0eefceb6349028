//go:build invariants

package iobuf

import (
	"strings"
	"testing"
)

func TestReleasedMemoryIsPoisoned(t *testing.T) {
	b := Get(3000)
	bytes := b.Bytes()
	for i := range bytes {
		bytes[i] = 1
	}
	b.Release()
	for i, c := range bytes {
		if c != poison {
			t.Fatalf("byte %d is %#x after Release", i, c)
		}
	}
}

func TestSecondReleaseTellsOfTheFirst(t *testing.T) {
	b := &Buf{b: make([]byte, 10), class: 0}
	b.refs.Store(1)
	b.inv.released(b)
	b.refs.Store(0)
	if said := panics(b.Release); !strings.Contains(said, "TestSecondReleaseTellsOfTheFirst") {
		t.Errorf("panic says %q", said)
	}
}
