package record

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a compression of a batch's records, numbered as in the attributes.
type Codec uint8

const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// String is the codec's name in Kafka's configuration.
func (c Codec) String() string {
	if names := [...]string{"none", "gzip", "snappy", "lz4", "zstd"}; int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// ErrTooLarge: decompressed records exceed the caller's bound.
var ErrTooLarge = errors.New("decompressed records are too large")

// xerial is the framing that Java's snappy puts around its blocks.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

var zstdDecoders = sync.Pool{New: func() any {
	// The window that a frame asks for is allocated before its content is seen, so it must be bounded. 2^27 is the
	// most that Java's decoder accepts too.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(1<<27))
	if err != nil {
		panic(fmt.Sprintf("BUG: record: zstd options: %v", err))
	}
	return d
}}

// Decompress returns the records of a payload, at most limit bytes of them. With None it returns payload itself.
func (c Codec) Decompress(payload []byte, limit int) ([]byte, error) {
	switch c {
	case None:
		if len(payload) > limit {
			return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(payload), limit)
		}
		return payload, nil
	case Gzip:
		r, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %v", ErrInvalid, err)
		}
		return readAll(c, r, limit)
	case Snappy:
		return decompressSnappy(payload, limit)
	case LZ4:
		return readAll(c, lz4.NewReader(bytes.NewReader(payload)), limit)
	case Zstd:
		d := zstdDecoders.Get().(*zstd.Decoder)
		defer func() {
			_ = d.Reset(nil) // do not keep the payload alive; nil cannot fail
			zstdDecoders.Put(d)
		}()
		if err := d.Reset(bytes.NewReader(payload)); err != nil {
			return nil, fmt.Errorf("%w: zstd: %v", ErrInvalid, err)
		}
		return readAll(c, d, limit)
	}
	return nil, fmt.Errorf("%w: unknown compression codec %d", ErrInvalid, c)
}

func readAll(c Codec, r io.Reader, limit int) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrInvalid, c, err)
	}
	if len(out) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return out, nil
}

func decompressSnappy(p []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(p, xerial) {
		return appendSnappyBlock(nil, p, limit)
	}
	if len(p) < 16 {
		return nil, fmt.Errorf("%w: snappy: framing header of %d bytes, 16 expected", ErrInvalid, len(p))
	}
	var out []byte
	for p = p[16:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, fmt.Errorf("%w: snappy: block length cut short", ErrInvalid)
		}
		n := binary.BigEndian.Uint32(p)
		if p = p[4:]; uint64(n) > uint64(len(p)) {
			return nil, fmt.Errorf("%w: snappy: block of %d bytes where %d are left", ErrInvalid, n, len(p))
		}
		var err error
		if out, err = appendSnappyBlock(out, p[:n], limit); err != nil {
			return nil, err
		}
		p = p[n:]
	}
	return out, nil
}

func appendSnappyBlock(out, block []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return nil, fmt.Errorf("%w: snappy: %v", ErrInvalid, err)
	}
	if n > limit-len(out) {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	// Snappy expands at most 64 bytes from 3, so a length far above that is a lie that must not be allocated.
	if n > 64*len(block)+64 {
		return nil, fmt.Errorf("%w: snappy: %d bytes cannot come from %d", ErrInvalid, n, len(block))
	}
	dec, err := s2.Decode(nil, block)
	if err != nil {
		return nil, fmt.Errorf("%w: snappy: %v", ErrInvalid, err)
	}
	if out == nil {
		return dec, nil
	}
	return append(out, dec...), nil
}

// Compress appends the compressed form of records to dst.
func (c Codec) Compress(dst, records []byte) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	var w io.WriteCloser
	switch c {
	case None:
		return append(dst, records...), nil
	case Snappy:
		return append(dst, s2.EncodeSnappy(nil, records)...), nil
	case Gzip:
		w = gzip.NewWriter(buf)
	case LZ4:
		w = lz4.NewWriter(buf)
	case Zstd:
		enc, err := zstd.NewWriter(buf, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		w = enc
	default:
		return nil, fmt.Errorf("%w: unknown compression codec %d", ErrInvalid, c)
	}
	if _, err := w.Write(records); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
