package verify

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Commits remembers what groups committed: per place (a group's offset of a partition) the last offset that was acknowledged and the highest that
// was tried. Offsets of a place only rise.
type Commits struct {
	mu struct {
		sync.Mutex
		places map[string]*place
	}
}

type place struct{ acked, tried int64 }

// NewCommits remembers nothing.
func NewCommits() *Commits {
	c := &Commits{}
	c.mu.places = map[string]*place{}
	return c
}

func (c *Commits) atLocked(name string) *place {
	p := c.mu.places[name]
	if p == nil {
		p = &place{acked: -1, tried: -1}
		c.mu.places[name] = p
	}
	return p
}

// Next is the offset to commit next at a place. It counts as tried.
func (c *Commits) Next(name string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.atLocked(name)
	p.tried++
	return p.tried
}

// Ack notes that an offset was acknowledged.
func (c *Commits) Ack(name string, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.atLocked(name)
	p.acked = max(p.acked, offset)
}

// Floor is what a fetch that begins now may not return less than; -1: there may be nothing.
func (c *Commits) Floor(name string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.atLocked(name).acked
}

// Check compares what was fetched, -1 for nothing, with the floor of before the fetch.
func (c *Commits) Check(name string, floor, got int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.atLocked(name)
	switch {
	case got < floor:
		return fmt.Errorf("GOES BACK: the offset of %s is %d, %d was acknowledged", name, got, floor)
	case got > p.tried:
		return fmt.Errorf("INVENTED: the offset of %s is %d, nobody committed more than %d", name, got, p.tried)
	}
	p.acked = max(p.acked, got) // what was read once may not go back either
	return nil
}

// Places are the names of all places, sorted.
func (c *Commits) Places() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.mu.places))
}

// Topics remembers which topics were created and deleted.
type Topics struct {
	mu struct {
		sync.Mutex
		topics map[string]*topicState
	}
}

type topicState struct{ created, dropping, dropped bool }

// NewTopics remembers nothing.
func NewTopics() *Topics {
	t := &Topics{}
	t.mu.topics = map[string]*topicState{}
	return t
}

func (t *Topics) set(name string, change func(*topicState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.topics[name]
	if s == nil {
		s = &topicState{}
		t.mu.topics[name] = s
	}
	change(s)
}

// Creating, Created, Dropping and Dropped note what is asked for, before it is sent, and what was acknowledged.
func (t *Topics) Creating(name string) { t.set(name, func(*topicState) {}) }

// Created: it was acknowledged.
func (t *Topics) Created(name string) { t.set(name, func(s *topicState) { s.created = true }) }

// Dropping: it will be asked for.
func (t *Topics) Dropping(name string) { t.set(name, func(s *topicState) { s.dropping = true }) }

// Dropped: it was acknowledged.
func (t *Topics) Dropped(name string) { t.set(name, func(s *topicState) { s.dropped = true }) }

// Counts are how many were created and dropped.
func (t *Topics) Counts() (created, dropped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.mu.topics {
		if s.created {
			created++
		}
		if s.dropped {
			dropped++
		}
	}
	return created, dropped
}

// Check compares the topics that a node has, of those that these names begin with, with what was acknowledged.
func (t *Topics) Check(have []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range t.mu.topics {
		there := slices.Contains(have, name)
		switch {
		case s.dropped && there:
			return fmt.Errorf("RISEN: topic %s was deleted and is there", name)
		case s.created && !s.dropping && !there:
			return fmt.Errorf("LOST: topic %s was created and is not there", name)
		}
	}
	for _, name := range have {
		if t.mu.topics[name] == nil {
			return fmt.Errorf("INVENTED: topic %s is there and nobody created it", name)
		}
	}
	return nil
}
