package logtool

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"weir/internal/vfs"
)

// target is a kind of file that is damaged.
type target string

const (
	walSlots    target = "WAL slot"
	segments    target = "segment"
	indexes     target = "index"
	timeIndexes target = "time index"
	checkpoints target = "checkpoint"
	producers   target = "producer snapshot"
	metaSlots   target = "metadata WAL slot"
	metaSnaps   target = "metadata snapshot"
	proofFiles  target = "proof file"
)

// targets are drawn from in this proportion.
var targets = []target{walSlots, walSlots, walSlots, segments, segments, segments, indexes, timeIndexes, checkpoints, producers, metaSlots, metaSlots, metaSnaps, proofFiles}

// filesOf lists the files of a kind, with their sizes.
func filesOf(t testing.TB, disk vfs.FS, kind target) (names []string) {
	t.Helper()
	list := func(dir string, match func(string) bool) {
		entries, err := disk.List(dir)
		must(t, err)
		for _, e := range entries {
			if !e.IsDir() && match(e.Name()) {
				names = append(names, path.Join(dir, e.Name()))
			}
		}
	}
	suffix := func(s string) func(string) bool { return func(name string) bool { return strings.HasSuffix(name, s) } }
	topics := func(s string) {
		dirs, err := disk.List(path.Join(dataDir, "topics"))
		must(t, err)
		for _, d := range dirs {
			if d.IsDir() {
				list(path.Join(dataDir, "topics", d.Name()), suffix(s))
			}
		}
	}
	switch kind {
	case walSlots:
		list(path.Join(dataDir, "wal"), suffix(".log"))
	case metaSlots:
		list(path.Join(dataDir, "meta/wal"), suffix(".log"))
	case metaSnaps:
		list(path.Join(dataDir, "meta/snapshots"), suffix(".snapshot"))
	case segments:
		topics(".log")
	case indexes:
		topics(".index")
	case timeIndexes:
		topics(".timeindex")
	case producers:
		topics(".snapshot")
	case checkpoints:
		names = []string{path.Join(dataDir, "topics/recovery-points")}
	case proofFiles:
		names = []string{path.Join(dataDir, "wal/durable"), path.Join(dataDir, "meta/wal/durable")}
	}
	return names
}

func load(t testing.TB, disk vfs.FS, name string) []byte {
	t.Helper()
	f, err := disk.OpenFile(name, vfs.ReadOnly)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if size > 0 {
		_, err = f.ReadAt(b, 0)
		must(t, err)
	}
	return b
}

// store writes what differs: a WAL slot is large and mostly untouched.
func store(t testing.TB, disk vfs.FS, name string, old, b []byte) {
	t.Helper()
	f, err := disk.OpenFile(name, 0)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(int64(len(b))))
	const chunk = 4096
	for at := 0; at < len(b); at += chunk {
		end := min(at+chunk, len(b))
		if end <= len(old) && string(old[at:end]) == string(b[at:end]) {
			continue
		}
		_, err = f.WriteAt(b[at:end], int64(at))
		must(t, err)
	}
	must(t, f.Sync())
}

// somewhere is a position in b: mostly where something is written.
func somewhere(rng *rand.Rand, b []byte) int {
	at := 0
	for range 50 {
		at = rng.IntN(len(b))
		if b[at] != 0 || rng.IntN(10) == 0 {
			break
		}
	}
	return at
}

// harm damages one file and says how. The empty string: it came out unchanged.
func harm(t testing.TB, rng *rand.Rand, disk vfs.FS, name string) string {
	t.Helper()
	old := load(t, disk, name)
	if len(old) == 0 {
		return ""
	}
	b := slices.Clone(old)
	at := somewhere(rng, b)
	n := min(1+rng.IntN(4096), len(b)-at)
	what := ""
	switch kind := rng.IntN(12); {
	case kind < 4:
		bit := rng.IntN(8)
		b[at] ^= 1 << bit
		what = fmt.Sprintf("bit %d of byte %d flipped", bit, at)
	case kind < 6:
		at &^= 511
		n = min((1+rng.IntN(16))*512, len(b)-at)
		clear(b[at : at+n])
		what = fmt.Sprintf("%d bytes at %d zeroed", n, at)
	case kind < 7:
		b = b[:at]
		what = fmt.Sprintf("cut to %d bytes", at)
	case kind < 8:
		for i := range b[at : at+n] {
			b[at+i] = byte(rng.Uint32())
		}
		what = fmt.Sprintf("%d bytes at %d are garbage", n, at)
	case kind < 9: // two blocks swapped
		size := 512 << (3 * rng.IntN(2))
		i, j := at/size*size, somewhere(rng, b)/size*size
		if max(i, j)+size > len(b) {
			return ""
		}
		tmp := slices.Clone(b[i : i+size])
		copy(b[i:i+size], b[j:j+size])
		copy(b[j:j+size], tmp)
		what = fmt.Sprintf("blocks of %d at %d and %d swapped", size, i, j)
	case kind < 11: // a block that was elsewhere
		size := 512 << (3 * rng.IntN(2))
		i, j := at/size*size, somewhere(rng, b)/size*size
		if max(i, j)+size > len(b) {
			return ""
		}
		copy(b[i:i+size], b[j:j+size])
		what = fmt.Sprintf("block of %d at %d is that of %d", size, i, j)
	default:
		must(t, disk.Remove(name))
		return "deleted"
	}
	if string(b) == string(old) {
		return ""
	}
	store(t, disk, name, old, b)
	return what
}
