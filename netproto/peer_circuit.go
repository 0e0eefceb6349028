package netproto

import (
	"errors"
	"fmt"
	"time"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 2 * time.Second
)

// circuit decides whether a peer may be tried. Each failure lets the next try wait longer, from backoffMin to backoffMax; then one call's
// dial is the probe, and others fail until it has ended. Only an answer to a call makes the peer as good as new: one that says Hello and
// then nothing more is still backed off from.
type circuit struct {
	failures int // since the last answer
	until    time.Time
	cause    error // of the last failure
	open     bool  // the last attempt failed
}

// fail notes a failed attempt. jitter is in [0, 1).
func (c *circuit) fail(now time.Time, cause error, jitter float64) {
	wait := backoffMax
	if c.failures < 10 {
		wait = min(backoffMin<<c.failures, backoffMax)
	}
	wait = min(wait+time.Duration(jitter*float64(wait)/4), backoffMax)
	c.failures++
	c.open, c.cause, c.until = true, cause, now.Add(wait)
}

// connected notes that a connection stands: calls may go.
func (c *circuit) connected() { c.open = false }

// answered notes that a call was answered.
func (c *circuit) answered() { *c = circuit{} }

// retry lets the next call try.
func (c *circuit) retry() { c.until = time.Time{} }

// blocks returns the error of a call that must not try, or nil.
func (c *circuit) blocks(now time.Time, probing bool) error {
	if !c.open || (!probing && !now.Before(c.until)) {
		return nil
	}
	return fmt.Errorf("%w: %d failures, next try in %v; the last: %w", ErrPeerDown, c.failures, max(c.until.Sub(now), 0), c.reason())
}

// reason is the cause of the last failure as far as callers shall see it: a refusal is for people to mend, whichever call meets it. The
// rest is text, since it did not happen to the call that is told of it.
func (c *circuit) reason() error {
	if errors.Is(c.cause, ErrPeerRefused) {
		return c.cause
	}
	return errors.New(c.cause.Error())
}
