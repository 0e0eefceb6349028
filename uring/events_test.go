package uring

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/internal/vfs"
)

// TestChangesAreTold: whoever watches the age of operations learns when one begins to age, and when some have come back.
func TestChangesAreTold(t *testing.T) {
	var r *ring
	var ages []bool // whether something was in flight at each call
	eachRing(t, func(o *Options) {
		ages = nil
		o.OnChange = func() { ages = append(ages, r.OldestAge() > 0) }
	}, func(t *testing.T, got *ring) {
		r = got
		f := open(t, vfs.Create)
		if _, err := run(t, r, Op{Kind: OpWrite, File: f, Buf: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if len(ages) != 2 || !ages[0] || ages[1] {
			t.Errorf("told %v around one operation, want in flight and then not", ages)
		}
	})
}

// TestLateErrors: an error that arrives after the deadline is heard, if it says that something written may be lost.
func TestLateErrors(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		err  error
		want bool
	}{
		{OpFdatasync, unix.EIO, true}, {OpWrite, unix.EIO, true}, {OpWrite, nil, false}, {OpRead, unix.EIO, false}, {OpRead, io.EOF, false},
	} {
		var gate chan struct{}
		hook := func(op, _ string, _ int64, _ int) error {
			if op == "open" {
				return nil
			}
			<-gate
			return tc.err
		}
		var late atomic.Pointer[error]
		hookedEngine(t, Options{OnLate: func(err error) { late.Store(&err) }}, hook, func(t *testing.T, e *Engine, f vfs.File) {
			gate = make(chan struct{})
			released := make(chan struct{})
			op := &Op{Kind: tc.kind, File: f, Timeout: time.Second, Released: func(*Op) { close(released) }}
			if tc.kind != OpFdatasync {
				op.Buf = make([]byte, 10)
			}
			_, err := e.Do(op)
			wantError(t, "a stuck operation", err, ErrDeadline)
			if late.Load() != nil {
				t.Error("told before there was an error")
			}
			close(gate)
			<-released
			got := late.Load()
			if (got != nil) != tc.want {
				t.Errorf("%s that ended late with %v: told %t, want %t", tc.kind, tc.err, got != nil, tc.want)
			}
			if got != nil && !errors.Is(*got, tc.err) {
				t.Errorf("told %v, want %v", *got, tc.err)
			}
		})
	}
}
