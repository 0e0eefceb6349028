package logtool

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
)

// TestTruncations: a node follows another whose history changes, so its log is cut and begun anew, again and again, while what was written is flushed. At
// many moments, wherever the flusher is, its directory is looked at as a loss of power leaves it: verify finds no damage, a repair wants nothing, a
// broker starts and has what the leader has and nothing else; and a repair that gives the WAL up, with all of it readable, comes to the same.
func TestTruncations(t *testing.T) {
	seed := uint64(number(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	images := number(t, "WEIR_TEST_TRUNCATION_IMAGES", 2)
	t.Logf("WEIR_SEED=%d WEIR_TEST_TRUNCATION_IMAGES=%d", seed, images)
	looks := 0
	for i := range images {
		makeImage(t, seed+uint64(i), false, i%2 == 0, func(im *image) {
			looks++
			checkTruncated(t, im, fmt.Sprintf("seed %d, image %d, look %d", seed, i, looks))
		})
	}
	t.Logf("%d looks", looks)
}

func checkTruncated(t *testing.T, im *image, what string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	plain, forced := im.disk.CrashClone(rng, 1), im.disk.CrashClone(rng, 1)
	var lost []damage.Finding
	o := Options{FS: plain, Dir: dataDir, Finding: func(f damage.Finding) {
		if f.Severity == damage.Lost {
			lost = append(lost, f)
		}
	}}
	rep, err := Verify(o)
	must(t, err)
	if rep.Lost > 0 {
		keep(t, plain)
		t.Fatalf("%s: verify of a directory that nobody damaged: %v; a start says: %v", what, lost, im.sameAsLeader(plain))
	}
	if rep, err := Repair(RepairOptions{Options: Options{FS: plain, Dir: dataDir}}); err != nil || len(rep.Needs)+len(rep.Changed)+len(rep.Lost) > 0 {
		t.Fatalf("%s: repair of a directory that nobody damaged: %+v, %v", what, rep, err)
	}
	if err := im.sameAsLeader(plain); err != nil {
		t.Fatalf("%s: after a start: %v", what, err)
	}
	fo := RepairOptions{Options: Options{FS: forced, Dir: dataDir}, SkipWAL: true}
	s, err := look(&fo.Options)
	must(t, err)
	s.walDamaged = true
	dry := fo
	dry.DryRun = true
	plan, err := s.repair(dry)
	must(t, err)
	s, err = look(&fo.Options)
	must(t, err)
	s.walDamaged = true
	res, err := s.repair(fo)
	if err != nil || len(res.Lost)+res.Unnamed > 0 {
		t.Fatalf("%s: a repair that writes the whole WAL into the segments: %+v, %v", what, res, err)
	}
	if fmt.Sprint(plan.Lost, plan.Doubtful, plan.Unnamed) != fmt.Sprint(res.Lost, res.Doubtful, res.Unnamed) {
		t.Fatalf("%s: the repair says %+v, its dry run said %+v", what, res, plan)
	}
	if err := im.sameAsLeader(forced); err != nil {
		t.Fatalf("%s: after a repair that wrote the whole WAL into the segments (%v): %v", what, res.Changed, err)
	}
}

// sameAsLeader starts a broker and compares the followed partitions with the leader's.
func (im *image) sameAsLeader(disk vfs.FS) (err error) {
	b, err := openBroker(disk, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.lead(); err != nil {
		return err
	}
	for index := range int32(followedPartitions) {
		p, l := b.ByName(followedTopic, index), &im.other.logs[index]
		var got []record.Batch
		if err := p.ReadAll(func(b record.Batch) error {
			if b.Count() > 0 && b.BaseOffset() >= l.start { // neither where the leader's has no records, nor what the log start has yet to follow
				got = append(got, b)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", key(followedTopic, index), err)
		}
		if p.End() != l.end || p.LogStart() > l.start || len(got) != len(l.batches) {
			return fmt.Errorf("%s: %d to %d in %d batches, the leader has %d to %d in %d", key(followedTopic, index), p.LogStart(), p.End(), len(got), l.start, l.end, len(l.batches))
		}
		for _, e := range l.epochs.All() { // where a gap follows, too: or a third replica would be told wrongly where the epoch before ends
			if got := p.EpochAt(e.Start); e.Start >= p.LogStart() && e.Start < l.end && got != e.Epoch {
				return fmt.Errorf("%s: offset %d is of epoch %d, the leader's of %d", key(followedTopic, index), e.Start, got, e.Epoch)
			}
		}
		for i, want := range l.batches {
			if !bytes.Equal(got[i], want) {
				return fmt.Errorf("%s: the batch of offset %d is another, of offset %d and epoch %d", key(followedTopic, index), want.BaseOffset(), got[i].BaseOffset(), got[i].LeaderEpoch())
			}
		}
	}
	return nil
}
