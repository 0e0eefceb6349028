package faults

import (
	"fmt"
	"slices"
)

// register is something a broker remembers and one client changes, one change after the other: what it was told last, and
// what it may hold instead because a change was asked for and not answered.
type register struct {
	name    string
	settled string
	pending []string
}

// begin: a change was asked for.
func (r *register) begin(value string) { r.pending = append(r.pending, value) }

// settle: the broker has acknowledged a change; what was asked for before it cannot happen any more.
func (r *register) settle(value string) { r.settled, r.pending = value, nil }

// see takes what is there after a crash, and fails if it can be neither what was acknowledged nor a change after that.
func (r *register) see(value string) error {
	if value != r.settled && !slices.Contains(r.pending, value) {
		return fmt.Errorf("LOST: %s is %q; acknowledged was %q, then asked for %q", r.name, value, r.settled, r.pending)
	}
	r.settle(value)
	return nil
}
