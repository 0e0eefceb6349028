// Package clock is the seam for time: production code uses Real, simulations and tests their own.
//
// A time.Time from Real has two readings. The wall clock says which day it is; it may jump, forward and back, when somebody or NTP sets it.
// The monotonic clock does not, and t.Sub(u), t.Before(u) and so on use it where both times have it. So durations, deadlines and order are kept
// in times that come from a Clock and never go through Unix, UnixMilli or Format; Ticks is for those that must be a number. The wall clock is only
// for what other machines and later processes are to understand: timestamps of records, what expires by them, logs.
package clock

import "time"

// Clock tells the time and runs functions later.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f in its own goroutine (Real) or from Advance (a test clock) after d.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending AfterFunc.
type Timer interface {
	// Stop reports whether it kept f from running.
	Stop() bool
	Reset(d time.Duration) bool
}

// Real is the system's clock.
type Real struct{}

// Now returns time.Now.
func (Real) Now() time.Time { return now() }

// AfterFunc is time.AfterFunc.
func (Real) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// WallWaitMax bounds how long a timer for a time of the wall clock may run until the wall clock is looked at again: it may have been set meanwhile.
// A machine that starts in 1970 and is told the time a minute later would else wait for decades until it deletes what is a week old.
const WallWaitMax = time.Hour

// UntilWall is for how long to wait for a time that may be one of the wall clock, and then to look again.
func UntilWall(at, now time.Time) time.Duration { return min(max(at.Sub(now), 0), WallWaitMax) }

// origin is what Ticks count from.
var origin = time.Now()

// Ticks is a time as nanoseconds on the monotonic clock, for atomics: the difference of two of one process is the time between them, whatever was
// done to the wall clock. It means nothing to another process.
func Ticks(t time.Time) int64 { return int64(t.Sub(origin)) }
