package broker

import (
	"errors"
	"time"
)

// Health is the state of a node, for health checks and people.
type Health struct {
	Ready     bool          // clients are served
	DiskFull  bool          // produce is refused because the file system is nearly full
	DiskError string        // why the storage failed, "" if it did not
	Stalled   string        // why the disk counts as stalled while that is waited out, else ""
	Apart     string        // why the cluster does not count on this node, "" if it does, and on a single node
	OldestIO  time.Duration // age of the oldest disk operation in flight
	Uptime    time.Duration
}

// Health says how the node is. It does no I/O and takes no lock that I/O could hold.
func (r *Running) Health() Health {
	h := Health{
		DiskFull: r.b.parts.DiskFull(),
		OldestIO: r.b.parts.OldestIO(),
		Uptime:   r.b.clk.Now().Sub(r.started),
	}
	if err := errors.Join(r.b.parts.Failure(), r.b.meta.Poisoned()); err != nil {
		h.DiskError = err.Error()
	} else if err := r.b.parts.Down(); err != nil {
		h.Stalled = err.Error()
	}
	select {
	case <-r.stopped:
	default:
		if r.b.life != nil {
			h.Apart = r.b.life.notReady()
		}
		h.Ready = h.DiskError == "" && h.Stalled == "" && h.Apart == ""
	}
	return h
}
