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
	OldestIO  time.Duration // age of the oldest disk operation in flight
	Uptime    time.Duration
}

// Health says how the node is. It does no I/O and takes no lock that I/O could hold.
func (r *Running) Health() Health {
	h := Health{
		DiskFull: r.b.parts.DiskFull(),
		OldestIO: max(r.b.parts.OldestIO(), r.b.meta.OldestIO()),
		Uptime:   r.b.clk.Now().Sub(r.started),
	}
	if err := errors.Join(r.b.parts.Failure(), r.b.meta.Poisoned()); err != nil {
		h.DiskError = err.Error()
	}
	select {
	case <-r.stopped:
	default:
		h.Ready = h.DiskError == ""
	}
	return h
}
