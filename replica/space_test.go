package replica

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/clock"
	"weir/internal/vfs"
)

func TestSpaceGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		space, fail := vfs.Space{Total: 1000, Available: 300}, error(nil)
		returned := 0
		g := newSpaceGuard(90, clock.Real{}, func() (vfs.Space, error) { return space, fail }, func() { returned++ }) // reserve 100, room 200
		if err := g.admit(100); err != nil {
			t.Fatalf("100 of 200: %v", err)
		}
		if err := g.admit(101); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("201 of 200: %v, want ErrDiskFull", err)
		}
		synctest.Wait() // the refusal looked again: what was admitted before the look has been written meanwhile or shows in Available
		if err := g.admit(200); err != nil {
			t.Fatalf("after a new look: %v", err)
		}
		synctest.Wait()

		space.Available = 50
		g.changed()
		synctest.Wait()
		if err := g.admit(1); !errors.Is(err, ErrDiskFull) || !g.full() {
			t.Fatalf("below the reserve: %v, full %v", err, g.full())
		}
		synctest.Wait()

		space.Available = 500 // somebody deleted something: the next refusal finds out, the one after it passes
		if err := g.admit(1); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("before the look: %v", err)
		}
		synctest.Wait()
		if err := g.admit(1); err != nil {
			t.Fatalf("room returned: %v", err)
		}

		synctest.Wait()
		if returned != 2 {
			t.Errorf("told %d times that room returned, want 2: after each time it had run out", returned)
		}

		fail = errors.New("stat failed")
		g.changed()
		synctest.Wait()
		if err := g.admit(1); !errors.Is(err, ErrStorage) {
			t.Fatalf("file system cannot be asked: %v, want ErrStorage", err)
		}
		synctest.Wait()
	})
}

// TestSpaceGuardIsContradicted: the file system reports room, and writes find none.
func TestSpaceGuardIsContradicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, tries, writes := 0, 0, false
		var g *spaceGuard
		g = newSpaceGuard(90, clock.Real{}, func() (vfs.Space, error) { looks++; return vfs.Space{Total: 1000, Available: 500}, nil }, func() {
			if tries++; !writes {
				g.ranOut()
			}
		})
		defer g.close()
		g.ranOut()
		synctest.Wait()
		if err := g.admit(1); !errors.Is(err, ErrDiskFull) || !g.full() {
			t.Fatalf("admit after a write found no room: %v, full %t", err, g.full())
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if tries < 10 || tries > 30 || looks > 100 {
			t.Errorf("%d tries and %d looks in 10 minutes, want one each half a minute in the end", tries, looks)
		}
		before := tries
		writes = true
		g.changed() // something was deleted
		synctest.Wait()
		if err := g.admit(1); err != nil || tries != before+1 {
			t.Errorf("after a deletion: %v, %d tries more, want one at once", err, tries-before)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if tries != before+1 {
			t.Errorf("%d tries with nothing to try", tries-before-1)
		}
	})
}
