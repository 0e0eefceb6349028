//go:build clockstep

package clock

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// With the build tag clockstep, which no product is built with, the wall clock of Real is off by what a test says while the process runs: the
// nanoseconds, in the machine's byte order, that stand in the file named by OffsetEnv. The monotonic clock stays what it is, as on a machine whose
// clock is set.

// OffsetEnv names the file. Without it the clock is right.
const OffsetEnv = "WEIR_TEST_CLOCK_OFFSET"

// offset is a mapping of the file. The test's file is in memory or small and just written, so its one page is never cold.
var offset = mapOffset(os.Getenv(OffsetEnv))

func mapOffset(name string) *atomic.Int64 {
	if name == "" {
		return new(atomic.Int64)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		panic(fmt.Sprintf("clockstep: %s: %v", OffsetEnv, err))
	}
	defer f.Close()
	page, err := syscall.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(atomic.Int64{})), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		panic(fmt.Sprintf("clockstep: map %s: %v", name, err))
	}
	return (*atomic.Int64)(unsafe.Pointer(&page[0]))
}

func now() time.Time { return shifted(time.Now(), time.Duration(offset.Load())) }

// shifted moves a time's wall clock and leaves its monotonic reading. Add moves both, and there is no public way to move one, so the reading is put
// back where package time has it; a test holds this against the package's public behaviour.
func shifted(t time.Time, by time.Duration) time.Time {
	moved := t.Add(by)
	reading(&moved).ext = reading(&t).ext
	return moved
}

// layout is how package time keeps a Time with a monotonic reading.
type layout struct {
	wall uint64 // seconds since 1885 and nanoseconds
	ext  int64  // the monotonic reading
	loc  *time.Location
}

func reading(t *time.Time) *layout { return (*layout)(unsafe.Pointer(t)) }
