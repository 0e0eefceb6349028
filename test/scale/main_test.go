// Package scale asks whether a node with ten thousand partitions and ten gibibytes behaves like one with ten: how long it
// takes to come back after a kill, what it costs to have all partitions written to a little, what it does when idle.
//
// Sizes come from the environment; with -short, or where CI is true, they are small:
//
//	WEIR_TEST_SCALE_PARTITIONS  partitions in all (10000; short: 1000)
//	WEIR_TEST_SCALE_MIB         data in all (10240; short: 200)
//	WEIR_TEST_SCALE_SEGMENT_KIB size of a segment (256; short: 128)
//	WEIR_TEST_SCALE_DIR         where the data goes (a temporary directory)
//	WEIR_TEST_SCALE_KEEP     not empty: the data stays there
package scale

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"weir/test/internal/weirproc"
)

func TestMain(m *testing.M) {
	code := m.Run()
	weirproc.RemoveBuilt()
	os.Exit(code)
}

// perTopic is how many partitions a topic has.
const perTopic = 100

// sizes is what a run is made of.
type sizes struct {
	topics     int
	bytes      int64 // in all, without batch headers
	segmentKiB int
	small      bool
}

func (s sizes) partitions() int { return s.topics * perTopic }

func chosenSizes(t *testing.T) sizes {
	t.Helper()
	small := testing.Short() || os.Getenv("CI") == "true"
	partitions, mib, segment := 10_000, 10<<10, 256
	if small {
		partitions, mib, segment = 1000, 200, 128
	}
	partitions = envInt(t, "WEIR_TEST_SCALE_PARTITIONS", partitions)
	if partitions < perTopic || partitions%perTopic != 0 {
		t.Fatalf("WEIR_TEST_SCALE_PARTITIONS is %d, want a multiple of %d", partitions, perTopic)
	}
	return sizes{
		topics: partitions / perTopic, bytes: int64(envInt(t, "WEIR_TEST_SCALE_MIB", mib)) << 20,
		segmentKiB: envInt(t, "WEIR_TEST_SCALE_SEGMENT_KIB", segment), small: small,
	}
}

func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q, want a positive number", name, text)
	}
	return n
}

// dataDir is where the broker keeps its data; there must be room for it and its write-ahead log.
func dataDir(t *testing.T, need int64) string {
	t.Helper()
	base := os.Getenv("WEIR_TEST_SCALE_DIR")
	if base == "" {
		base = t.TempDir()
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(base, &st); err != nil {
		t.Fatalf("room in %s: %v", base, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need+need/4+4<<30 {
		t.Fatalf("%s has %d MiB left, this needs %d (WEIR_TEST_SCALE_MIB, WEIR_TEST_SCALE_DIR)", base, free>>20, (need+need/4)>>20+4096)
	}
	dir, err := os.MkdirTemp(base, "scale-")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("WEIR_TEST_SCALE_KEEP") == "" { // to look at what a run left
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	return filepath.Join(dir, "data")
}

func topicName(i int) string { return fmt.Sprintf("scale-%03d", i) }

// limit is a context that bounds a hang; no test expects it to end.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition that the broker brings about in the background, and says how long that took.
func eventually(t *testing.T, within time.Duration, what string, met func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !met() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(began)
}

// dropCaches makes the kernel forget what it has read of the file system that holds dir, where this process may.
func dropCaches(dir string) bool {
	// Not sync(2): that waits for every disk of the machine.
	if exec.Command("sync", "-f", dir).Run() != nil {
		return false
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) == nil
}
