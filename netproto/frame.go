package netproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"weir/internal/iobuf"
)

const (
	sizeBytes = 4 // the length in front of a frame

	// readBytesMin and readBytesMax bound the shared read buffer; it grows while reads fill it and shrinks when they do not.
	readBytesMin = 4 << 10
	readBytesMax = 32 << 10
	// sharedFrameMax is the largest frame, with its size field, that is collected in the shared read buffer.
	sharedFrameMax = 16 << 10
	// strangerBytes is what a frame's own buffer starts with on a connection that has not yet delivered more.
	strangerBytes = 64 << 10
	// provenBytesMax bounds what a connection is trusted with because it delivered as much before.
	provenBytesMax = 16 << 20
	// frameLimit is what bounds a request's frame.
	frameLimit = "socket.request.max.bytes"
)

// frameReader splits a byte stream into frames. Small frames are views of a shared read buffer, each with a reference of
// its own; a large frame gets its own buffer, into which it is read directly. That buffer starts at strangerBytes, or as
// large as what this stream has proven to deliver, and doubles as bytes really arrive: an announced length costs nothing.
type frameReader struct {
	src    io.Reader
	min    int             // smallest frame
	max    int             // largest frame
	limit  string          // what bounds it, for messages
	take   func(int) error // takes memory for a frame before it is used; nil: there is no bound
	shared *iobuf.Buf
	r, w   int // unread bytes are shared[r:w]
	next   int // size of the next shared buffer
	proven int // largest frame delivered, up to provenBytesMax
	inOwn  bool
	n      int64 // bytes read
}

func newFrameReader(src io.Reader, max int) *frameReader {
	return &frameReader{src: src, min: headerBytesMin, max: max, limit: frameLimit, next: readBytesMin, proven: strangerBytes}
}

// size waits for the size field of the next frame and checks it. io.EOF means that the stream ended between frames.
func (f *frameReader) size() (int, error) {
	for f.w-f.r < sizeBytes {
		if err := f.fill(sizeBytes); err != nil {
			if errors.Is(err, io.EOF) && f.w > f.r {
				return 0, fmt.Errorf("%w: %d of %d bytes of its size field came", ErrTruncated, f.w-f.r, sizeBytes)
			}
			return 0, err
		}
	}
	head := f.shared.Bytes()[f.r : f.r+sizeBytes]
	size := int(int32(binary.BigEndian.Uint32(head)))
	switch {
	case size < 0:
		return 0, fmt.Errorf("%w: %d, at most %d%s", ErrFrameSize, size, f.max, hint(head))
	case size > f.max:
		return 0, fmt.Errorf("%w: %d, at most %d (%s)%s", ErrFrameSize, size, f.max, f.limit, hint(head))
	case size < f.min:
		return 0, fmt.Errorf("%w: %d, at least %d%s", ErrFrameSize, size, f.min, hint(head))
	}
	return size, nil
}

// apiKey waits for the API key of the frame whose size has just been returned, and leaves it where it is.
func (f *frameReader) apiKey() (int16, error) {
	const need = sizeBytes + 2
	for f.w-f.r < need {
		if err := f.fill(need); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: %d bytes of it came", ErrTruncated, f.w-f.r-sizeBytes)
			}
			return 0, err
		}
	}
	return int16(binary.BigEndian.Uint16(f.shared.Bytes()[f.r+sizeBytes:])), nil
}

// hint guesses what a stranger that does not speak Kafka's protocol speaks instead.
func hint(head []byte) string {
	switch s := string(head); {
	case head[0] == 0x16 && head[1] == 0x03:
		return "; this looks like TLS on a plaintext listener"
	case s == "GET " || s == "POST" || s == "PUT " || s == "HEAD" || s == "OPTI" || s == "CONN":
		return "; this looks like HTTP"
	}
	return ""
}

// frame returns the frame of the given size, which size has returned just before, with one reference to its buffer.
func (f *frameReader) frame(size int) ([]byte, *iobuf.Buf, error) {
	total := sizeBytes + size
	if f.w-f.r < total && total > sharedFrameMax {
		return f.ownFrame(size)
	}
	if err := f.more(size); err != nil {
		return nil, nil, err
	}
	for f.w-f.r < total {
		if err := f.fill(total); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: %d of %d bytes came", ErrTruncated, f.w-f.r-sizeBytes, size)
			}
			return nil, nil, err
		}
	}
	b := f.shared.Bytes()[f.r+sizeBytes : f.r+total : f.r+total]
	f.r += total
	return b, f.shared.Retain(), nil
}

// buffered reports whether the next frame is there already, so that taking it does not block.
func (f *frameReader) buffered() bool {
	have := f.w - f.r
	if have < sizeBytes {
		return false
	}
	return int64(have) >= sizeBytes+int64(int32(binary.BigEndian.Uint32(f.shared.Bytes()[f.r:])))
}

// partial reports whether the stream stands inside a frame.
func (f *frameReader) partial() bool { return f.inOwn || f.w > f.r }

// fill reads once into the shared buffer, which first gets room for a frame of need bytes.
func (f *frameReader) fill(need int) error {
	f.makeRoom(need)
	space := f.shared.Bytes()[f.w:]
	n, err := f.src.Read(space)
	f.w += n
	f.n += int64(n)
	switch {
	case n == len(space):
		f.next = min(f.next*2, readBytesMax)
	case n < f.next/8:
		f.next = max(f.next/2, readBytesMin)
	}
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// makeRoom sees to it that need bytes fit from r on, and that a read between frames is worth its system call. Bytes before w
// belong to frames that were handed out, or are unread; a new buffer takes the unread ones along.
func (f *frameReader) makeRoom(need int) {
	if f.shared != nil {
		size := f.shared.Len()
		if fits := f.r+need <= size; fits && (need > sizeBytes || size-f.w >= size/4) {
			return
		}
	}
	fresh := iobuf.Get(max(f.next, need))
	fresh.SetLen(fresh.Cap())
	n := 0
	if f.shared != nil {
		n = copy(fresh.Bytes(), f.shared.Bytes()[f.r:f.w])
		f.shared.Release()
	}
	f.shared, f.r, f.w = fresh, 0, n
}

// more takes memory for n bytes more of the present frame.
func (f *frameReader) more(n int) error {
	if f.take == nil {
		return nil
	}
	return f.take(n)
}

// ownFrame reads a large frame, whose beginning may be in the shared buffer.
func (f *frameReader) ownFrame(size int) ([]byte, *iobuf.Buf, error) {
	if err := f.more(footprint(min(size, f.proven))); err != nil {
		return nil, nil, err
	}
	buf := iobuf.Get(min(size, f.proven))
	n := copy(buf.Bytes(), f.shared.Bytes()[f.r+sizeBytes:f.w])
	f.r = f.w
	f.inOwn = true
	defer func() { f.inOwn = false }()
	for n < size {
		if n == buf.Len() {
			want := min(size, 2*buf.Len())
			if err := f.more(footprint(want) - buf.Cap()); err != nil {
				buf.Release()
				return nil, nil, err
			}
			grown := iobuf.Get(want)
			copy(grown.Bytes(), buf.Bytes())
			buf.Release()
			buf = grown
		}
		m, err := f.src.Read(buf.Bytes()[n:])
		n += m
		f.n += int64(m)
		if m > 0 || (n == size) {
			continue
		}
		buf.Release()
		switch {
		case errors.Is(err, io.EOF):
			err = fmt.Errorf("%w: %d of %d bytes came", ErrTruncated, n, size)
		case err == nil:
			err = io.ErrNoProgress
		}
		return nil, nil, err
	}
	f.proven = min(max(f.proven, size), provenBytesMax)
	return buf.Bytes(), buf, nil
}

// close releases the shared buffer.
func (f *frameReader) close() {
	if f.shared != nil {
		f.shared.Release()
		f.shared = nil
	}
	f.r, f.w = 0, 0
}
