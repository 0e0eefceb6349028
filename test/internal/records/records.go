// Package records makes records whose every byte follows from who sent them and in which order, so that a test can
// check what it reads back without having kept what it sent.
package records

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// Header is a record's header.
type Header struct {
	Key   string
	Value []byte
}

// Record is a record with everything that a client can set or see.
type Record struct {
	Partition int32
	Offset    int64
	Timestamp int64 // ms since 1970
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Source makes records from (partition, index). It reuses its buffers, so a Record lives until the next call; one goroutine.
type Source struct {
	Seed      uint64
	Text      bool  // values of printable characters without tabs and newlines
	ValueMin  int   // bytes
	ValueMax  int   // bytes
	Timestamp int64 // of index 0; rises by 3 ms per record with a jitter, so that it is not monotonous

	block  []byte
	record Record
	key    []byte
	name   []byte
}

const blockBytes = 1 << 20

// mix is splitmix64's finalizer: a good hash of a counter.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill makes the block that values are cut from: half noise, half repetition, so that codecs have something to do.
func (s *Source) fill() {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_"
	size := blockBytes + s.ValueMax
	s.block = make([]byte, 0, size+8)
	for n := uint64(0); len(s.block) < size; n++ {
		x := mix(s.Seed ^ n<<20)
		if x&1 == 0 && len(s.block) >= 64 {
			s.block = append(s.block, s.block[len(s.block)-64:len(s.block)-32]...)
			continue
		}
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], x)
		if s.Text {
			for i, c := range word {
				word[i] = alphabet[int(c)%len(alphabet)]
			}
		}
		s.block = append(s.block, word[:]...)
	}
}

// At is the index-th record of a partition.
func (s *Source) At(partition int32, index int64) *Record {
	if s.block == nil {
		s.fill()
	}
	x := mix(s.Seed ^ uint64(partition)<<40 ^ uint64(index))
	r := &s.record
	r.Partition, r.Offset = partition, index
	r.Timestamp = s.Timestamp + 3*index + int64(x>>60)
	s.key = append(s.key[:0], "key-"...)
	s.key = strconv.AppendInt(s.key, int64(partition), 10)
	s.key = append(s.key, '-')
	s.key = strconv.AppendInt(s.key, index, 10)
	r.Key = s.key
	size := s.ValueMin + int(x>>32)%(s.ValueMax-s.ValueMin+1)
	from := int(x % blockBytes)
	r.Value = s.block[from : from+size]
	s.name = strconv.AppendInt(s.name[:0], index%1000, 10)
	r.Headers = append(r.Headers[:0], Header{Key: "index", Value: s.name}, Header{Key: "höhe", Value: s.block[:size%16]})
	if !s.Text { // other tools print header values, so even "binary" sources keep them printable
		r.Headers[1].Value = []byte("größe")
	}
	if x>>56 < 32 {
		r.Headers = r.Headers[:0]
	}
	return r
}

// Diff tells how got differs from want, "" where it does not. Nil and empty are different.
func Diff(got, want *Record) string {
	switch {
	case got.Partition != want.Partition:
		return fmt.Sprintf("partition %d, want %d", got.Partition, want.Partition)
	case got.Offset != want.Offset:
		return fmt.Sprintf("offset %d, want %d", got.Offset, want.Offset)
	case got.Timestamp != want.Timestamp:
		return fmt.Sprintf("timestamp %d, want %d", got.Timestamp, want.Timestamp)
	case !same(got.Key, want.Key):
		return fmt.Sprintf("key %s, want %s", show(got.Key), show(want.Key))
	case !same(got.Value, want.Value):
		return fmt.Sprintf("value %s, want %s", show(got.Value), show(want.Value))
	case len(got.Headers) != len(want.Headers):
		return fmt.Sprintf("%d headers, want %d", len(got.Headers), len(want.Headers))
	}
	for i, h := range got.Headers {
		if w := want.Headers[i]; h.Key != w.Key || !same(h.Value, w.Value) {
			return fmt.Sprintf("header %d is %q=%s, want %q=%s", i, h.Key, show(h.Value), w.Key, show(w.Value))
		}
	}
	return ""
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func show(b []byte) string {
	switch {
	case b == nil:
		return "null"
	case len(b) > 48:
		return fmt.Sprintf("%q... (%d bytes)", b[:48], len(b))
	default:
		return strconv.Quote(string(b))
	}
}
