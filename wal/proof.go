package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"sync/atomic"
	"time"

	"weir/internal/iobuf"
	"weir/internal/vfs"
)

// The proof file says, outside of the log's own files, how far the log was durable. What the log's files prove themselves ends with the
// group before the last one, and with a file that is there: damage to the last group looks like a torn tail, and a newest file that is
// gone leaves nothing behind. So the committer writes the durable LSN here when a file was begun, before anything is written into
// it; once proofDelay after the last group, when nothing more came; and at Close. An idle log writes nothing after that, a busy one proves itself.
//
//	magic "WEIRDUR\0" | version u32 = 1 | zero u32 | durable LSN u64 | CRC-32C u32 of what precedes | zeroes up to 4096
//
// All of it lies in one sector, so that a crash leaves the old or the new one. A proof file that is missing or damaged proves nothing, and
// costs nothing but that: it is made anew.
const (
	proofName    = "durable"
	proofVersion = 1
	proofCRCAt   = 24
	// proofDelay after the last group the log counts as idle.
	proofDelay = 100 * time.Millisecond
)

var proofMagic = [8]byte{'W', 'E', 'I', 'R', 'D', 'U', 'R', 0}

// putProof encodes a proof into b, which has blockBytes bytes.
func putProof(b []byte, durable LSN) {
	b = b[:blockBytes]
	clear(b)
	copy(b, proofMagic[:])
	le.PutUint32(b[8:], proofVersion)
	le.PutUint64(b[16:], uint64(durable))
	le.PutUint32(b[proofCRCAt:], crc32.Checksum(b[:proofCRCAt], castagnoli))
}

func parseProof(b []byte) (LSN, error) {
	switch {
	case len(b) < blockBytes:
		return 0, fmt.Errorf("proof file has %d bytes, want %d", len(b), blockBytes)
	case [8]byte(b[:8]) != proofMagic:
		return 0, fmt.Errorf("magic is %q, want %q", b[:8], proofMagic[:])
	case crc32.Checksum(b[:proofCRCAt], castagnoli) != le.Uint32(b[proofCRCAt:]):
		return 0, fmt.Errorf("proof CRC is %08x, want %08x", le.Uint32(b[proofCRCAt:]), crc32.Checksum(b[:proofCRCAt], castagnoli))
	case le.Uint32(b[8:]) != proofVersion || le.Uint32(b[12:]) != 0 || !isZero(b[proofCRCAt+4:]):
		return 0, fmt.Errorf("proof has version %d or bytes where zeroes belong, want version %d", le.Uint32(b[8:]), proofVersion)
	}
	return LSN(le.Uint64(b[16:])), nil
}

// readProof returns what the proof file in dir proves, 0 if there is none. why says what is wrong with one that is there.
func readProof(fsys vfs.FS, dir string, r reader) (durable LSN, why error, err error) {
	name := path.Join(dir, proofName)
	f, err := fsys.OpenFile(name, vfs.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close() //nolint:errcheck // only read
	b := iobuf.Get(blockBytes)
	defer b.Release()
	clear(b.Bytes())
	n, err := r.readAt(f, b, blockBytes, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("read %s: %w", name, err)
	}
	if n == 0 {
		return 0, nil, nil // made, and never written
	}
	durable, why = parseProof(b.Bytes()[:n])
	return durable, why, nil
}

// lostEnd is what a log that ends at end is, if it was durable further than that.
func lostEnd(end, proof LSN) error {
	if end >= proof {
		return nil
	}
	return &CorruptError{LSN: end, Why: lostWhy(proof)}
}

func lostWhy(proof LSN) string {
	return fmt.Sprintf("the log ends here, but was durable up to LSN %d: its newest file is missing or was cut", proof)
}

// prover is the committer's part of the proof file.
type prover struct {
	file  vfs.File
	upTo  LSN         // what is in the file, or on its way there
	seen  LSN         // durable when the timer was armed
	armed bool        // the timer runs, or has rung and was not heard yet
	rang  atomic.Bool // it has
	timer *time.Timer
}

// openProof opens the proof file, making it on the first start.
func (w *WAL) openProof() (vfs.File, error) {
	name := path.Join(w.o.Dir, proofName)
	f, err := w.fs.OpenFile(name, vfs.Create|vfs.Direct|vfs.DSync)
	if errors.Is(err, vfs.ErrNoDirect) {
		f, err = w.fs.OpenFile(name, vfs.Create|vfs.DSync)
	}
	if err == nil {
		if err = w.fs.SyncDir(w.o.Dir); err != nil {
			f.Close() //nolint:errcheck // nothing was written
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open proof file: %w", noSpace(err))
	}
	return f, nil
}

// prove writes the proof if it is due, and says whether it did: then other writes have to wait for it. It is called when entries may be
// submitted, and decides what idle means.
func (c *committer) prove() bool {
	p := &c.proof
	if p.rang.Swap(false) {
		p.armed = false
	}
	switch {
	case c.flights > 0 || c.staged != nil || c.file == nil || p.upTo == c.durable:
		return false
	case c.pos == blockBytes, c.closing && c.head == nil && !c.dirty:
	case c.head != nil || c.closing || p.armed:
		return false
	case p.seen != c.durable: // it may not be over: look again
		p.seen, p.armed = c.durable, true
		p.timer.Reset(proofDelay)
		return false
	}
	g := c.newGroup()
	g.listed = true
	g.buf = iobuf.Get(blockBytes)
	g.op.File, g.data, g.off = p.file, g.buf.Bytes(), 0
	g.end = c.durable
	putProof(g.data, c.durable)
	p.upTo = c.durable
	c.push(g)
	return true
}

// rung is the timer's.
func (c *committer) rung() {
	c.proof.rang.Store(true)
	c.w.queue.wake()
}
