package segment

import (
	"errors"
	"testing"

	"weir/internal/vfs"
)

// TestFollowersAreNotStarved: consumers who keep all they get leave the followers' part alone, followers read on when consumers cannot, and what
// followers hold within their part takes nothing from consumers.
func TestFollowersAreNotStarved(t *testing.T) {
	for _, flush := range []bool{false, true} {
		const memory, reserve, size = 8 << 20, 2 << 20, 100_000
		o, _ := testOptions(vfs.NewMem())
		o.ReadBytesMax, o.FollowerReadBytes, o.FlushBytes = memory, reserve, 1<<30
		s := openStore(t, o)
		w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
		for range 200 {
			w.add(1, size, 0)
		}
		if flush {
			flushAll(t, s)
		}
		var held []*Range
		read := func(r *Reader, offset int64, maxBytes int) error {
			share := r.Share()
			defer share.Close()
			rng, err := w.l.ReadShare(&share, offset, w.l.End(), maxBytes, true)
			if err == nil {
				held = append(held, rng)
			}
			return err
		}
		free := func() int64 {
			s.memory.mu.Lock()
			defer s.memory.mu.Unlock()
			return s.memory.freeLocked()
		}
		var err error
		for offset := int64(0); err == nil && offset < 190; offset++ {
			err = read(s.NewReader(), offset, size)
		}
		if !errors.Is(err, ErrReadMemory) {
			t.Fatalf("flushed: %v: consumers are not bounded: %v", flush, err)
		}
		if used := s.memory.inUse(); used > memory-reserve {
			t.Errorf("flushed: %v: consumers took %d of %d", flush, used, memory-reserve)
		}
		before, follower := free(), s.NewFollowerReader()
		if err := read(follower, 0, 10*size); err != nil {
			t.Errorf("flushed: %v: a follower cannot read: %v", flush, err)
		}
		if after := free(); after < before {
			t.Errorf("flushed: %v: %d bytes are free for consumers, %d before the follower read", flush, after, before)
		}
		for _, r := range held {
			r.Release()
		}
		s.memory.mu.Lock()
		used, followed := s.memory.mu.used, s.memory.mu.followed
		s.memory.mu.Unlock()
		if used != 0 || followed != 0 || follower.held != 0 {
			t.Errorf("flushed: %v: %d bytes, %d of followers, %d of the one, are left", flush, used, followed, follower.held)
		}
	}
}
