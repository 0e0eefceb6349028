package faultdisk

import (
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	sectorBytes = 512
	// cacheBytesMax bounds what the disk holds unflushed. Beyond it the oldest writes become durable by themselves, as in a
	// real disk whose cache is full.
	cacheBytesMax = 256 << 20
)

// image is the disk's content as a reader sees it, and what a loss of power would take from it: the content that every
// write since the last flush replaced, in the order of the writes. A flush forgets that, a power cut puts some of it back.
type image struct {
	content []byte // mapped anonymous memory: what was never written takes none

	mu struct {
		sync.Mutex
		power     int // counts power cuts: who was there before one cannot read or write after it
		seq       uint64
		unflushed []overwrite // oldest first
		bytes     int64       // in unflushed
		lie       bool
	}
}

// overwrite is what a write replaced.
type overwrite struct {
	seq    uint64
	offset int64
	before []byte
}

func newImage(size int64) (*image, error) {
	content, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for a disk of %d bytes: %w", size, err)
	}
	return &image{content: content}, nil
}

func (m *image) close() error { return unix.Munmap(m.content) }

func (m *image) size() int64 { return int64(len(m.content)) }

// errNoPower answers whoever still holds the disk of before a power cut.
var errNoPower = fmt.Errorf("the power was cut: %w", syscall.EIO)

// power names the time since the last power cut.
func (m *image) power() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.power
}

// read copies the content at an offset and returns how many bytes there are.
func (m *image) read(power int, to []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if power != m.mu.power {
		return 0, errNoPower
	}
	if offset >= m.size() {
		return 0, nil
	}
	return copy(to, m.content[offset:]), nil
}

// write replaces content; it is lost with the power until a flush that begins after write has returned.
func (m *image) write(power int, from []byte, offset int64) error {
	if offset%sectorBytes != 0 || len(from)%sectorBytes != 0 || offset+int64(len(from)) > m.size() {
		return fmt.Errorf("write of %d bytes at %d of %d: not whole sectors of the disk: %w", len(from), offset, m.size(), syscall.EINVAL)
	}
	before := make([]byte, len(from))
	m.mu.Lock()
	defer m.mu.Unlock()
	if power != m.mu.power {
		return errNoPower
	}
	copy(before, m.content[offset:])
	copy(m.content[offset:], from)
	m.mu.seq++
	m.mu.unflushed = append(m.mu.unflushed, overwrite{m.mu.seq, offset, before})
	m.mu.bytes += int64(len(before))
	n := 0
	for over := m.mu.bytes - cacheBytesMax; over > 0; n++ {
		over -= int64(len(m.mu.unflushed[n].before))
	}
	m.forgetLocked(n)
	return nil
}

// mark is where a flush that arrives now ends: it covers the writes that have returned and none that comes while it runs.
func (m *image) mark() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.seq
}

// flush makes the writes up to a mark durable, unless the disk lies.
func (m *image) flush(power int, mark uint64) (lied bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if power != m.mu.power {
		return false, errNoPower
	}
	if m.mu.lie {
		return true, nil
	}
	n := 0
	for n < len(m.mu.unflushed) && m.mu.unflushed[n].seq <= mark {
		n++
	}
	m.forgetLocked(n)
	return false, nil
}

// forgetLocked makes the n oldest unflushed writes durable.
func (m *image) forgetLocked(n int) {
	for i := range n {
		m.mu.bytes -= int64(len(m.mu.unflushed[i].before))
		m.mu.unflushed[i].before = nil
	}
	m.mu.unflushed = m.mu.unflushed[n:]
}

func (m *image) lieAboutFlush(lie bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.lie = lie
}

// unflushed is how many bytes were written since the last flush, counting a sector as often as it was written.
func (m *image) unflushed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.bytes
}
