package segment

import (
	"weir/internal/vfs"
	"weir/uring"
)

// What is written behind the WAL goes to the device in steps of what that does in a moment (internal/pace): a durable write that somebody waits for is
// behind no more than that. Segment files are written through the page cache, so a step ends with a sync: what is dirty is what the sync, or the kernel
// when it likes, will put into the device's queue.

// roundMax bounds a round: more than one step would only keep its memory, and the WAL, for longer.
func (s *Store) roundMax() int64 { return min(roundBytes, s.pace.Limit()) }

func (s *Store) joinPieces(in []piece) []piece { return joinPieces(in, s.pace.Limit()) }

// cut takes the first n bytes, fewer than there are, off p.
func (p *piece) cut(n int) piece {
	head := piece{buf: p.buf.Retain(), data: p.data[:n], pos: p.pos}
	p.data, p.pos = p.data[n:], p.pos+int64(n)
	return head
}

func bytesOf(pieces []piece) (n int64) {
	for i := range pieces {
		n += int64(len(pieces[i].data))
	}
	return n
}

// splitPieces takes the first n bytes, at least 1, off pieces.
func splitPieces(pieces []piece, n int64) (head, rest []piece) {
	for i := range pieces {
		p := &pieces[i]
		if int64(len(p.data)) <= n {
			n -= int64(len(p.data))
			continue
		}
		if n == 0 {
			return pieces[:i:i], pieces[i:]
		}
		return append(pieces[:i:i], p.cut(int(n))), pieces[i:]
	}
	return pieces, nil
}

// writePaced writes and syncs all pieces, a step at a time, and gives up their memory as writePieces does.
func (s *Store) writePaced(h *handle, pieces []piece) error {
	for len(pieces) > 0 {
		step, _ := s.pace.Begin(bytesOf(pieces), nil)
		part, rest := splitPieces(pieces, step.Bytes)
		err := s.writePieces(h, part)
		if err == nil {
			_, err = s.engine.Do(&uring.Op{Kind: uring.OpFdatasync, File: h.file, Timeout: s.writeTimeout()})
		}
		step.End(err)
		if err != nil {
			for _, p := range rest {
				p.buf.Release()
			}
			return err
		}
		pieces = rest
	}
	return nil
}

// fillFile writes the content of a new file, a step at a time, and syncs it if it is to be durable. What one step cannot take is synced in any case.
func (s *Store) fillFile(f vfs.File, data []byte, durable bool) error {
	for off := 0; ; {
		step, _ := s.pace.Begin(int64(max(len(data)-off, 1)), nil)
		part := data[off:min(off+int(step.Bytes), len(data))]
		var err error
		if len(part) > 0 {
			_, err = s.engine.Do(&uring.Op{Kind: uring.OpWrite, File: f, Buf: part, Off: int64(off), Timeout: s.writeTimeout()})
		}
		off += len(part)
		if err == nil && (durable || off < len(data)) {
			_, err = s.engine.Do(&uring.Op{Kind: uring.OpFsync, File: f, Timeout: s.writeTimeout()})
		}
		step.End(err)
		if err != nil || off >= len(data) {
			return err
		}
	}
}

// pageBytes is the least that a file's write costs the device.
const pageBytes = 4096

// cost is what the device has to write for a member.
func (m *member) cost() int64 {
	if !m.live() {
		return 0
	}
	return (bytesOf(m.pieces) + pageBytes - 1) / pageBytes * pageBytes
}

// flushPart writes, syncs and publishes the first members of group, as many as go into one step, and returns how many.
func (s *Store) flushPart(group []*member) int {
	if m := group[0]; m.cost() > s.pace.Limit() {
		m.err = s.writePaced(m.h, m.pieces)
		m.pieces = nil // what is left is to sync the names of new files
	}
	total := int64(1)
	for _, m := range group {
		total += m.cost()
	}
	step, _ := s.pace.Begin(total, nil)
	n, bytes := 1, group[0].cost()
	for ; n < len(group) && bytes+group[n].cost() <= step.Bytes; n++ {
		bytes += group[n].cost()
	}
	step.Trim(max(bytes, 1))
	part := group[:n]
	s.writeGroup(part)
	s.syncGroup(part)
	step.End(firstError(part))
	s.publishGroup(part)
	return n
}

func firstError(group []*member) error {
	for _, m := range group {
		if m.err != nil {
			return m.err
		}
	}
	return nil
}
