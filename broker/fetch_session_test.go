package broker

import (
	"testing"
	"time"

	"weir/internal/clock"
)

// handClock is a clock that moves when told.
type handClock struct {
	clock.Real
	now time.Time
}

func (c *handClock) Now() time.Time { return c.now }

func partsNamed(names ...string) []*fetchPart {
	var parts []*fetchPart
	for _, n := range names {
		parts = append(parts, &fetchPart{partKey: partKey{name: n}})
	}
	return parts
}

func TestSessionCacheEviction(t *testing.T) {
	clk := &handClock{now: time.Unix(1000, 0)}
	c := newSessionCache(2, clk, nil)
	a := c.create("a", false, partsNamed("x"))
	b := c.create("b", false, partsNamed("x", "y"))
	if a == nil || b == nil || a.id == b.id || a.id == 0 {
		t.Fatalf("sessions %v, %v", a, b)
	}
	if c.create("c", false, partsNamed("x", "y", "z")) != nil {
		t.Error("a session was evicted although none is old")
	}
	clk.now = clk.now.Add(sessionEvictAfter + time.Second)
	c.get(a.id)
	c.get(b.id)
	if c.create("d", false, partsNamed("x")) != nil {
		t.Error("sessions in use were evicted for one that is not larger")
	}
	big := c.create("e", false, partsNamed("x", "y", "z"))
	if big == nil || c.get(a.id) != nil || c.get(b.id) == nil {
		t.Error("the smallest session should have gone for a larger one")
	}
	clk.now = clk.now.Add(sessionEvictAfter + time.Second)
	c.get(b.id)
	if c.create("f", false, partsNamed("x")) == nil || c.get(big.id) != nil {
		t.Error("the session unused for longest should have gone")
	}
	if c.count() != 2 {
		t.Errorf("%d sessions, want 2", c.count())
	}
	if newSessionCache(0, clk, nil).create("g", false, partsNamed("x")) != nil {
		t.Error("a cache without slots made a session")
	}
}

func TestSessionUpdate(t *testing.T) {
	c := newSessionCache(1, clock.Real{}, nil)
	s := c.create("a", false, partsNamed("x", "y"))
	s.mu.Lock()
	s.updateLocked([]fetchPart{
		{partKey: partKey{name: "y"}, offset: 7, maxBytes: 9},
		{partKey: partKey{name: "z"}, offset: 1},
	}, []partKey{{name: "x"}, {name: "unknown"}})
	s.mu.Unlock()
	if len(s.mu.parts) != 2 || s.mu.parts[0].name != "y" || s.mu.parts[0].offset != 7 || s.mu.parts[0].maxBytes != 9 || s.mu.parts[1].name != "z" {
		t.Fatalf("parts %+v", s.mu.parts)
	}
	s.rotate(func(p *fetchPart) bool { return p.name == "y" })
	if s.mu.parts[0].name != "z" || s.mu.parts[1].name != "y" {
		t.Errorf("after rotation: %s, %s", s.mu.parts[0].name, s.mu.parts[1].name)
	}
}

func TestNextEpochWraps(t *testing.T) {
	if got := nextEpoch(1<<31 - 1); got != 1 {
		t.Errorf("after 2^31-1 comes %d, want 1", got)
	}
}
