package logtool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/replica"
	"weir/segment"
	"weir/wal"
)

// TestCorruption damages a data directory at random, WEIR_TEST_CORRUPTIONS times (100, in CI 500), each time one file of a copy that a broker
// has left behind, in order or by a kill. What must hold: no reader gets a record that was not produced. What is
// missing was noticed, by the broker's refusal to start or by an error of the read. weir log verify knows it, too; and after weir log
// repair a broker starts, and what is missing then are just the offsets that the repair named.
func TestCorruption(t *testing.T) {
	cases := 100
	if os.Getenv("CI") == "true" {
		cases = 500
	}
	cases = number(t, "WEIR_TEST_CORRUPTIONS", cases)
	seed := uint64(number(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	only := number(t, "WEIR_TEST_CASE", -1)
	t.Logf("WEIR_SEED=%d WEIR_TEST_CORRUPTIONS=%d; WEIR_TEST_CASE=<n> repeats one", seed, cases)
	var images []*image
	for i := range 8 {
		images = append(images, makeImageOf(t, seed+uint64(i), i%2 == 0, i%4 < 2, i < 4, nil))
	}
	var tally counts
	t.Run("cases", func(t *testing.T) {
		const shards = 4
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for i := shard; i < cases; i += shards {
					if only < 0 || i == only {
						corruptOnce(t, seed, i, images, &tally)
					}
				}
			})
		}
	})
	t.Logf("%d refused to start, %d found when read, %d healed, %d harmless; %d batches named as lost by repairs; %d whole ones next to damage readable after the repair only",
		tally.refused.Load(), tally.read.Load(), tally.healed.Load(), tally.harmless.Load(), tally.lost.Load(), tally.skipped.Load())
	if tally.skipped.Load() > 2*tally.lost.Load() {
		t.Errorf("readers pass over too much")
	}
	if n := tally.refused.Load() + tally.read.Load(); only < 0 && n < int64(cases)/5 {
		t.Errorf("only %d of %d cases damaged anything that matters", n, cases)
	}
}

type counts struct{ refused, read, healed, harmless, lost, skipped atomic.Int64 }

func number(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// corruption is one case.
type corruption struct {
	t    *testing.T
	im   *image
	disk *vfs.MemFS // as it was after the damage
	what string
	// doubt are offsets of which a repair has said that they may be of another history.
	doubt   []damage.Loss
	unnamed bool // places of the WAL that do not tell what they held: maybe a truncation
	*counts
}

// saveTree copies a directory to the real disk.
func saveTree(t *testing.T, disk vfs.FS, from, to string) {
	list, err := disk.List(from)
	must(t, err)
	must(t, os.MkdirAll(to, 0o755))
	for _, e := range list {
		if e.IsDir() {
			saveTree(t, disk, path.Join(from, e.Name()), path.Join(to, e.Name()))
			continue
		}
		must(t, os.WriteFile(path.Join(to, e.Name()), load(t, disk, path.Join(from, e.Name())), 0o644))
	}
}

// keep writes a data directory to the real disk.
func keep(t *testing.T, disk vfs.FS) {
	if dir, err := os.MkdirTemp("", "weir-corruption-"); err == nil {
		saveTree(t, disk, dataDir, dir)
		t.Logf("the damaged directory is kept in %s", dir)
	}
}

// fatal keeps the damaged directory: which files there are, and what is in them, depends on timing, too.
func (c *corruption) fatal(format string, args ...any) {
	c.t.Helper()
	keep(c.t, c.disk)
	c.t.Fatalf("%s: %s", c.what, fmt.Sprintf(format, args...))
}

func corruptOnce(t *testing.T, seed uint64, i int, images []*image, tally *counts) {
	rng := rand.New(rand.NewPCG(seed, uint64(i)))
	im := images[rng.IntN(len(images))]
	disk := im.disk.CrashClone(rng, 1)
	c := &corruption{t: t, im: im, counts: tally}
	for what := ""; what == ""; {
		kind := targets[rng.IntN(len(targets))]
		names := filesOf(t, disk, kind)
		if len(names) == 0 || im.follows && slices.Contains([]target{metaSlots, metaSnaps}, kind) {
			continue // the metadata of a node of a cluster is not repaired: the others have it
		}
		name := names[rng.IntN(len(names))]
		what = harm(t, rng, disk, name)
		c.what = fmt.Sprintf("seed %d, case %d (%s), %s %s %s", seed, i, im.name, kind, name, what)
	}
	damaged := disk.CrashClone(rng, 1)
	c.disk = disk.CrashClone(rng, 1)
	rep := c.verify(disk)
	missing, err := c.start(disk)
	switch {
	case err != nil:
		tally.refused.Add(1)
		if !isCorruption(err) {
			c.fatal("refused to start, not because of damage: %v", err)
		}
		if rep.Lost == 0 {
			c.fatal("refused to start (%v), and verify found nothing lost", err)
		}
	case len(missing) > 0:
		tally.read.Add(1)
		if rep.Lost == 0 {
			c.fatal("%d batches are missing, and verify found nothing lost", len(missing))
		}
	case rep.Heals+rep.Lost > 0:
		tally.healed.Add(1)
	default:
		tally.harmless.Add(1)
	}
	if rep.Lost > 0 {
		c.repair(damaged, missing, err == nil, tally)
	}
}

func isCorruption(err error) bool {
	for _, target := range []error{wal.ErrCorrupt, segment.ErrCorrupt, raftmeta.ErrCorrupt, raftmeta.ErrVersion, raftmeta.ErrWrongCluster, raftmeta.ErrWrongNode} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func (c *corruption) verify(disk vfs.FS) *Report {
	o := Options{FS: disk, Dir: dataDir}
	if os.Getenv("WEIR_TEST_CASE") != "" {
		o.Finding = func(f damage.Finding) { c.t.Log(f) }
	}
	rep, err := Verify(o)
	if err != nil {
		c.fatal("verify: %v", err)
	}
	return rep
}

// start opens the directory as a broker and reads all that was acknowledged. It returns the batches that cannot be read.
func (c *corruption) start(disk vfs.FS) (missing []stored, err error) {
	b, err := openBroker(disk, nil)
	if err != nil {
		return nil, err
	}
	if err := b.lead(); err != nil {
		c.fatal("%v", err)
	}
	missing = c.readAll(b, func(s stored, err error) {
		if os.Getenv("WEIR_TEST_CASE") != "" {
			c.t.Logf("offset %d of %s-%d: %v", s.base, s.topic, s.partition, err)
		}
		e, ok := errors.AsType[*segment.CorruptError](err)
		if !ok {
			c.fatal("offset %d of %s-%d was acknowledged, and reading it gives %v", s.base, s.topic, s.partition, err)
		}
		if e.Offset > s.base || e.NextOffset != 0 && e.NextOffset <= s.base {
			c.fatal("reading offset %d of %s-%d: the error names others: %v", s.base, s.topic, s.partition, e)
		}
	})
	if len(missing) == 0 {
		c.retries(b)
	}
	if err := b.close(); err != nil && len(missing) == 0 {
		c.fatal("close: %v", err)
	}
	return missing, nil
}

// readAll reads every acknowledged batch by itself and calls gone for those that do not come.
func (c *corruption) readAll(b *broker, gone func(stored, error)) (missing []stored) {
	for _, k := range c.im.acked.keys() {
		for _, s := range c.im.acked[k] {
			got, err := b.readAt(s)
			if err != nil {
				gone(s, err)
				missing = append(missing, s)
				continue
			}
			if string(got) == string(s.bytes) {
				continue
			}
			if first, _, err := record.Next(got); err == nil && first.Count() == 0 && first.BaseOffset() <= s.base && s.base < first.NextOffset() {
				gone(s, errFiller)
				missing = append(missing, s)
				continue
			}
			if c.doubtful(s) {
				missing = append(missing, s)
				continue
			}
			c.fatal("offset %d of %s: a reader gets %d bytes that were not produced there", s.base, k, len(got))
		}
	}
	return missing
}

// within reports whether a batch lies in one of the ranges.
func within(ranges []damage.Loss, s stored) bool {
	return slices.ContainsFunc(ranges, func(l damage.Loss) bool {
		return strings.HasPrefix(l.Log, key(s.topic, s.partition)+".") && l.Offsets.From <= s.base && s.next <= l.Offsets.To
	})
}

// doubtful: what is there may be of another history.
func (c *corruption) doubtful(s stored) bool {
	return within(c.doubt, s) || c.unnamed && s.topic == followedTopic
}

var errFiller = errors.New("an empty batch is there")

// retries sends the last batch of each idempotent producer again: it must be recognised.
func (c *corruption) retries(b *broker) {
	for k, last := range c.im.last {
		topic, partition, _ := strings.Cut(k, "-")
		n, _ := strconv.Atoi(partition)
		again := slices.Clone(last)
		off, err := b.append(topic, int32(n), again)
		if err != nil || off != last.BaseOffset() {
			c.fatal("a retry of the batch at offset %d of %s got offset %d, %v", last.BaseOffset(), k, off, err)
		}
	}
}

// repair repairs a copy, and holds what it names against what is missing then.
func (c *corruption) repair(disk *vfs.MemFS, before []stored, started bool, tally *counts) {
	o := RepairOptions{Options: Options{FS: disk, Dir: dataDir}, DropDamaged: true, SkipWAL: true, Metadata: true, NewCheckpoint: true, DryRun: true}
	untouched := snapshotOf(c.t, disk)
	plan, err := Repair(o)
	if err != nil {
		c.fatal("repair, dry run: %v", err)
	}
	if now := snapshotOf(c.t, disk); now != untouched {
		c.fatal("a dry run changed files")
	}
	o.DryRun = false
	rep, err := Repair(o)
	if err != nil {
		c.fatal("repair: %v", err)
	}
	if fmt.Sprint(rep.Lost, rep.Doubtful, rep.Metadata, rep.Unnamed, rep.Restored) != fmt.Sprint(plan.Lost, plan.Doubtful, plan.Metadata, plan.Unnamed, plan.Restored) {
		c.fatal("the repair lost %v %v, its dry run said %v %v", rep.Lost, rep.Metadata, plan.Lost, plan.Metadata)
	}
	if again := c.verify(disk); again.Lost > 0 {
		c.fatal("after the repair (lost %v, changed %v) verify still finds %d places with lost data", rep.Lost, rep.Changed, again.Lost)
	}
	c.doubt, c.unnamed = rep.Doubtful, rep.Unnamed > 0
	b, err := openBroker(disk, nil)
	if err != nil {
		c.fatal("after the repair (%v) the broker does not start: %v", rep.Changed, err)
	}
	if err := b.lead(); err != nil {
		c.fatal("after the repair: %v", err)
	}
	missing := c.readAll(b, func(s stored, err error) {
		if !errors.Is(err, errFiller) && !errors.Is(err, errEnd) && !errors.Is(err, replica.ErrOffsetOutOfRange) && !errors.Is(err, errNoPartition) {
			c.fatal("after the repair offset %d of %s-%d: %v", s.base, s.topic, s.partition, err)
		}
	})
	c.compare(rep, missing)
	tally.lost.Add(int64(len(missing)))
	if started && len(rep.Metadata) == 0 {
		c.compareReads(before, missing, rep.Restored)
	}
	c.goOn(b)
	if err := b.close(); err != nil {
		c.fatal("close after the repair: %v", err)
	}
}

// compare: the batches that are missing are those that the repair named.
func (c *corruption) compare(rep *RepairReport, missing []stored) {
	named := map[string][]damage.Range{}
	for _, l := range rep.Lost {
		k := l.Log[:strings.LastIndexByte(l.Log, '.')]
		named[k] = append(named[k], l.Offsets)
	}
	isNamed := func(s stored) bool {
		return slices.ContainsFunc(named[key(s.topic, s.partition)], func(r damage.Range) bool { return r.From <= s.base && s.next <= r.To })
	}
	gone := map[string]bool{}
	for _, s := range missing {
		k := key(s.topic, s.partition)
		gone[fmt.Sprint(k, s.base)] = true
		if !isNamed(s) && !c.doubtful(s) && !(rep.Unnamed > 0 && c.atEnd(s, missing)) {
			c.fatal("offsets %d to %d of %s are missing after the repair, which named %v (unnamed places: %d)", s.base, s.next-1, k, rep.Lost, rep.Unnamed)
		}
	}
	for _, k := range c.im.acked.keys() {
		for _, s := range c.im.acked[k] {
			if isNamed(s) && !gone[fmt.Sprint(k, s.base)] {
				c.fatal("offsets %d to %d of %s were named as lost, and are there", s.base, s.next-1, k)
			}
		}
	}
}

// atEnd: everything from s to the end of its partition is missing.
func (c *corruption) atEnd(s stored, missing []stored) bool {
	for _, x := range c.im.acked[key(s.topic, s.partition)] {
		if x.base >= s.base && !slices.ContainsFunc(missing, func(m stored) bool { return m.topic == x.topic && m.partition == x.partition && m.base == x.base }) {
			return false
		}
	}
	return true
}

// compareReads counts what a reader of the damaged log did not get although it is whole. Where the boundaries of batches are damaged,
// too, a reader may have to go on at the next place that the index names; the error that it gets covers all that.
func (c *corruption) compareReads(before, after []stored, restored []damage.Loss) {
	for _, s := range before {
		if slices.ContainsFunc(restored, func(l damage.Loss) bool {
			return strings.HasPrefix(l.Log, key(s.topic, s.partition)+".") && l.Offsets.From <= s.base && s.base < l.Offsets.To
		}) {
			continue
		}
		if !slices.ContainsFunc(after, func(x stored) bool { return x.topic == s.topic && x.partition == s.partition && x.base == s.base }) {
			c.skipped.Add(1)
		}
	}
}

// goOn writes to every partition and reads it back.
func (c *corruption) goOn(b *broker) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, tc := range imageTopics {
		for p := range tc.partitions {
			if b.ByName(tc.name, p) == nil {
				continue
			}
			batch := randomBatch(c.t, rng, record.NewSpec(), 2)
			off, err := b.append(tc.name, p, batch)
			if err != nil {
				c.fatal("append to %s-%d after the repair: %v", tc.name, p, err)
			}
			got, err := b.readAt(stored{topic: tc.name, partition: p, base: off})
			if err != nil || string(got) != string(batch) {
				c.fatal("what was written to %s-%d after the repair at offset %d reads as %d bytes, %v", tc.name, p, off, len(got), err)
			}
		}
	}
}

// snapshotOf is a digest of all files.
func snapshotOf(t testing.TB, disk vfs.FS) string {
	var b strings.Builder
	var walk func(dir string)
	walk = func(dir string) {
		list, err := disk.List(dir)
		must(t, err)
		for _, e := range list {
			name := path.Join(dir, e.Name())
			if e.IsDir() {
				walk(name)
				continue
			}
			data := load(t, disk, name)
			fmt.Fprintf(&b, "%s %d %x\n", name, len(data), sum(data))
		}
	}
	walk(dataDir)
	return b.String()
}

func sum(b []byte) (h uint64) {
	h = 14695981039346656037
	for len(b) >= 8 {
		h = (h ^ (uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56)) * 1099511628211
		b = b[8:]
	}
	for _, x := range b {
		h = (h ^ uint64(x)) * 1099511628211
	}
	return h
}

// TestCorruptionWhileRunning damages segments under a running broker, after which every record is read that was acknowledged: none is
// served that was not produced, and those that do not come are named by the error.
func TestCorruptionWhileRunning(t *testing.T) {
	cases := number(t, "WEIR_TEST_CORRUPTIONS", 60)
	seed := uint64(number(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d WEIR_TEST_CORRUPTIONS=%d", seed, cases)
	im := makeImageOf(t, seed, true, true, false, nil) // a log that is still being cut loses files by itself
	found := 0
	for i := range cases {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		disk := im.disk.CrashClone(rng, 1)
		c := &corruption{t: t, im: im, disk: disk, counts: &counts{}}
		b, err := openBroker(disk, nil)
		must(t, err)
		must(t, b.lead())
		if i%2 == 0 { // files are open, indexes in memory, readers have been there
			c.readAll(b, func(s stored, err error) { c.fatal("before the damage: %v", err) })
		}
		names := slices.DeleteFunc(filesOf(t, disk, segments), func(name string) bool { return len(load(t, disk, name)) == 0 })
		name := names[rng.IntN(len(names))]
		what := ""
		for what == "" || what == "deleted" {
			what = harmInPlace(t, rng, disk, name)
		}
		c.what = fmt.Sprintf("seed %d, case %d, %s: %s", seed, i, name, what)
		missing := c.readAll(b, func(s stored, err error) {
			e, ok := errors.AsType[*segment.CorruptError](err)
			if !ok {
				c.fatal("offset %d of %s-%d: %v", s.base, s.topic, s.partition, err)
			}
			if e.Offset > s.base || e.NextOffset != 0 && e.NextOffset <= s.base {
				c.fatal("reading offset %d of %s-%d: the error names others: %v", s.base, s.topic, s.partition, e)
			}
		})
		found += min(len(missing), 1)
		if err := b.close(); err != nil {
			c.fatal("close: %v", err)
		}
	}
	if found < cases/2 {
		t.Errorf("only %d of %d cases made a reader fail", found, cases)
	}
}

// harmInPlace is harm without taking the file away.
func harmInPlace(t testing.TB, rng *rand.Rand, disk vfs.FS, name string) string {
	t.Helper()
	for {
		data := load(t, disk, name)
		if len(data) == 0 {
			t.Fatalf("%s is empty", name)
		}
		what := harm(t, rng, disk, name)
		if what != "deleted" {
			return what
		}
		f, err := disk.OpenFile(name, vfs.Create)
		must(t, err)
		_, err = f.WriteAt(data, 0)
		must(t, errors.Join(err, f.Close()))
	}
}
