package faultdisk

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// passing starts a request at the gate.
func passing(g *gate, kind Kind) <-chan syscall.Errno {
	done := make(chan syscall.Errno, 1)
	go func() {
		_, errno := g.pass(kind)
		done <- errno
	}()
	return done
}

func returned(done <-chan syscall.Errno) bool {
	synctest.Wait()
	return len(done) > 0
}

func TestGateHoldsItsKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.stall(Write|Flush, 0)
		write, flush, read := passing(g, Write), passing(g, Flush), passing(g, Read)
		if returned(write) || returned(flush) || !returned(read) {
			t.Fatal("want the write and the flush held back and the read let through")
		}
		if g.holds(Write) != 1 || g.holds(All) != 2 || !g.awaitHeld(Flush, 0) || g.awaitHeld(Read, time.Second) {
			t.Fatalf("%d writes and %d requests held back, want 1 and 2", g.holds(Write), g.holds(All))
		}
		g.stall(Flush, 0) // replaces the stall
		if !returned(write) || returned(flush) {
			t.Fatal("want the write let through and the flush held back")
		}
		g.stall(0, 0)
		if !returned(flush) || <-flush != 0 || g.holds(All) != 0 {
			t.Fatal("want the flush let through")
		}
	})
}

func TestGateStallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.stall(All, time.Second)
		early := passing(g, Read)
		time.Sleep(999 * time.Millisecond)
		if returned(early) {
			t.Fatal("let through before the end of the stall")
		}
		time.Sleep(time.Millisecond)
		if !returned(early) || !returned(passing(g, Read)) {
			t.Fatal("held back after the end of the stall")
		}
	})
}

func TestGateFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.fail(Write, syscall.ENOSPC)
		if errno := <-passing(g, Write); errno != syscall.ENOSPC {
			t.Fatalf("write: %v, want ENOSPC", errno)
		}
		if errno := <-passing(g, Read); errno != 0 {
			t.Fatalf("read: %v", errno)
		}
		g.fail(0, 0)
		if errno := <-passing(g, Write); errno != 0 {
			t.Fatalf("write after healing: %v", errno)
		}
	})
}

// TestGateCut: without power everything fails, also what a stall held back.
func TestGateCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.stall(All, 0)
		held := passing(g, Flush)
		synctest.Wait()
		g.cut()
		if !returned(held) || <-held != syscall.EIO || <-passing(g, Read) != syscall.EIO {
			t.Fatal("want EIO")
		}
	})
}
