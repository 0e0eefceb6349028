package segment

import (
	"context"
	"errors"
	"fmt"
	"io"

	"weir/internal/record"
)

// batchBytesMax bounds what compaction reads into memory for one batch.
const batchBytesMax = 256 << 20

// errBatchSize: a batch is too large for compaction.
var errBatchSize = errors.New("batch is too large to be compacted")

// batchReader reads a sealed segment's batches one after another with pread, through a large buffer, and verifies each.
type batchReader struct {
	s        *Store
	g        *segment
	h        *handle
	throttle func(ctx context.Context, bytes int) error
	buf      []byte
	at       int64 // position of the buffer in the file
	n        int   // bytes in it
	pos      int64 // of the next batch
	next     int64 // its offset, or a lower one
	end      int64 // size of the segment
	read     int64 // bytes read
}

// openBatches makes a reader of g. buf is the memory to use; after an error of next it must be dropped.
func (s *Store) openBatches(g *segment, buf []byte, throttle func(context.Context, int) error) (*batchReader, error) {
	h, err := s.handles.acquire(g, false)
	if err != nil {
		return nil, err
	}
	g.log.mu.Lock()
	end, damage := g.size, g.damage
	g.log.mu.Unlock()
	if damage != nil {
		s.handles.release(h)
		return nil, damage
	}
	return &batchReader{s: s, g: g, h: h, throttle: throttle, buf: buf, next: g.base, end: end}, nil
}

func (r *batchReader) close() { r.s.handles.release(r.h) }

// batch returns the next batch, valid until the following call; io.EOF after the last one. Damage is a *CorruptError.
func (r *batchReader) batch(ctx context.Context) (record.Batch, error) {
	if r.pos >= r.end {
		return nil, io.EOF
	}
	if err := r.need(ctx, record.HeaderSize); err != nil {
		return nil, err
	}
	hdr := record.Batch(r.buf[r.pos-r.at:])
	if err := checkHeader(hdr, r.next, r.end-r.pos, r.g.gapsEnd); err != nil {
		return nil, r.g.corrupt(r.pos, r.next, err)
	}
	size := hdr.Size()
	if size > batchBytesMax {
		return nil, fmt.Errorf("%s: %w: %d bytes at position %d, at most %d", r.g.name, errBatchSize, size, r.pos, batchBytesMax)
	}
	if err := r.need(ctx, size); err != nil {
		return nil, err
	}
	at := int(r.pos - r.at)
	b := record.Batch(r.buf[at : at+size : at+size])
	if err := b.Check(); err != nil {
		return nil, r.g.corrupt(r.pos, r.next, err)
	}
	r.pos, r.next = r.pos+int64(size), b.NextOffset()
	return b, nil
}

// need makes sure that size bytes from pos on are in the buffer.
func (r *batchReader) need(ctx context.Context, size int) error {
	if r.pos >= r.at && r.pos+int64(size) <= r.at+int64(r.n) {
		return nil
	}
	if r.pos+int64(size) > r.end {
		return r.g.corrupt(r.pos, r.next, fmt.Errorf("%w: %d bytes where %d are left", record.ErrShort, size, r.end-r.pos))
	}
	if size > len(r.buf) {
		r.buf = make([]byte, size)
	}
	want := int(min(int64(len(r.buf)), r.end-r.pos))
	if err := r.throttle(ctx, want); err != nil {
		return err
	}
	n, err := r.s.reads.readAt(r.h.file, r.buf[:want], r.pos)
	r.at, r.n = r.pos, n
	r.read += int64(n)
	if err != nil {
		r.n = 0
		return fmt.Errorf("read segment: %w", err)
	}
	if n < size {
		return r.g.corrupt(r.pos, r.next, fmt.Errorf("%w: file ends %d bytes into a batch", record.ErrShort, n))
	}
	return nil
}

// each calls fn with every batch of g from the one that contains offset from on.
func (c *compaction) each(ctx context.Context, g *segment, from int64, fn func(record.Batch) (bool, error)) error {
	r, err := c.s.openBatches(g, c.readBuf, c.opt.Throttle)
	if err != nil {
		return err
	}
	defer r.close()
	if from > g.base {
		ix, err := c.s.index(g)
		if err != nil {
			return err
		}
		r.next, r.pos = ix.floor(from)
	}
	for {
		b, err := r.batch(ctx)
		if errors.Is(err, io.EOF) {
			err = nil
			if r.next != c.nextOf(g) {
				err = g.corrupt(r.pos, r.next, fmt.Errorf("segment ends at offset %d, the next one begins at %d", r.next, c.nextOf(g)))
			}
		} else if err == nil {
			if b.NextOffset() <= from {
				continue
			}
			c.at = r.pos - int64(len(b))
			var more bool
			if more, err = fn(b); err == nil && more {
				continue
			}
		}
		c.stats.BytesRead += r.read
		if err != nil {
			c.readBuf = nil // the kernel may still write to it
			return err
		}
		if c.readBuf = r.buf; len(r.buf) > c.opt.ReadBytes {
			c.readBuf = make([]byte, c.opt.ReadBytes)
		}
		return nil
	}
}

func (c *compaction) nextOf(g *segment) int64 {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return g.next
}
