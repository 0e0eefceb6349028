package simulation

import (
	"errors"
	"time"
)

var (
	errRefused = errors.New("connection refused")
	errLost    = errors.New("no answer")
)

// link is one direction between two nodes.
type link struct{ from, to int32 }

// network carries calls between nodes. Each direction of a pair keeps the order of what goes over it, as a connection does, and can be
// cut: what is sent, or arrives, while it is cut is lost.
type network struct {
	w    *world
	cut  map[link]bool
	last map[link]time.Time
}

func newNetwork(w *world) *network {
	return &network{w: w, cut: map[link]bool{}, last: map[link]time.Time{}}
}

// reaches reports whether two nodes can talk to each other.
func (n *network) reaches(a, b int32) bool {
	return a == b || !n.cut[link{a, b}] && !n.cut[link{b, a}]
}

// send delivers fn at the other end, unless the way is cut.
func (n *network) send(from, to int32, what string, fn func()) {
	l := link{from, to}
	if n.cut[l] {
		return
	}
	at := n.w.now.Add(n.w.between(50*time.Microsecond, 2*time.Millisecond))
	if n.w.chance(200) {
		at = at.Add(n.w.between(0, 300*time.Millisecond))
	}
	if !n.w.calm && n.w.chance(20000) { // lost, and sent again by the kernel, later and later
		at = at.Add(n.w.between(0, 3*time.Second))
	}
	if !at.After(n.last[l]) {
		at = n.last[l].Add(time.Nanosecond)
	}
	n.last[l] = at
	n.w.after(at.Sub(n.w.now), what, func() {
		if !n.cut[l] {
			fn()
		}
	})
}

// call asks another node. serve runs there and calls reply at most once, then or later; done runs here exactly once, unless this node
// crashes before.
func (n *network) call(from *node, to int32, what string, timeout time.Duration, serve func(to *node, reply func(any)), done func(any, error)) {
	ended := false
	finish := from.alive(func(v any, err error) {
		if !ended {
			ended = true
			done(v, err)
		}
	})
	n.w.after(timeout, what+" timeout", func() { finish(nil, errLost) })
	peer := n.w.node(to)
	if to == from.id {
		from.do(0, what, func() { serve(from, func(v any) { finish(v, nil) }) })
		return
	}
	n.send(from.id, to, what, func() {
		if !peer.up {
			n.send(to, from.id, what+" refused", func() { finish(nil, errRefused) })
			return
		}
		peer.do(0, what+" served", func() {
			serve(peer, func(v any) {
				n.send(to, from.id, what+" answered", func() { finish(v, nil) })
			})
		})
	})
}

// heal joins everything.
func (n *network) heal() { clear(n.cut) }
