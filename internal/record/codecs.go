package record

import (
	"bytes"
	"compress/gzip"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// codecs are compressors that are made when first needed and used again and again: a new one for each batch costs more than the
// compression.
type codecs struct {
	gzip *gzip.Writer
	lz4  *lz4.Writer
	zstd *zstd.Encoder
	buf  bytes.Buffer
	s2   []byte
}

// compress appends the compressed records to dst.
func (c *codecs) compress(codec Codec, dst, records []byte) ([]byte, error) {
	switch codec {
	case None:
		return append(dst, records...), nil
	case Snappy:
		c.s2 = s2.EncodeSnappy(c.s2[:cap(c.s2)], records)
		return append(dst, c.s2...), nil
	case Zstd:
		if c.zstd == nil {
			e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
			if err != nil {
				return nil, fmt.Errorf("zstd: %w", err)
			}
			c.zstd = e
		}
		return c.zstd.EncodeAll(records, dst), nil
	case Gzip:
		c.buf.Reset()
		if c.gzip == nil {
			c.gzip = gzip.NewWriter(&c.buf)
		} else {
			c.gzip.Reset(&c.buf)
		}
		if err := writeAll(c.gzip, records); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return append(dst, c.buf.Bytes()...), nil
	case LZ4:
		c.buf.Reset()
		if c.lz4 == nil {
			c.lz4 = lz4.NewWriter(&c.buf)
			if err := c.lz4.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
				return nil, fmt.Errorf("lz4: %w", err)
			}
		} else {
			c.lz4.Reset(&c.buf)
		}
		if err := writeAll(c.lz4, records); err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
		return append(dst, c.buf.Bytes()...), nil
	}
	return nil, fmt.Errorf("%w: unknown compression codec %d", ErrInvalid, codec)
}

func writeAll(w interface {
	Write([]byte) (int, error)
	Close() error
}, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Close()
}
