package faultdisk

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func newTestImage(t interface {
	Fatal(args ...any)
	Cleanup(func())
}, sectors int) *image {
	m, err := newImage(int64(sectors) * sectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.close() })
	return m
}

// TestImageAgainstModel: after any writes, flushes and power cuts, each sector holds one of the contents that it may hold.
func TestImageAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const sectors = 16
		m := newTestImage(t, sectors)
		may := make([][]byte, sectors) // by sector: the durable value, then those written since
		for i := range may {
			may[i] = []byte{0}
		}
		keeps := []float64{0, 0.5, 1}
		for step := range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			default:
				from := rapid.IntRange(0, sectors-1).Draw(t, "from")
				n := rapid.IntRange(1, sectors-from).Draw(t, "n")
				value := byte(step + 1)
				if err := m.write(m.power(), bytes.Repeat([]byte{value}, n*sectorBytes), int64(from)*sectorBytes); err != nil {
					t.Fatal(err)
				}
				for i := from; i < from+n; i++ {
					may[i] = append(may[i], value)
				}
			case 7:
				if _, err := m.flush(m.power(), m.mark()); err != nil {
					t.Fatal(err)
				}
				for i, values := range may {
					may[i] = values[len(values)-1:]
				}
			case 8, 9:
				keep := rapid.SampledFrom(keeps).Draw(t, "keep")
				m.powerCut(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), keep)
				for i, values := range may {
					may[i] = []byte{requireAllowed(t, m, i, values, keep)}
				}
			}
			for i, values := range may {
				requireAllowed(t, m, i, values, 1)
			}
		}
	})
}

// requireAllowed checks a sector and returns its value. Where everything or nothing was kept there is one value only.
func requireAllowed(t *rapid.T, m *image, sector int, values []byte, keep float64) byte {
	content := make([]byte, sectorBytes)
	if _, err := m.read(m.power(), content, int64(sector)*sectorBytes); err != nil {
		t.Fatal(err)
	}
	value := content[0]
	if !bytes.Equal(content, bytes.Repeat([]byte{value}, sectorBytes)) {
		t.Fatalf("sector %d is torn within", sector)
	}
	allowed := values
	switch keep {
	case 0:
		allowed = values[:1]
	case 1:
		allowed = values[len(values)-1:]
	}
	if bytes.IndexByte(allowed, value) < 0 {
		t.Fatalf("sector %d holds %d, want one of %v (keep %v)", sector, value, allowed, keep)
	}
	return value
}

// TestPowerCutTears: of one large write that was not flushed about the wanted share of sectors is kept, each on its own.
func TestPowerCutTears(t *testing.T) {
	const sectors = 4096
	for _, keep := range []float64{0, 0.25, 0.5, 1} {
		m := newTestImage(t, sectors)
		if err := m.write(0, bytes.Repeat([]byte{1}, sectors*sectorBytes), 0); err != nil {
			t.Fatal(err)
		}
		lost := m.powerCut(rand.New(rand.NewPCG(1, 2)), keep)
		kept := 0
		for i := range sectors {
			kept += int(m.content[i*sectorBytes])
		}
		if lost.Sectors != sectors || lost.Lost != sectors-kept || math.Abs(float64(kept)-keep*sectors) > 0.05*sectors {
			t.Errorf("keep %v: %d of %d sectors kept, and it says %+v", keep, kept, sectors, lost)
		}
	}
}

// TestFlushCoversWhatCameBefore: what is written while a flush stands still is not made durable by it.
func TestFlushCoversWhatCameBefore(t *testing.T) {
	m := newTestImage(t, 2)
	write := func(sector int64, value byte) {
		if err := m.write(0, bytes.Repeat([]byte{value}, sectorBytes), sector*sectorBytes); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 1)
	mark := m.mark()
	write(0, 2)
	write(1, 2)
	if _, err := m.flush(0, mark); err != nil {
		t.Fatal(err)
	}
	m.powerCut(rand.New(rand.NewPCG(1, 2)), 0)
	if m.content[0] != 1 || m.content[sectorBytes] != 0 {
		t.Fatalf("sectors hold %d and %d, want 1 and 0", m.content[0], m.content[sectorBytes])
	}
}

func TestLieMakesNothingDurable(t *testing.T) {
	m := newTestImage(t, 1)
	m.lieAboutFlush(true)
	if err := m.write(0, bytes.Repeat([]byte{1}, sectorBytes), 0); err != nil {
		t.Fatal(err)
	}
	if lied, err := m.flush(0, m.mark()); !lied || err != nil {
		t.Fatalf("flush: lied %v, %v; want a lie", lied, err)
	}
	if lost := m.powerCut(rand.New(rand.NewPCG(1, 2)), 0); lost.Lost != 1 || m.content[0] != 0 {
		t.Fatalf("%+v, the sector holds %d; want it lost", lost, m.content[0])
	}
}

// TestOldPowerIsGone: what was under way when the power went cannot change the disk afterwards.
func TestOldPowerIsGone(t *testing.T) {
	m := newTestImage(t, 1)
	m.powerCut(rand.New(rand.NewPCG(1, 2)), 1)
	buf := bytes.Repeat([]byte{1}, sectorBytes)
	_, readErr := m.read(0, buf, 0)
	_, flushErr := m.flush(0, m.mark())
	for _, err := range []error{m.write(0, buf, 0), readErr, flushErr} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("error %v, want EIO", err)
		}
	}
	if m.content[0] != 0 || m.write(1, buf, 0) != nil {
		t.Error("the disk was written, or cannot be")
	}
}

func TestWriteRefusesPartsOfSectors(t *testing.T) {
	m := newTestImage(t, 2)
	for _, c := range []struct{ bytes, offset int64 }{{100, 0}, {sectorBytes, 1}, {2 * sectorBytes, sectorBytes}} {
		if err := m.write(0, make([]byte, c.bytes), c.offset); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%d bytes at %d: %v, want EINVAL", c.bytes, c.offset, err)
		}
	}
}

// TestCacheIsBounded: a disk that is never flushed writes its cache back, oldest first, instead of growing.
func TestCacheIsBounded(t *testing.T) {
	const chunk = 1 << 20
	m := newTestImage(t, chunk/sectorBytes*2)
	buf := bytes.Repeat([]byte{1}, chunk)
	if err := m.write(0, buf, chunk); err != nil { // the oldest
		t.Fatal(err)
	}
	for range cacheBytesMax / chunk {
		if err := m.write(0, buf, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.unflushed(); n != cacheBytesMax {
		t.Fatalf("%d bytes unflushed, want the limit %d", n, cacheBytesMax)
	}
	m.powerCut(rand.New(rand.NewPCG(1, 2)), 0)
	if m.content[chunk] != 1 || m.content[0] != 0 {
		t.Fatalf("oldest write %d, later ones %d; want 1 and 0", m.content[chunk], m.content[0])
	}
}

// TestPowerCutKeepsMetadataWhole: XFS does not survive a torn block of its metadata, so those are kept or lost as one.
func TestPowerCutKeepsMetadataWhole(t *testing.T) {
	const blocks = 512
	m := newTestImage(t, (1+blocks)*blockBytes/sectorBytes)
	uuid := []byte("0123456789abcdef")
	super := make([]byte, blockBytes)
	copy(super, "XFSB")
	copy(super[32:], uuid)
	if err := m.write(0, super, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := m.flush(0, m.mark()); err != nil {
		t.Fatal(err)
	}
	for version := byte(1); version <= 2; version++ {
		for i := range int64(blocks) {
			b := bytes.Repeat([]byte{version}, blockBytes)
			if i%2 == 0 {
				copy(b[100:], uuid)
			}
			if err := m.write(0, b, (1+i)*blockBytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.powerCut(rand.New(rand.NewPCG(1, 2)), 0.5)
	torn, versions := [2]int{}, map[byte]int{}
	for i := range int64(blocks) {
		b := m.content[(1+i)*blockBytes : (2+i)*blockBytes]
		versions[b[0]]++
		for at := sectorBytes; at < blockBytes; at += sectorBytes {
			if b[at] != b[0] {
				torn[i%2]++
				break
			}
		}
	}
	if torn[0] != 0 || torn[1] < blocks/4 || len(versions) != 3 {
		t.Fatalf("%d blocks of metadata and %d of data torn, versions %v; want none, most, and three", torn[0], torn[1], versions)
	}
}
