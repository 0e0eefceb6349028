package record

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// streamWindow is how much of the decompressed records is looked at together.
const streamWindow = 16 << 10

var streamWindows = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, streamWindow) }}

// streams bounds the batches that are decompressed for validation at a time, and with that the memory of decompressors. Nobody waits for anything
// but the processor while holding a place.
var streams = make(chan struct{}, runtime.GOMAXPROCS(0))

// stream goes through the records of a compressed batch as they are decompressed: in bounded memory, whatever they expand to, and never
// more than DecompressedBytesMax of them.
func (v *validation) stream() error {
	streams <- struct{}{}
	defer func() { <-streams }()
	limited := &io.LimitedReader{N: DecompressedBytesMax + 1}
	release, err := v.batch.Codec().open(v.batch.Payload(), limited)
	if err != nil {
		return err
	}
	defer release()
	window := streamWindows.Get().(*bufio.Reader)
	window.Reset(limited)
	defer func() {
		window.Reset(nil)
		streamWindows.Put(window)
	}()
	s := recordStream{in: window}
	err = v.records(&s)
	if limited.N == 0 {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, DecompressedBytesMax)
	}
	return err
}

func (v *validation) records(s *recordStream) error {
	count := v.batch.Count()
	for i := range count {
		timestamp, delta, hasKey, err := s.next()
		if err != nil {
			return fmt.Errorf("record %d of %d: %w", i, count, err)
		}
		if delta != int64(i) {
			return fmt.Errorf("record %d of %d: %w: offset delta %d", i, count, ErrInvalid, delta)
		}
		timestamp += v.batch.BaseTimestamp()
		v.latest = max(v.latest, timestamp)
		if timestamp > v.rules.Latest || timestamp < v.rules.Earliest && timestamp != noTimestamp || v.rules.NeedKeys && !hasKey {
			v.fault(i, timestamp, hasKey)
		}
	}
	if _, err := s.in.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("bytes after the last record")
		}
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return nil
}

// recordStream reads records, each within the size that it begins with.
type recordStream struct {
	in   *bufio.Reader
	left int64 // of the record at hand
	err  error // sticky within a record
}

// next reads a record and returns its timestamp and offset relative to the batch's.
func (s *recordStream) next() (timestamp, delta int64, hasKey bool, err error) {
	size, err := binary.ReadVarint(s.in)
	if err != nil || size < 1 {
		return 0, 0, false, fmt.Errorf("%w: record of %d bytes: %v", ErrInvalid, size, err)
	}
	s.left, s.err = size, nil
	s.skip(1) // the attributes are unused
	timestamp, delta = s.varint(), s.varint()
	key := s.bytes(true)
	s.bytes(true)
	headers := s.varint()
	if headers < 0 || headers > s.left {
		s.fail(fmt.Sprintf("%d headers in %d bytes", headers, s.left))
	}
	for ; headers > 0 && s.err == nil; headers-- {
		s.bytes(false)
		s.bytes(true)
	}
	if s.left != 0 {
		s.fail(fmt.Sprintf("%d bytes after the record's headers", s.left))
	}
	return timestamp, delta, key, s.err
}

func (s *recordStream) fail(why string) {
	if s.err == nil {
		s.err = fmt.Errorf("%w: %s", ErrInvalid, why)
	}
}

// ReadByte lets binary.ReadVarint stay within the record.
func (s *recordStream) ReadByte() (byte, error) {
	if s.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	s.left--
	return s.in.ReadByte()
}

func (s *recordStream) varint() int64 {
	if s.err != nil {
		return 0
	}
	v, err := binary.ReadVarint(s)
	if err != nil {
		s.fail(fmt.Sprintf("bad varint: %v", err))
	}
	return v
}

// bytes passes over a length and that many bytes, and reports whether they are not null.
func (s *recordStream) bytes(nullable bool) bool {
	n := s.varint()
	if n < -1 || n == -1 && !nullable {
		s.fail(fmt.Sprintf("field of %d bytes", n))
	}
	s.skip(max(n, 0))
	return n >= 0
}

func (s *recordStream) skip(n int64) {
	if s.err != nil || n == 0 {
		return
	}
	if n > s.left {
		s.fail(fmt.Sprintf("field of %d bytes where %d are left", n, s.left))
		return
	}
	s.left -= n
	if _, err := s.in.Discard(int(n)); err != nil {
		s.fail(fmt.Sprintf("cut short: %v", err))
	}
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	lz4Readers  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
)

// open makes in read the decompressed payload; release must be called when it is not read any more.
func (c Codec) open(payload []byte, in *io.LimitedReader) (release func(), err error) {
	src := bytes.NewReader(payload)
	switch c {
	case Gzip:
		r := gzipReaders.Get().(*gzip.Reader)
		if err := r.Reset(src); err != nil {
			return nil, fmt.Errorf("%w: gzip: %v", ErrInvalid, err)
		}
		in.R = r
		return func() {
			src.Reset(nil)
			gzipReaders.Put(r)
		}, nil
	case LZ4:
		r := lz4Readers.Get().(*lz4.Reader)
		r.Reset(src)
		in.R = r
		return func() {
			r.Reset(nil)
			lz4Readers.Put(r)
		}, nil
	case Zstd:
		d := zstdDecoders.Get().(*zstd.Decoder)
		release := func() {
			_ = d.Reset(nil) // do not keep the payload alive; nil cannot fail
			zstdDecoders.Put(d)
		}
		if err := d.Reset(src); err != nil {
			release()
			return nil, fmt.Errorf("%w: zstd: %v", ErrInvalid, err)
		}
		in.R = d
		return release, nil
	}
	// Snappy's blocks are decoded whole in any case.
	data, err := c.Decompress(payload, DecompressedBytesMax)
	if err != nil {
		return nil, err
	}
	in.R = bytes.NewReader(data)
	return func() {}, nil
}
