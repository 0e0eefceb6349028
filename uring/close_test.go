package uring

import (
	"strings"
	"testing"
	"time"
)

// Close fails waiters and returns although the kernel holds on; the memory is leaked, not reused.
func TestCloseWithStuckOperation(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			s := newStuck(t)
			o := v.opt
			o.StallAfter = -1
			o.Locked = false // the leaked ring outlives the test's thread
			got, err := New(o)
			if err != nil {
				t.Skip(err)
			}
			r := got.(*ring)
			hung := hang(t, r, Op{Kind: OpWrite, File: s.file, Buf: []byte("x"), Timeout: 50 * time.Millisecond})
			waiting := &call{op: Op{Kind: OpWrite, File: s.file, Buf: []byte("y")}}
			push(t, r, waiting)
			if err := r.Wait(false); err != nil {
				t.Fatal(err)
			}
			leakedBefore := len(leaked.rings)
			began := time.Now()
			err = r.Close() // returns: nothing but the test itself can end the operation
			elapsed := time.Since(began)
			wantError(t, "Close", err, ErrDeadline)
			if err == nil || !strings.Contains(err.Error(), "leaked") || elapsed < closeWait {
				t.Errorf("Close: %v after %s", err, elapsed)
			}
			wantError(t, "waiting write", waiting.err, ErrClosed)
			if hung.released != 0 || r.InFlight() != 2-waiting.released || len(leaked.rings) != leakedBefore+1 {
				t.Errorf("released %d, in flight %d, leaked %d", hung.released, r.InFlight(), len(leaked.rings)-leakedBefore)
			}
			r.Wake()
			s.resolve()
			if err := r.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
		})
	}
}

// What can be cancelled is given back by Close.
func TestCloseReleases(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		calls := make([]*call, 3)
		for i := range calls {
			calls[i] = &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 1)}}
		}
		push(t, r, calls...)
		if err := r.Wait(false); err != nil {
			t.Fatal(err)
		}
		if r.Name() == BackendPortable {
			if err := w.Close(); err != nil { // ends the threads' reads
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		for i, c := range calls {
			if c.done != 1 || c.released != 1 {
				t.Errorf("read %d: done %d, released %d", i, c.done, c.released)
			}
			if r.Name() != BackendPortable {
				wantError(t, "read", c.err, ErrClosed)
			}
		}
	})
}
