package wal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// salvageImage returns the bodies that Salvage yields and the damage it names.
func salvageImage(t *testing.T, fs *imageFS) (bodies [][]byte, lost []Item) {
	t.Helper()
	last := LSN(0)
	damaged, err := Salvage(fs, "d", func(it Item) error {
		switch it.Type {
		case ItemEntry:
			if it.LSN <= last {
				t.Errorf("LSN %d after %d", it.LSN, last)
			}
			last = it.LSN
			bodies = append(bodies, bytes.Clone(it.Body))
		case ItemDamage:
			it.Head, it.Body = bytes.Clone(it.Head), bytes.Clone(it.Body)
			lost = append(lost, it)
		}
		return nil
	})
	if err != nil || damaged != (len(lost) > 0) {
		t.Fatalf("damaged %v with %d findings, %v", damaged, len(lost), err)
	}
	return bodies, lost
}

// TestSalvageOfGoodLog: without damage it is what a replay yields.
func TestSalvageOfGoodLog(t *testing.T) {
	for _, n := range []int{0, 1, 5, 300} {
		fs := newImage()
		o := tinyOptions()
		o.FS, o.FilesMax = fs, 40
		r := newRig(t, o)
		r.start()
		for i := range n {
			r.append(body(i, 900))
		}
		r.settled(n)
		crashed := fs.clone()
		r.close()
		for _, image := range []*imageFS{crashed, fs} {
			want, _, err := recoverImage(image.clone())
			if err != nil {
				t.Fatal(err)
			}
			got, lost := salvageImage(t, image)
			sameBodies(t, "salvaged", got, want)
			if len(lost) > 0 {
				t.Errorf("damage in a good log: %+v", lost)
			}
		}
	}
}

// TestSalvagePassesOverDamage: one damaged byte costs one entry at most, and that entry is pointed at.
func TestSalvagePassesOverDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := newImage()
	o := tinyOptions()
	o.FS, o.FilesMax = fs, 8
	r := newRig(t, o)
	r.start()
	const n = 100
	for i := range n {
		r.append(body(i, 200+rng.IntN(3000)))
		if i%7 == 0 {
			r.settled(i + 1)
		}
	}
	r.settled(n)
	r.close()
	var all [][]byte
	var at []Item
	if err := Inspect(fs, "d", func(it Item) error {
		if it.Type == ItemEntry {
			it.Body = nil
			at = append(at, it)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	all = r.mu.acked
	for i := range n {
		damaged := fs.clone()
		where := int(at[i].Offset) + rng.IntN(frameBytes+at[i].Bytes)
		damaged.files[at[i].File].data[where] ^= 1 << rng.IntN(8)
		if _, _, err := recoverImage(damaged.clone()); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("seed %d: a flip at %d of %s: %v, want ErrCorrupt", seed, where, at[i].File, err)
		}
		got, lost := salvageImage(t, damaged)
		sameBodies(t, "all but the damaged entry", got, slices.Delete(slices.Clone(all), i, i+1))
		if len(lost) != 1 || lost[0].LSN != at[i].LSN || lost[0].Bytes != frameBytes+at[i].Bytes {
			t.Fatalf("seed %d: entry at LSN %d of %d bytes is damaged, reported are %d places, the first LSN %d, %d bytes", seed, at[i].LSN, frameBytes+at[i].Bytes, len(lost), lost[0].LSN, lost[0].Bytes)
		}
	}
}

// TestSalvageWithoutHeader: a file whose header is lost is still found.
func TestSalvageWithoutHeader(t *testing.T) {
	o := tinyOptions()
	fs, acked := idleLog(t, o, 60)
	files := 0
	for name, f := range fs.files {
		if _, err := parseHeader(f.data); err != nil {
			continue
		}
		files++
		damaged := fs.clone()
		clear(damaged.files[name].data[:blockBytes])
		got, lost := salvageImage(t, damaged)
		sameBodies(t, "without the header of "+name, got, acked)
		if len(lost) == 0 {
			t.Errorf("the lost header of %s is not reported", name)
		}
	}
	if files < 2 {
		t.Fatalf("%d files, want several", files)
	}
}

// TestSalvageAnything: whatever is done to the files, what Salvage yields was appended, in order, and where something is missing it
// says that there is damage.
func TestSalvageAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs, acked := idleLog(t, tinyOptions(), 50)
	var names []string
	for name := range fs.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for round := range 200 {
		damaged := fs.clone()
		name := names[rng.IntN(len(names))]
		f := damaged.files[name]
		at := rng.IntN(len(f.data))
		n := min(1+rng.IntN(9000), len(f.data)-at)
		switch rng.IntN(4) {
		case 0:
			clear(f.data[at : at+n])
		case 1:
			f.data = f.data[:at]
		case 2:
			delete(damaged.files, name)
		case 3:
			from := rng.IntN(len(f.data) - n + 1)
			copy(f.data[at:at+n], bytes.Clone(f.data[from:from+n]))
		}
		got, lost := salvageImage(t, damaged)
		i := 0
		for _, b := range got {
			for i < len(acked) && !bytes.Equal(acked[i], b) {
				i++
			}
			if i == len(acked) {
				t.Fatalf("seed %d, round %d: an entry that was not appended, or out of order", seed, round)
			}
			i++
		}
		if len(got) < len(acked) && len(lost) == 0 {
			t.Fatalf("seed %d, round %d: %d entries of %d, and no damage reported (%s at %d, %d bytes)", seed, round, len(got), len(acked), name, at, n)
		}
	}
}
