package netproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"weir/internal/iobuf"
)

func framed(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// readAll reads every frame and holds them until the end, so that one that is overwritten shows.
func readAllFrames(f *frameReader) (frames [][]byte, err error) {
	var bufs []*iobuf.Buf
	var views [][]byte
	for {
		var size int
		if size, err = f.size(); err != nil {
			break
		}
		var b []byte
		var buf *iobuf.Buf
		if b, buf, err = f.frame(size); err != nil {
			break
		}
		views, bufs = append(views, b), append(bufs, buf)
	}
	for i := range views {
		frames = append(frames, bytes.Clone(views[i]))
		bufs[i].Release()
	}
	return frames, err
}

// chunkReader returns the stream in pieces of random sizes.
type chunkReader struct {
	rng  *rand.Rand
	rest []byte
}

func (c *chunkReader) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	limit := 1 << c.rng.IntN(18)
	n := copy(b, c.rest[:min(limit, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func TestFramesSurviveAnySplitting(t *testing.T) {
	before := iobuf.InUse()
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(headerBytesMin, 300), rapid.IntRange(headerBytesMin, 40<<10), rapid.IntRange(60<<10, 400<<10)), 1, 20).Draw(t, "sizes")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var stream []byte
		var want [][]byte
		for _, n := range sizes {
			body := make([]byte, n)
			for i := range body {
				body[i] = byte(rng.Uint32())
			}
			want = append(want, body)
			stream = append(stream, framed(body)...)
		}
		f := newFrameReader(&chunkReader{rng, stream}, 1<<20)
		got, err := readAllFrames(f)
		f.close()
		if !errors.Is(err, io.EOF) || errors.Is(err, ErrTruncated) {
			t.Fatalf("error %v at the end", err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d frames, want %d", len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("frame %d of %d bytes differs", i, len(want[i]))
			}
		}
	})
	if after := iobuf.InUse(); after != before {
		t.Fatalf("%d bytes of buffers leaked", after-before)
	}
}

func TestFrameErrors(t *testing.T) {
	size := func(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	for _, tt := range []struct {
		name   string
		stream []byte
		want   error
		says   string
	}{
		{"negative", size(-1), ErrFrameSize, "-1, at most 1000000"},
		{"2^31-1", size(1<<31 - 1), ErrFrameSize, "2147483647, at most 1000000"},
		{"over the limit", size(1000001), ErrFrameSize, "1000001"},
		{"no room for a header", size(7), ErrFrameSize, "7, at least 8"},
		{"http", []byte("GET / HTTP/1.1\r\n"), ErrFrameSize, "HTTP"},
		{"tls", []byte{0x16, 0x03, 0x01, 0x02, 0x00}, ErrFrameSize, "TLS"},
		{"cut in the size", []byte{0, 0}, ErrTruncated, "2 of 4"},
		{"cut in a small frame", append(size(100), 1, 2, 3), ErrTruncated, "3 of 100"},
		{"cut in a large frame", append(size(500000), make([]byte, 70000)...), ErrTruncated, "70000 of 500000"},
		{"nothing", nil, io.EOF, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := iobuf.InUse()
			f := newFrameReader(bytes.NewReader(tt.stream), 1000000)
			_, err := readAllFrames(f)
			f.close()
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q, want %v saying %q", err, tt.want, tt.says)
			}
			if after := iobuf.InUse(); after != before {
				t.Errorf("%d bytes of buffers leaked", after-before)
			}
		})
	}
}

// TestAnnouncedSizeCostsNothing: memory follows what has arrived.
func TestAnnouncedSizeCostsNothing(t *testing.T) {
	before := iobuf.InUse()
	arrived := 200 << 10
	stream := append(binary.BigEndian.AppendUint32(nil, 100<<20), make([]byte, arrived)...)
	most := int64(0)
	src := readerFunc(func(b []byte) (int, error) {
		most = max(most, iobuf.InUse()-before)
		if len(stream) == 0 {
			return 0, io.EOF
		}
		n := copy(b, stream)
		stream = stream[n:]
		return n, nil
	})
	f := newFrameReader(src, 100<<20)
	if _, err := readAllFrames(f); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
	f.close()
	if bound := int64(2*arrived + readBytesMax); most > bound {
		t.Fatalf("%d bytes held for %d that arrived, want at most %d", most, arrived, bound)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestProvenStreamReadsLargeFramesOnce: once a large frame has come, the next one gets its whole buffer at once.
func TestProvenStreamReadsLargeFramesOnce(t *testing.T) {
	stream := bytes.Repeat(framed(make([]byte, 1<<20)), 3)
	var spaces []int
	rest := bytes.NewReader(stream)
	f := newFrameReader(readerFunc(func(b []byte) (int, error) {
		spaces = append(spaces, len(b))
		return rest.Read(b)
	}), 2<<20)
	frames, err := readAllFrames(f)
	f.close()
	if len(frames) != 3 || !errors.Is(err, io.EOF) {
		t.Fatal(len(frames), err)
	}
	whole := 0
	for _, n := range spaces {
		if n > 900<<10 {
			whole++
		}
	}
	if whole != 2 {
		t.Fatalf("reads of %v bytes: %d frames read in one piece, want 2", spaces, whole)
	}
}

func TestFrameReaderDoesNotSpin(t *testing.T) {
	f := newFrameReader(readerFunc(func([]byte) (int, error) { return 0, nil }), 1<<20)
	defer f.close()
	if _, err := f.size(); !errors.Is(err, io.ErrNoProgress) {
		t.Fatal(err)
	}
	g := newFrameReader(iotest.TimeoutReader(bytes.NewReader(framed(make([]byte, 50)))), 1<<20)
	defer g.close()
	if _, err := readAllFrames(g); !errors.Is(err, iotest.ErrTimeout) {
		t.Fatal(err)
	}
}

func FuzzFrameReader(f *testing.F) {
	f.Add(framed([]byte("12345678")), uint64(1))
	f.Add(append(framed(make([]byte, 5000)), framed(make([]byte, 20000))...), uint64(2))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff}, uint64(3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint64(4))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		fr := newFrameReader(&chunkReader{rand.New(rand.NewPCG(seed, 0)), stream}, 1<<20)
		frames, err := readAllFrames(fr)
		fr.close()
		if err == nil {
			t.Fatal("a stream ended without an error")
		}
		total := 0
		for _, b := range frames {
			if !bytes.Equal(framed(b), stream[total:total+sizeBytes+len(b)]) {
				t.Fatal("a frame differs from the stream")
			}
			total += sizeBytes + len(b)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0, 1, 'a', 0})
	f.Add([]byte{0, 7, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 1, 5, 1, 9})
	f.Fuzz(func(t *testing.T, frame []byte) {
		var r Request
		if err := r.parseHeader(frame, "a"); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if !bytes.HasSuffix(frame, r.Body) {
			t.Fatal("the body is not the end of the frame")
		}
	})
}
