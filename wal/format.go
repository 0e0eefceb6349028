package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"weir/internal/vfs"
)

// On-disk layout; docs/format/wal.md is the prose. All integers are little-endian.
//
//	file    = header block (4 KiB), group...
//	group   = group frame, entry frame..., zeroes up to the next multiple of 4 KiB
//	frame   = crc u32 | payload bytes u32 | LSN u64 | generation u64 | kind u8 | head bytes u8 | zero u16 | payload
const (
	blockBytes    = vfs.BlockSize
	formatVersion = 1

	frameBytes        = 28
	groupPayloadBytes = 16 // durable LSN u64 | group bytes u32 | entries u32
	groupFrameBytes   = frameBytes + groupPayloadBytes

	headerCRCAt = 56

	// kindGroup marks the frame that opens a group. It is no kind a caller may use.
	kindGroup Kind = 0x47
)

var (
	headerMagic = [8]byte{'W', 'E', 'I', 'R', 'W', 'A', 'L', 0}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	le          = binary.LittleEndian
)

// fileHeader is the first block of a file. All of it that is not zero lies in one 512-byte sector, so that rewriting it in a
// recycled slot leaves either the old or the new one.
type fileHeader struct {
	seq        uint64 // position of the file in the log, from 1; a slot gets a new one each time it is recycled
	generation uint64 // of the process run that wrote the file: run counter << 32 | random
	fileBytes  int64
	prevEnd    LSN // where the file before ended: everything below is durable, nothing above counts. 0: there is none
	oldest     LSN // start of the oldest file still needed when this one was begun
}

// put encodes h into b, which has blockBytes bytes.
func (h *fileHeader) put(b []byte) {
	b = b[:blockBytes]
	clear(b)
	copy(b, headerMagic[:])
	le.PutUint32(b[8:], formatVersion)
	le.PutUint64(b[16:], h.seq)
	le.PutUint64(b[24:], h.generation)
	le.PutUint64(b[32:], uint64(h.fileBytes))
	le.PutUint64(b[40:], uint64(h.prevEnd))
	le.PutUint64(b[48:], uint64(h.oldest))
	le.PutUint32(b[headerCRCAt:], headerCRC(b))
}

func headerCRC(b []byte) uint32 {
	crc := crc32.Update(0, castagnoli, b[:headerCRCAt])
	return crc32.Update(crc, castagnoli, b[headerCRCAt+4:blockBytes])
}

// parseHeader decodes and validates a header block. The error says what is wrong with it.
func parseHeader(b []byte) (fileHeader, error) {
	if len(b) < blockBytes {
		return fileHeader{}, fmt.Errorf("header block has %d bytes, want %d", len(b), blockBytes)
	}
	b = b[:blockBytes]
	if [8]byte(b[:8]) != headerMagic {
		return fileHeader{}, fmt.Errorf("magic is %q, want %q", b[:8], headerMagic[:])
	}
	if got, want := headerCRC(b), le.Uint32(b[headerCRCAt:]); got != want {
		return fileHeader{}, fmt.Errorf("header CRC is %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return fileHeader{}, fmt.Errorf("format version is %d, want %d", v, formatVersion)
	}
	h := fileHeader{
		seq:        le.Uint64(b[16:]),
		generation: le.Uint64(b[24:]),
		fileBytes:  int64(le.Uint64(b[32:])),
		prevEnd:    LSN(le.Uint64(b[40:])),
		oldest:     LSN(le.Uint64(b[48:])),
	}
	if h.fileBytes < fileBytesMin || h.fileBytes > fileBytesMax || h.fileBytes%blockBytes != 0 {
		return fileHeader{}, fmt.Errorf("file size is %d, want a multiple of %d from %d to %d", h.fileBytes, blockBytes, fileBytesMin, fileBytesMax)
	}
	if h.seq == 0 || h.seq > seqMax {
		return fileHeader{}, fmt.Errorf("file sequence is %d, want 1 to %d", h.seq, uint64(seqMax))
	}
	start := h.start()
	if h.oldest > start || uint64(h.oldest)%uint64(h.fileBytes) != 0 {
		return fileHeader{}, fmt.Errorf("oldest needed LSN is %d, want the start of a file up to %d", h.oldest, start)
	}
	if h.prevEnd != 0 && (h.prevEnd > start || h.prevEnd < start-LSN(h.fileBytes)+blockBytes || h.prevEnd%blockBytes != 0) {
		return fileHeader{}, fmt.Errorf("previous end is %d, want a block of the file before LSN %d", h.prevEnd, start)
	}
	return h, nil
}

func (h *fileHeader) start() LSN { return LSN(h.seq) * LSN(h.fileBytes) }

// frame is a decoded frame header.
type frame struct {
	length     int // of the payload: head and body
	lsn        LSN
	generation uint64
	kind       Kind
	headBytes  int
}

// putFrame completes the frame at the start of b, whose payload of n bytes is in place already.
func putFrame(b []byte, f frame) {
	le.PutUint32(b[4:], uint32(f.length))
	le.PutUint64(b[8:], uint64(f.lsn))
	le.PutUint64(b[16:], f.generation)
	b[24] = byte(f.kind)
	b[25] = byte(f.headBytes)
	b[26], b[27] = 0, 0
	le.PutUint32(b, crc32.Update(0, castagnoli, b[4:frameBytes+f.length]))
}

// parseFrame decodes the frame at the start of b and checks its length and CRC, nothing else.
func parseFrame(b []byte) (frame, error) {
	if len(b) < frameBytes {
		return frame{}, fmt.Errorf("%d bytes left, want a frame header of %d", len(b), frameBytes)
	}
	length := le.Uint32(b[4:])
	if uint64(length) > uint64(len(b)-frameBytes) {
		return frame{}, fmt.Errorf("frame payload is %d bytes, only %d are left", length, len(b)-frameBytes)
	}
	f := frame{
		length:     int(length),
		lsn:        LSN(le.Uint64(b[8:])),
		generation: le.Uint64(b[16:]),
		kind:       Kind(b[24]),
		headBytes:  int(b[25]),
	}
	if got, want := crc32.Update(0, castagnoli, b[4:frameBytes+f.length]), le.Uint32(b); got != want {
		return frame{}, fmt.Errorf("frame CRC is %08x, want %08x", got, want)
	}
	if b[26] != 0 || b[27] != 0 {
		return frame{}, fmt.Errorf("reserved bytes are %02x%02x, want 0", b[26], b[27])
	}
	return f, nil
}

// groupHead is a decoded group frame.
type groupHead struct {
	lsn        LSN
	generation uint64
	durable    LSN // everything below was known to be durable when this group was assembled
	bytes      int // group frame and entries, without padding
	entries    int
}

func putGroupFrame(b []byte, g groupHead) {
	le.PutUint64(b[frameBytes:], uint64(g.durable))
	le.PutUint32(b[frameBytes+8:], uint32(g.bytes))
	le.PutUint32(b[frameBytes+12:], uint32(g.entries))
	putFrame(b, frame{length: groupPayloadBytes, lsn: g.lsn, generation: g.generation, kind: kindGroup})
}

// parseGroupFrame decodes the group frame at the start of b. A nil error means that some writer once wrote it as it
// is; whether it belongs where it was found is for the caller to compare.
func parseGroupFrame(b []byte) (groupHead, error) {
	if len(b) < groupFrameBytes {
		return groupHead{}, fmt.Errorf("%d bytes left, want a group frame of %d", len(b), groupFrameBytes)
	}
	if n := le.Uint32(b[4:]); n != groupPayloadBytes {
		return groupHead{}, fmt.Errorf("group frame payload is %d bytes, want %d", n, groupPayloadBytes)
	}
	f, err := parseFrame(b[:groupFrameBytes])
	if err != nil {
		return groupHead{}, err
	}
	if f.kind != kindGroup || f.headBytes != 0 {
		return groupHead{}, fmt.Errorf("frame of kind %d with a head of %d bytes, want a group frame", f.kind, f.headBytes)
	}
	g := groupHead{
		lsn:        f.lsn,
		generation: f.generation,
		durable:    LSN(le.Uint64(b[frameBytes:])),
		bytes:      int(le.Uint32(b[frameBytes+8:])),
		entries:    int(le.Uint32(b[frameBytes+12:])),
	}
	if g.bytes < groupFrameBytes || g.entries < 0 || g.entries > (g.bytes-groupFrameBytes)/frameBytes {
		return groupHead{}, fmt.Errorf("group of %d bytes with %d entries is impossible", g.bytes, g.entries)
	}
	if g.durable > g.lsn {
		return groupHead{}, fmt.Errorf("group at LSN %d claims durable LSN %d", g.lsn, g.durable)
	}
	return g, nil
}

// padded is the room a group of n bytes takes.
func padded(n int) int { return (n + blockBytes - 1) &^ (blockBytes - 1) }

// damage is what is wrong with a group, at bytes behind its start.
type damage struct {
	at  int
	why string
}

// checkGroup verifies every byte of the group g, which begins at b[0]: entry frames, their number, and the padding.
func checkGroup(b []byte, g groupHead) *damage {
	if padded(g.bytes) > len(b) {
		return &damage{0, fmt.Sprintf("group of %d bytes, only %d are left in the file", padded(g.bytes), len(b))}
	}
	at := groupFrameBytes
	for i := range g.entries {
		f, err := parseFrame(b[at:g.bytes])
		if err != nil {
			return &damage{at, fmt.Sprintf("entry %d of %d: %v", i+1, g.entries, err)}
		}
		if err := f.check(b[at+frameBytes:at+frameBytes+f.length], g, at); err != nil {
			return &damage{at, fmt.Sprintf("entry %d of %d: %v", i+1, g.entries, err)}
		}
		at += frameBytes + f.length
	}
	if at != g.bytes {
		return &damage{at, fmt.Sprintf("%d entries end at byte %d of the group, want %d", g.entries, at, g.bytes)}
	}
	for i, c := range b[g.bytes:padded(g.bytes)] {
		if c != 0 {
			return &damage{g.bytes + i, fmt.Sprintf("padding byte is %02x, want 0", c)}
		}
	}
	return nil
}

// check compares an entry frame, at bytes behind the start of group g, with what it must be there.
func (f *frame) check(payload []byte, g groupHead, at int) error {
	if f.lsn != g.lsn+LSN(at) || f.generation != g.generation {
		return fmt.Errorf("LSN %d of generation %x, want LSN %d of generation %x", f.lsn, f.generation, g.lsn+LSN(at), g.generation)
	}
	if f.headBytes > HeadBytesMax || f.headBytes > f.length {
		return fmt.Errorf("head of %d bytes in a payload of %d, want at most %d", f.headBytes, f.length, HeadBytesMax)
	}
	return checkPayload(f.kind, payload[f.headBytes:])
}

// eachEntry calls fn for every entry of a group that checkGroup found good.
func eachEntry(b []byte, g groupHead, fn func(lsn LSN, kind Kind, head, body []byte) error) error {
	at := groupFrameBytes
	for range g.entries {
		payload := b[at+frameBytes:]
		length, head := int(le.Uint32(b[at+4:])), int(b[at+25])
		if err := fn(g.lsn+LSN(at), Kind(b[at+24]), payload[:head:head], payload[head:length:length]); err != nil {
			return err
		}
		at += frameBytes + length
	}
	return nil
}
