package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// recoverImage opens and replays fs.
func recoverImage(fs *imageFS) (bodies [][]byte, end LSN, err error) {
	o := tinyOptions()
	o.FS = fs
	o.OnCommit = func([]*Entry, error) {}
	w, err := Open(o)
	if err != nil {
		return nil, 0, err
	}
	bodies, err = replay(w)
	return bodies, w.End(), errors.Join(err, w.Close())
}

// lastGroup is a log before and after its last group was written.
type lastGroup struct {
	before, after *imageFS
	file          string
	from, to      int // the bytes that the last write changed, as far as it went
	acked         [][]byte
	last          []byte
}

// writeLast makes n commits of size bytes, and one more that is looked at. files is how many files to go through
// before, releasing all, so that what is written lies in a recycled slot.
func writeLast(t *testing.T, files, n, size int) lastGroup {
	t.Helper()
	fs := newImage()
	o := tinyOptions()
	o.FS, o.FilesMax = fs, 3
	r := newRig(t, o)
	r.start()
	i := 0
	for ; r.w.End() < LSN(files+1)*LSN(o.FileBytes); i++ {
		r.commit(body(i, 9000))
		r.releaseIfAll(o.FilesMax)
	}
	for range n {
		r.commit(body(i, size))
		i++
	}
	lg := lastGroup{before: fs.clone(), last: body(i, size)}
	at := r.w.End()
	r.commit(lg.last)
	lg.after = fs.clone()
	r.mu.Lock()
	all := slices.Clone(r.mu.acked)
	r.mu.Unlock()
	r.close()
	got, _, err := recoverImage(lg.after)
	if err != nil || len(got) == 0 || !bytes.Equal(got[len(got)-1], lg.last) {
		t.Fatalf("log to be torn is not good: %d entries, %v", len(got), err)
	}
	lg.acked = all[len(all)-len(got) : len(all)-1]
	for name, f := range lg.after.files {
		if b := lg.before.files[name]; b != nil && path.Base(name) != proofName && !bytes.Equal(b.data, f.data) {
			lg.file = name
		}
	}
	lg.from = int(at % LSN(o.FileBytes))
	lg.to = int((r.w.End() - blockBytes) % LSN(o.FileBytes)) // less the group that Close wrote
	if lg.from == 0 || lg.to <= lg.from {
		lg.headed() // the first group of a file
	}
	return lg
}

// headed makes before the moment when the header of the last group's file was durable, and nothing behind it written.
func (lg *lastGroup) headed() {
	lg.from = blockBytes
	copy(lg.before.files[lg.file].data, lg.after.files[lg.file].data[:blockBytes])
}

// torn is the image with only the bytes for which written says so.
func (lg *lastGroup) torn(written func(i int) bool) *imageFS {
	fs := lg.before.clone()
	dst, src := fs.files[lg.file].data, lg.after.files[lg.file].data
	for i := lg.from; i < lg.to; i++ {
		if written(i - lg.from) {
			dst[i] = src[i]
		}
	}
	return fs
}

func (lg *lastGroup) check(t *testing.T, what string, fs *imageFS) {
	t.Helper()
	whole := bytes.Equal(fs.files[lg.file].data, lg.after.files[lg.file].data)
	got, _, err := recoverImage(fs)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	want := lg.acked
	if whole || len(got) == len(lg.acked)+1 {
		want = append(slices.Clip(lg.acked), lg.last)
	}
	sameBodies(t, what, got, want)
}

func TestTornLastGroup(t *testing.T) {
	for _, tc := range []struct {
		name                 string
		files, commits, size int
	}{
		{"second group of a new file", 0, 1, 5000},
		{"many small groups", 0, 5, 10},
		{"group in a recycled slot", 6, 1, 5000},
		{"first group of the first file", 0, 0, 300},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lg := writeLast(t, tc.files, tc.commits, tc.size)
			n := lg.to - lg.from
			if n < blockBytes || n%blockBytes != 0 {
				t.Fatalf("last write spans bytes [%d, %d)", lg.from, lg.to)
			}
			for cut := 0; cut <= n; cut += byteStride {
				lg.check(t, fmt.Sprintf("first %d bytes of %d written", cut, n), lg.torn(func(i int) bool { return i < cut }))
			}
			for cut := 0; cut <= n; cut += 64 * byteStride {
				lg.check(t, fmt.Sprintf("bytes from %d of %d written", cut, n), lg.torn(func(i int) bool { return i >= cut }))
			}
			for sector := range n / 512 {
				lg.check(t, fmt.Sprintf("sector %d lost", sector), lg.torn(func(i int) bool { return i/512 != sector }))
				lg.check(t, fmt.Sprintf("only sector %d written", sector), lg.torn(func(i int) bool { return i/512 == sector }))
			}
		})
	}
}

// TestTornRecycledSlot tears the two first writes into a recycled slot by sectors: that the disk writes the header's sector wholly or
// not at all is assumed. With two files the slot is one that the newest file still names as needed, so that nothing but the new header
// may be written into it.
func TestTornRecycledSlot(t *testing.T) {
	for _, files := range []int{2, 3} {
		t.Run(fmt.Sprintf("of %d", files), func(t *testing.T) {
			lg := recycle(t, files)
			tear := func(what string) {
				n := (lg.to - lg.from) / 512
				for cut := range n + 1 {
					checkRecycled(t, &lg, fmt.Sprintf("%s: first %d sectors", what, cut), lg.torn(func(i int) bool { return i/512 < cut }))
					checkRecycled(t, &lg, fmt.Sprintf("%s: sectors from %d", what, cut), lg.torn(func(i int) bool { return i/512 >= cut }))
					checkRecycled(t, &lg, fmt.Sprintf("%s: all but sector %d", what, cut), lg.torn(func(i int) bool { return i/512 != cut }))
				}
			}
			end := lg.to
			lg.to = blockBytes
			tear("header")
			lg.to = end
			lg.headed()
			tear("group")
		})
	}
}

// releaseIfAll releases everything once all files have been made, so that from then on only recycled ones are written.
func (r *rig) releaseIfAll(files int) {
	if all, _ := r.w.files.count(); all == files {
		r.w.Release(r.w.Durable())
	}
}

// recycle writes a log until it has just begun a slot again, releasing all there is, and watches the order of the first two writes.
func recycle(t *testing.T, files int) lastGroup {
	t.Helper()
	fs := newImage()
	o := tinyOptions()
	o.FS, o.FilesMax = fs, files
	r := newRig(t, o)
	r.start()
	i := 0
	for ; r.w.End() < 7*64<<10; i++ {
		r.commit(body(i, 9000))
		r.releaseIfAll(files)
	}
	var before *imageFS
	file := r.w.End() / (64 << 10)
	for ; r.w.End()/(64<<10) == file; i++ {
		before = fs.clone()
		r.commit(body(i, 9000))
		r.w.Release(r.w.Durable())
	}
	lg := lastGroup{before: before, after: fs.clone(), last: body(i-1, 9000), to: int(r.w.End() % (64 << 10))}
	r.close()
	for name, f := range lg.after.files {
		if !bytes.Equal(lg.before.files[name].data, f.data) {
			lg.file = name
		}
	}
	acked, _, err := recoverImage(lg.before)
	if err != nil {
		t.Fatal(err)
	}
	lg.acked = acked
	return lg
}

// TestHeaderAlone: nothing is written into a file before its header is durable.
func TestHeaderAlone(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS, o.Depth, o.PipelineBytes = fs, 8, 1
	gate, held := make(chan struct{}), make(chan struct{}, 1)
	var mu sync.Mutex
	heading := ""
	fs.setHook(func(op, name string, off int64, n int) error {
		if op != "write" || strings.HasSuffix(name, tmpSuffix) {
			return nil
		}
		mu.Lock()
		if heading == name {
			t.Errorf("%d bytes at %d of %s while its header is being written", n, off, name)
		}
		if off != 0 || heading != "" {
			mu.Unlock()
			return nil
		}
		heading = name
		mu.Unlock()
		if n != blockBytes {
			t.Errorf("header of %s written with %d bytes, want %d", name, n, blockBytes)
		}
		held <- struct{}{}
		<-gate
		mu.Lock()
		heading = "none"
		mu.Unlock()
		return nil
	})
	r := newRig(t, o)
	r.start()
	for i := range 20 {
		r.append(body(i, 1000))
	}
	<-held
	if r.w.Durable() > r.w.recovered {
		t.Errorf("durable up to %d before the header is", r.w.Durable())
	}
	close(gate)
	r.settled(20)
	r.close()
}

// checkRecycled allows that released entries are gone once the new header says that they were.
func checkRecycled(t *testing.T, lg *lastGroup, what string, fs *imageFS) {
	t.Helper()
	got, _, err := recoverImage(fs)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	all := append(slices.Clip(lg.acked), lg.last)
	if len(got) > 0 && bytes.Equal(got[len(got)-1], lg.last) {
		sameBodies(t, what, got, all[len(all)-len(got):])
		return
	}
	if len(got) == 0 {
		t.Fatalf("%s: nothing recovered", what)
	}
	sameBodies(t, what, got, lg.acked[len(lg.acked)-len(got):])
}

func TestTruncatedFile(t *testing.T) {
	lg := writeLast(t, 0, 1, 5000)
	for n := lg.from; n <= lg.to+10; n += byteStride {
		fs := lg.after.clone()
		fs.files[lg.file].data = fs.files[lg.file].data[:n]
		got, _, err := recoverImage(fs)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		// Padding of the group that is cut off reads as zero, which it was.
		if len(got) != 1 && len(got) != 2 || n >= lg.to && len(got) != 2 {
			t.Fatalf("cut at %d: %d entries", n, len(got))
		}
		sameBodies(t, "cut", got, [][]byte{lg.acked[0], lg.last}[:len(got)])
	}
}

// proven makes a log over three files with single-entry groups, closed cleanly, so that all are proven durable.
func proven(t *testing.T) (fs *imageFS, acked [][]byte) {
	fs = newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	for i := 0; r.w.End() < 3*64<<10+4*blockBytes; i++ {
		r.commit(body(i, 9000))
	}
	r.close()
	return fs, r.mu.acked
}

func TestDamageToProvenGroupIsCorruption(t *testing.T) {
	fs, _ := proven(t)
	type region struct {
		file     string
		from, to int
		lsn      LSN
	}
	var regions []region
	var names []string
	err := Inspect(fs, "d", func(it Item) error {
		switch it.Type {
		case ItemFile:
			names = append(names, it.File)
			regions = append(regions, region{it.File, 0, blockBytes, it.LSN})
		case ItemGroup:
			if it.Entries > 0 { // nothing proves the group of Close
				regions = append(regions, region{it.File, int(it.Offset), int(it.Offset) + it.Bytes, it.LSN})
			}
		}
		return nil
	})
	if err != nil || len(names) != 3 {
		t.Fatalf("files %v, %v", names, err)
	}
	for k, g := range regions {
		step := 61 // every byte of the groups that differ in kind, a sample of the rest
		if k < 2 || k == len(regions)-1 {
			step = 1
		}
		for at := g.from; at < g.to; at += step * byteStride {
			data := fs.files[g.file].data
			data[at] ^= 0x10
			_, _, err := recoverImage(fs)
			data[at] ^= 0x10
			var ce *CorruptError
			if !errors.As(err, &ce) || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d of %s flipped: %v, want %v", at, g.file, err, ErrCorrupt)
			}
			if ce.File != g.file || ce.Offset < int64(g.from) || ce.Offset > int64(at) || ce.LSN != g.lsn+LSN(ce.Offset)-LSN(g.from) {
				t.Fatalf("byte %d of %s flipped: error names %s, offset %d, LSN %d", at, g.file, ce.File, ce.Offset, ce.LSN)
			}
		}
	}
}

func TestMissingFileIsCorruption(t *testing.T) {
	whole, _ := proven(t)
	for name := range whole.files {
		fs := whole.clone()
		h, err := parseHeader(fs.files[name].data)
		delete(fs.files, name)
		_, _, rerr := recoverImage(fs)
		switch {
		case err != nil && rerr != nil:
			t.Errorf("spare %s is gone: %v", name, rerr)
		case err == nil && h.seq < 3 && !errors.Is(rerr, ErrCorrupt):
			t.Errorf("%s with sequence %d is gone: %v, want %v", name, h.seq, rerr, ErrCorrupt)
		}
	}
}

// TestHoleBeforeUnprovenGroups: the second of four pipelined writes is lost, and lands late, in the next life.
func TestHoleBeforeUnprovenGroups(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS, o.PipelineBytes, o.GroupBytesMax = fs, 1, 8<<10
	written := make(chan int64, 8)
	fs.wrote = func(_ string, off int64) {
		if off > 3*blockBytes {
			select {
			case written <- off:
			default: // prewriting
			}
		}
	}
	r := newRig(t, o)
	r.start()
	first := body(0, 5000)
	r.commit(first)
	hole := int64(r.w.End() % (64 << 10))
	free := make(chan struct{})
	fs.setHook(func(op, name string, off int64, n int) error {
		if op == "write" && off == hole {
			<-free
		}
		return nil
	})
	for i := 1; i < 4; i++ {
		r.append(body(i, 5000))
	}
	for range 2 {
		<-written
	}
	crashed := fs.clone()
	close(free)
	r.settled(4)
	late := fs.clone().bytes("wal-0000.log")[hole : hole+8192]
	r.close()

	got, end, err := recoverImage(crashed.clone())
	if err != nil {
		t.Fatalf("hole: %v", err)
	}
	sameBodies(t, "before the hole", got, [][]byte{first})
	if int64(end%(64<<10)) != hole {
		t.Fatalf("end %d, want the hole at offset %d", end, hole)
	}
	o.FS = crashed
	r = newRig(t, o)
	r.start()
	r.commit(body(100, 50))
	r.close()
	copy(crashed.bytes("wal-0000.log")[hole:], late)
	got, _, err = recoverImage(crashed)
	if err != nil {
		t.Fatalf("late write: %v", err)
	}
	sameBodies(t, "a late write is not taken for data", got, [][]byte{first, body(100, 50)})
}

// TestStaleGenerationInSamePlace: the header of a new file is lost, its groups are not; the next life begins the same file again.
func TestStaleGenerationInSamePlace(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	for i := range 3 {
		r.commit(body(i, 5000))
	}
	crashed := fs.clone()
	r.close()
	// Only the second and third group of the file stay: nobody was told of any, had the first write not completed.
	delete(crashed.files, "d/"+proofName) // it would tell
	b := crashed.bytes("wal-0000.log")
	clear(b[:blockBytes+8192])
	zeroDurable(b[blockBytes+8192:])
	zeroDurable(b[blockBytes+2*8192:])
	got, _, err := recoverImage(crashed.clone())
	if err != nil || len(got) != 0 {
		t.Fatalf("recovered %d entries, %v; want none", len(got), err)
	}
	o.FS = crashed
	r = newRig(t, o)
	r.start()
	r.commit(body(7, 5000)) // ends exactly where an old group of the same LSN begins
	stale := crashed.clone()
	r.close()
	got, _, err = recoverImage(stale)
	if err != nil {
		t.Fatal(err)
	}
	sameBodies(t, "stale generation", got, [][]byte{body(7, 5000)})
}

// zeroDurable rewrites a group frame as if nothing had been durable when it was submitted.
func zeroDurable(b []byte) {
	g, err := parseGroupFrame(b)
	if err != nil {
		panic(err)
	}
	g.durable = 0
	putGroupFrame(b, g)
}

func TestStaleBlocksAreTheEnd(t *testing.T) {
	lg := writeLast(t, 6, 1, 5000)
	var end Item
	if err := Inspect(lg.after, "d", func(it Item) error { end = it; return nil }); err != nil {
		t.Fatal(err)
	}
	if end.Type != ItemEnd || end.Note != "stale" && end.Note != "torn" {
		t.Fatalf("log in a recycled slot ends with %q %q, want stale blocks", end.Type, end.Note)
	}
}

// TestCrashAnywhere crashes a loaded log again and again, each time losing any sectors of the writes under way, and goes on with what is left.
func TestCrashAnywhere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	fs := newImage()
	var want [][]byte // all that must be there, in order; what was released may be missing at the front
	released, inFlight := 0, 0
	for life := range 60 {
		o := tinyOptions()
		o.FS, o.FilesMax, o.PipelineBytes, o.Depth = fs, 12, 1+rng.IntN(20000), 1+rng.IntN(8)
		delays := rand.New(rand.NewPCG(seed, uint64(life)))
		var delayMu sync.Mutex
		fs.setHook(func(op, name string, _ int64, _ int) error {
			if op == "write" {
				delayMu.Lock()
				d := time.Duration(delays.IntN(300)) * time.Microsecond
				delayMu.Unlock()
				time.Sleep(d)
			}
			return nil
		})
		r := newRig(t, o)
		got := r.start()
		base := alignRecovered(t, fmt.Sprintf("seed %d, life %d", seed, life), want, got, released)
		want = append(want[:base:base], got...)
		at := len(want)
		if all, free := r.w.files.count(); all-free > 4 || rng.IntN(3) == 0 {
			released = at
			r.w.Release(r.w.Durable())
		}
		n := 1 + rng.IntN(150)
		crashAt := rng.IntN(n)
		var crashed *imageFS
		var acked [][]byte
		for i := range n {
			r.append(body(life*1000+i, 1+rng.IntN(3000)))
			if rng.IntN(20) == 0 {
				r.settled(i + 1 - rng.IntN(i+1))
			}
			if rng.IntN(25) == 0 {
				r.mu.Lock()
				if k := len(r.mu.lsns); k > 0 {
					released = at + k - 1
					r.w.Release(r.mu.lsns[k-1])
				}
				r.mu.Unlock()
			}
			if i == crashAt {
				r.mu.Lock()
				acked = slices.Clone(r.mu.acked)
				r.mu.Unlock()
				inFlight += fs.underWay()
				crashed = fs.crash(rng)
				break
			}
		}
		r.w.Release(r.w.End()) // let the old life end; it no longer matters
		r.w.Close()
		want = append(want, acked...)
		// What was in flight may have survived; it becomes known in the next life.
		fs = crashed
	}
	if inFlight == 0 {
		t.Error("no crash met a write under way")
	}
	t.Logf("%d writes were under way in 60 crashes", inFlight)
}

// alignRecovered checks that got is what want demands: want without at most its first released entries, and perhaps more at the end. It
// returns where in want got begins.
func alignRecovered(t *testing.T, what string, want, got [][]byte, released int) int {
	t.Helper()
	if len(want) == 0 {
		return 0
	}
	if len(got) == 0 {
		if released < len(want) {
			t.Fatalf("%s: nothing recovered, want at least %d entries", what, len(want)-released)
		}
		return len(want)
	}
	base := slices.IndexFunc(want, func(b []byte) bool { return bytes.Equal(b, got[0]) })
	if base < 0 {
		base = len(want)
	}
	if base > released {
		t.Fatalf("%s: recovery begins at entry %d, only %d were released", what, base, released)
	}
	if len(got) < len(want)-base {
		t.Fatalf("%s: %d entries recovered, want at least %d", what, len(got), len(want)-base)
	}
	sameBodies(t, what, got[:len(want)-base], want[base:])
	return base
}

func TestNoSpace(t *testing.T) {
	t.Run("for the first files", func(t *testing.T) {
		for allowed := range 2 {
			fs := newImage()
			left := allowed
			fs.setHook(func(op, name string, _ int64, _ int) error {
				if op == "allocate" {
					if left--; left < 0 {
						return syscall.ENOSPC
					}
				}
				return nil
			})
			o := tinyOptions()
			o.FS = fs
			r := newRig(t, o)
			if err := r.w.Start(); !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("room for %d files: %v, want %v", allowed, err, ErrNoSpace)
			}
			r.w.Close()
			for name := range fs.files {
				if strings.HasSuffix(name, tmpSuffix) {
					t.Errorf("%s is left behind", name)
				}
			}
		}
	})
	t.Run("for more", func(t *testing.T) {
		fs := newImage()
		o := tinyOptions()
		o.FS = fs
		r := newRig(t, o)
		r.start()
		r.commit(body(0, 100)) // the spare is being made: it has its room already
		fs.setHook(func(op, name string, _ int64, _ int) error {
			if op == "allocate" {
				return syscall.ENOSPC
			}
			return nil
		})
		for i := 1; i <= 40; i++ {
			r.append(body(i, 9000))
			if i%4 == 0 {
				r.settled(i + 1)
				r.w.Release(r.w.Durable())
			}
		}
		r.settled(41)
		if len(r.mu.failed) > 0 {
			t.Fatalf("with two or three files: %v", r.mu.failed)
		}
		r.close()
	})
}
