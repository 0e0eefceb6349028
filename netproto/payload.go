package netproto

import (
	"encoding/binary"
	"sync"
)

const (
	// headRoom is the space kept at the start of a payload for the longest response header: frame length,
	// correlation id, empty tag section.
	headRoom = 9
	// ownBytesKept is the largest own buffer that stays with a pooled payload.
	ownBytesKept = 64 << 10
)

// Releaser gives back memory that a payload referred to.
type Releaser interface{ Release() }

// releaseFunc makes a function a Releaser; a func value is pointer-shaped, so this does not allocate.
type releaseFunc func()

func (f releaseFunc) Release() { f() }

// Payload is the body of one response: pieces in wire order, some in its own buffer, others referred to. Build it with
// Own and Ref, then give it to Request.Respond, which takes it over. A payload that is never given away must be
// released with Discard.
type Payload struct {
	own      []byte
	ownFrom  int // start of the own bytes that are not yet in pieces
	pieces   []piece
	owners   []Releaser
	refBytes int
	head     int // where the frame begins in own, set by seal
}

// piece is a range of the own buffer (own buffers move when they grow) or a reference.
type piece struct {
	ref      []byte
	from, to int
}

var payloads = sync.Pool{New: func() any { return &Payload{own: make([]byte, headRoom, 512)} }}

// NewPayload returns an empty payload.
func NewPayload() *Payload { return payloads.Get().(*Payload) }

// Own returns the payload's own bytes to append to; give the result back with SetOwn. Nothing of what is there already
// may be changed or removed.
func (p *Payload) Own() []byte { return p.own }

// SetOwn stores what became of Own after appending.
func (p *Payload) SetOwn(b []byte) { p.own = b }

// Ref appends bytes of others by reference. release (may be nil) is called once, when they have been written or
// never will be.
func (p *Payload) Ref(pieces [][]byte, release func()) {
	if release == nil {
		p.RefOwned(pieces, nil)
		return
	}
	p.RefOwned(pieces, releaseFunc(release))
}

// RefOwned is Ref for an owner that is an object, which spares the closure.
func (p *Payload) RefOwned(pieces [][]byte, owner Releaser) {
	for _, b := range pieces {
		if len(b) > 0 {
			p.sealOwn()
			p.pieces = append(p.pieces, piece{ref: b})
			p.refBytes += len(b)
		}
	}
	p.AddOwner(owner)
}

// AddOwner has owner released together with the payload. nil is ignored.
func (p *Payload) AddOwner(owner Releaser) {
	if owner != nil {
		p.owners = append(p.owners, owner)
	}
}

// Size is the number of bytes of the body so far.
func (p *Payload) Size() int { return len(p.own) - headRoom + p.refBytes }

// Discard releases what the payload refers to, and the payload.
func (p *Payload) Discard() {
	for i, o := range p.owners {
		o.Release()
		p.owners[i] = nil
	}
	clear(p.pieces)
	if cap(p.own) > ownBytesKept {
		return // a rare large answer must not stay in the pool
	}
	*p = Payload{own: p.own[:headRoom], pieces: p.pieces[:0], owners: p.owners[:0]}
	payloads.Put(p)
}

func (p *Payload) sealOwn() {
	if from := p.ownStart(); from < len(p.own) {
		p.pieces = append(p.pieces, piece{from: from, to: len(p.own)})
	}
	p.ownFrom = len(p.own)
}

func (p *Payload) ownStart() int {
	if p.ownFrom == 0 {
		return headRoom
	}
	return p.ownFrom
}

// seal writes the frame and response header in front of the body. It is called once.
func (p *Payload) seal(correlationID int32, flexible bool) {
	size := p.Size()
	p.sealOwn()
	p.head = 1
	if flexible {
		p.head = 0
		p.own[headRoom-1] = 0 // no tags
		size++
	}
	binary.BigEndian.PutUint32(p.own[p.head:], uint32(size+4))
	binary.BigEndian.PutUint32(p.own[p.head+4:], uint32(correlationID))
}

// appendBuffers appends the sealed frame's pieces, in order, to dst.
func (p *Payload) appendBuffers(dst [][]byte) [][]byte {
	headEnd := p.head + 8
	if p.head == 0 {
		headEnd = headRoom
	}
	rest := p.pieces
	if len(rest) > 0 && rest[0].ref == nil { // the header and the first own bytes are adjacent
		headEnd, rest = rest[0].to, rest[1:]
	}
	dst = append(dst, p.own[p.head:headEnd:headEnd])
	for i := range rest {
		if q := &rest[i]; q.ref != nil {
			dst = append(dst, q.ref)
		} else {
			dst = append(dst, p.own[q.from:q.to:q.to])
		}
	}
	return dst
}

// frameSize is the size on the wire of the sealed frame.
func (p *Payload) frameSize() int { return len(p.own) - p.head + p.refBytes }
