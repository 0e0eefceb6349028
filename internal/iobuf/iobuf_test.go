package iobuf

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSizes(t *testing.T) {
	before := InUse()
	for _, c := range []struct{ n, capacity int }{
		{0, 1 << 10}, {1, 1 << 10}, {1024, 1 << 10}, {1025, 2 << 10}, {4096, 4 << 10}, {4097, 8 << 10},
		{100_000, 128 << 10}, {256 << 10, 256 << 10}, {3 << 20, 4 << 20}, {4 << 20, 4 << 20}, {16 << 20, 16 << 20}, {16<<20 + 1, 16<<20 + 4096}, {20 << 20, 20 << 20},
	} {
		b := Get(c.n)
		if b.Len() != c.n || len(b.Bytes()) != c.n || b.Cap() != c.capacity {
			t.Errorf("Get(%d): length %d, capacity %d, want %d", c.n, b.Len(), b.Cap(), c.capacity)
		}
		if c.n >= 4096 && uintptr(unsafe.Pointer(&b.Bytes()[0]))%4096 != 0 {
			t.Errorf("Get(%d) is not page-aligned", c.n)
		}
		if InUse() != before+int64(c.capacity) {
			t.Errorf("Get(%d): %d bytes in use, want %d", c.n, InUse()-before, c.capacity)
		}
		b.SetLen(b.Cap())
		b.Bytes()[b.Cap()-1] = 1 // all of it is there
		b.Release()
		if InUse() != before {
			t.Errorf("after Release of %d: %d bytes in use", c.n, InUse()-before)
		}
	}
}

func TestMemoryIsReused(t *testing.T) {
	for _, n := range []int{1000, 64 << 10, 1 << 20} {
		b := Get(n)
		at := &b.Bytes()[0]
		b.Release()
		c := Get(n)
		if &c.Bytes()[0] != at || c.Len() != n {
			t.Errorf("size %d: not the memory that was released last", n)
		}
		c.Release()
	}
}

func TestRetainKeepsMemory(t *testing.T) {
	b := Get(2000)
	if b.Retain() != b {
		t.Error("Retain gives another buffer")
	}
	copy(b.Bytes(), "kept")
	b.Release()
	if string(b.Bytes()[:4]) != "kept" || b.Len() != 2000 {
		t.Error("released although retained")
	}
	b.Release()
}

func panics(f func()) (said string) {
	defer func() {
		if r := recover(); r != nil {
			said = fmt.Sprint(r)
		}
	}()
	f()
	return ""
}

func TestMisusePanics(t *testing.T) {
	if said := panics(func() { Get(-1) }); !strings.Contains(said, "Get(-1)") {
		t.Errorf("Get(-1): %q", said)
	}
	twice := &Buf{b: make([]byte, 10), class: 0} // not from the pool: it would be unfit for it afterwards
	if said := panics(twice.Release); !strings.Contains(said, "released more often") {
		t.Errorf("Release too many: %q", said)
	}
	dead := &Buf{b: make([]byte, 10), class: 0}
	if said := panics(func() { dead.Retain() }); !strings.Contains(said, "released buffer") {
		t.Errorf("Retain of a released buffer: %q", said)
	}
	if said := panics(func() { b := Get(10); defer b.Release(); b.SetLen(b.Cap() + 1) }); said == "" {
		t.Error("SetLen beyond the capacity does not panic")
	}
}

// Idle memory of the large classes is bounded; what is beyond goes back to the operating system.
func TestIdleMemoryIsBounded(t *testing.T) {
	const n = 2 * PoolBytesMax / (4 << 20)
	bufs := make([]*Buf, n)
	for i := range bufs {
		bufs[i] = Get(4 << 20)
	}
	for _, b := range bufs {
		b.Release()
	}
	if idle := idleBytes.Load(); idle > PoolBytesMax || idle <= 0 {
		t.Errorf("%d idle bytes, want at most %d", idle, PoolBytesMax)
	}
	for i := range bufs {
		bufs[i] = Get(4 << 20)
	}
	if idle := idleBytes.Load(); idle < 0 || idle > PoolBytesMax {
		t.Errorf("%d idle bytes after taking all", idle)
	}
	for _, b := range bufs {
		b.Release()
	}
}

// No two buffers share memory, whatever is got and released.
func TestBuffersAreApart(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type held struct {
			b    *Buf
			mark byte
			refs int
		}
		var all []*held
		var mark byte
		defer func() {
			for _, h := range all {
				for range h.refs {
					h.b.Release()
				}
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"get": func(rt *rapid.T) {
				mark++
				h := &held{Get(rapid.OneOf(rapid.IntRange(0, 9000), rapid.IntRange(0, 5<<20)).Draw(rt, "n")), mark, 1}
				for i := 0; i < h.b.Len(); i += 512 {
					h.b.Bytes()[i] = mark
				}
				all = append(all, h)
			},
			"retain": func(rt *rapid.T) {
				if len(all) == 0 {
					rt.Skip()
				}
				h := all[rapid.IntRange(0, len(all)-1).Draw(rt, "i")]
				h.b.Retain()
				h.refs++
			},
			"release": func(rt *rapid.T) {
				if len(all) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(all)-1).Draw(rt, "i")
				all[i].b.Release()
				if all[i].refs--; all[i].refs == 0 {
					all = append(all[:i], all[i+1:]...)
				}
			},
			"": func(rt *rapid.T) {
				for _, h := range all {
					for i := 0; i < h.b.Len(); i += 512 {
						if h.b.Bytes()[i] != h.mark {
							rt.Fatalf("byte %d of a buffer of %d was overwritten by that of another", i, h.b.Len())
						}
					}
				}
			},
		})
	})
}

func TestConcurrentUse(t *testing.T) {
	before := InUse()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				b := Get(512 << (i % 11))
				b.Bytes()[0] = byte(g)
				other := b.Retain()
				if b.Bytes()[0] != byte(g) {
					t.Error("memory is shared")
				}
				b.Release()
				other.Release()
			}
		})
	}
	wg.Wait()
	if InUse() != before {
		t.Errorf("%d bytes in use after all were released", InUse()-before)
	}
}

func BenchmarkGetRelease(b *testing.B) {
	for _, n := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Get(n).Release()
			}
		})
	}
}

// TestPoolKeepsWhatIsUsed: buffers of a size that is in use stay in the pool although others, which nobody uses any more, have filled it.
func TestPoolKeepsWhatIsUsed(t *testing.T) {
	var stale []*Buf
	for range PoolBytesMax / (1 << 20) {
		stale = append(stale, Get(1<<20))
	}
	for _, b := range stale {
		b.Release()
	}
	b := Get(256 << 10)
	first := &b.Bytes()[0]
	for range 5 {
		b.Release()
		if idle := idleBytes.Load(); idle > PoolBytesMax {
			t.Fatalf("%d bytes idle, want at most %d", idle, PoolBytesMax)
		}
		if b = Get(256 << 10); &b.Bytes()[0] != first {
			t.Fatal("a buffer that was just given back was not kept")
		}
	}
	b.Release()
}

func TestFootprintIsTheCapacity(t *testing.T) {
	for _, n := range []int{0, 1, 1024, 1025, 4096, 65_537, 1 << 20, 1<<24 - 1, 1 << 24, 1<<24 + 1, 20_000_001} {
		b := Get(n)
		if got, want := Footprint(n), b.Cap(); got != want {
			t.Errorf("Footprint(%d) is %d, Cap is %d", n, got, want)
		}
		b.Release()
	}
}
