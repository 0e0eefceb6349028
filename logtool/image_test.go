package logtool

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// image is a data directory that nobody uses, and what was acknowledged into it.
type image struct {
	name  string
	disk  *vfs.MemFS
	acked ledger
	last  map[string]record.Batch // the last batch of each idempotent producer, by partition
	other *otherLeader            // what the followed partitions are to have

	follows bool // there are some
}

const topicsOfImage = 4

var imageTopics = [topicsOfImage]struct {
	name       string
	partitions int32
	configs    map[string]string
}{
	{"small", 2, map[string]string{"internal.segment.bytes": "16384", "index.interval.bytes": "1024"}},
	{"large", 1, nil},
	{"idempotent", 1, map[string]string{"internal.segment.bytes": "32768"}},
	{"late", 1, nil}, // written to in the last life only
}

// makeImage runs a broker through some lives. clean: the last one ends in order, else by a kill; flush: segments are written soon. quiet, if set, is called
// now and then when nothing is in flight.
func makeImage(t testing.TB, seed uint64, clean, flush bool, quiet func(*image)) *image {
	t.Helper()
	return makeImageOf(t, seed, clean, flush, true, quiet)
}

// makeImageOf: follow says whether there are partitions that another node leads.
func makeImageOf(t testing.TB, seed uint64, clean, flush, follow bool, quiet func(*image)) *image {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 9))
	im := &image{name: fmt.Sprintf("clean %v, flushed %v", clean, flush), acked: ledger{}, last: map[string]record.Batch{}}
	disk := vfs.NewMem()
	must(t, disk.MkdirAll(dataDir))
	watch := &proofs{}
	disk.SetHook(watch.hook)
	more := map[string]string{}
	if flush {
		more["log.writeback.bytes"] = "8192"
	}
	seq := int32(0)
	follows := &followed{t: t, other: newOtherLeader()}
	im.other, im.follows = follows.other, follow
	for life := range 3 {
		b, err := openFollower(disk, more, follows.other)
		must(t, err)
		follows.b = b
		if life == 0 {
			for i, tc := range imageTopics {
				must(t, b.propose(raftmeta.CreateTopic{ID: [16]byte{byte(i + 1)}, Name: tc.name, Partitions: tc.partitions, Configs: tc.configs}))
			}
		}
		for range 12 {
			must(t, b.propose(raftmeta.SetTopicConfigs{Topic: "large", Set: map[string]string{"retention.ms": fmt.Sprint(1<<40 + rng.IntN(1000))}}))
		}
		follows.begin(life == 0 && follow)
		for range 80 {
			if follow && rng.IntN(3) == 0 {
				follows.step(rng)
			}
			if quiet != nil && rng.IntN(8) == 0 {
				im.disk = disk.CrashClone(rng, rng.Float64())
				quiet(im)
			}
			tc := imageTopics[rng.IntN(topicsOfImage)]
			if tc.name == "late" && life < 2 {
				continue
			}
			p := rng.Int32N(tc.partitions)
			n := 1 + rng.IntN(4)
			spec := record.NewSpec()
			if tc.name == "idempotent" {
				spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = 77, 0, seq
				seq += int32(n)
			}
			batch := randomBatch(t, rng, spec, n)
			_, err := b.append(tc.name, p, batch)
			must(t, err)
			im.acked.add(tc.name, p, batch)
			if spec.ProducerID >= 0 {
				im.last[key(tc.name, p)] = batch
			}
		}
		mark := watch.now()
		must(t, b.propose(raftmeta.SetTopicConfigs{Topic: "large", Set: map[string]string{"retention.ms": "1000000000000"}}))
		if life == 2 && !clean {
			watch.wait(mark)
			im.disk = disk.CrashClone(rng, 1)
		}
		must(t, b.close())
	}
	follows.acked(im)
	if clean {
		im.disk = disk
		disk.SetHook(nil)
	}
	return im
}

func randomBatch(t testing.TB, rng *rand.Rand, spec record.Spec, n int) record.Batch {
	t.Helper()
	recs := make([]record.Record, n)
	for i := range recs {
		v := make([]byte, 20+rng.IntN(900))
		for j := range v {
			v[j] = byte(rng.Uint32())
		}
		recs[i] = record.Record{Timestamp: time.Now().UnixMilli(), Key: []byte{byte(i)}, Value: v}
	}
	b, err := record.Build(spec, recs)
	must(t, err)
	return b
}
