package wal

import (
	"bytes"
	"testing"
)

func FuzzFrame(f *testing.F) {
	b := make([]byte, frameBytes+10)
	copy(b[frameBytes:], "0123456789")
	putFrame(b, frame{length: 10, lsn: 77, generation: 5, kind: KindInline, headBytes: 3})
	f.Add(b)
	g := make([]byte, blockBytes)
	putGroupFrame(g, groupHead{lsn: 4096, generation: 1, durable: 5, bytes: groupFrameBytes})
	f.Add(g)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := parseFrame(b); err == nil {
			again := bytes.Clone(b[:frameBytes+fr.length])
			putFrame(again, fr)
			if !bytes.Equal(again, b[:len(again)]) {
				t.Fatalf("frame %+v does not encode to what it was decoded from", fr)
			}
		}
		g, err := parseGroupFrame(b)
		if err != nil {
			return
		}
		if checkGroup(b, g) == nil {
			n := 0
			if err := eachEntry(b, g, func(LSN, Kind, []byte, []byte) error { n++; return nil }); err != nil || n != g.entries {
				t.Fatalf("good group of %d entries yields %d, %v", g.entries, n, err)
			}
		}
	})
}

func FuzzHeader(f *testing.F) {
	b := make([]byte, blockBytes)
	h := fileHeader{seq: 7, generation: 3 << 32, fileBytes: 64 << 10, prevEnd: 7*64<<10 - blockBytes, oldest: 5 * 64 << 10}
	h.put(b)
	f.Add(b)
	f.Add(b[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, blockBytes)
		h.put(again)
		if !bytes.Equal(again[16:headerCRCAt], b[16:headerCRCAt]) {
			t.Fatalf("header %+v does not encode to what it was decoded from", h)
		}
	})
}

func FuzzExternal(f *testing.F) {
	f.Add((&External{Partition: 1, NextOffset: 2, Length: 3}).AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := ParseExternal(b); err == nil && !bytes.Equal(x.AppendTo(nil), b) {
			t.Fatalf("%+v does not encode to what it was decoded from", x)
		}
	})
}

// FuzzScan damages a log at will. Whatever the damage, recovery ends, and what it hands out is a run of what was written.
func FuzzScan(f *testing.F) {
	fs := newImage()
	o := tinyOptions()
	o.FS, o.FileBytes = fs, fileBytesMin
	r := newRig(f, o)
	r.start()
	for i := range 4 {
		r.commit(body(i, 2000))
	}
	r.close()
	acked := r.mu.acked
	f.Add(uint8(0), uint16(4096), []byte{0, 1, 2})
	f.Add(uint8(1), uint16(0), make([]byte, 4096))
	f.Add(uint8(0), uint16(16), []byte{9})
	f.Add(uint8(3), uint16(8192), fs.bytes("wal-0000.log")[4096:8192])
	f.Fuzz(func(t *testing.T, file uint8, at uint16, patch []byte) {
		image := fs.clone()
		b := image.bytes(slotName(int(file % 2)))
		copy(b[int(at)%len(b):], patch)
		got, _, err := recoverImage(image)
		if err != nil && got == nil {
			return
		}
		if len(got) > len(acked) {
			t.Fatalf("%d entries from %d", len(got), len(acked))
		}
		sameBodies(t, "damaged log", got, acked[:len(got)])
	})
}
