package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/faultdisk"
	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

const (
	cutDiskBytes    = 1536 << 20
	cutCyclesPerLog = 10 // then the topics are checked from their beginning and new ones begin
)

// cutConfig makes everything happen within a cycle: files of the write-ahead log are recycled, segments are written back,
// closed and deleted, snapshots of producers taken.
var cutConfig = map[string]string{
	"wal.file.bytes": "2097152", "wal.max.bytes": "16777216", "log.segment.bytes": "1048576",
	"log.writeback.bytes": "131072", "log.writeback.ms": "100", "offsets.topic.num.partitions": "3",
}

// TestPowerCut takes the power from a broker's disk in the middle of everything, starts the broker on what is left, and
// asks for all that was acknowledged: records, committed offsets, topics. WEIR_TEST_CUT_CYCLES times (10 by default, 50 in
// CI), half of them on ext4 and half on XFS. Each cut keeps nothing, all, half or a random share of the sectors that
// were not flushed. Some cut again while the broker recovers.
func TestPowerCut(t *testing.T) {
	skipOnReference(t)
	cycles := 10
	if os.Getenv("CI") == "true" {
		cycles = 50
	}
	cycles = envInt(t, "WEIR_TEST_CUT_CYCLES", cycles)
	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d WEIR_TEST_CUT_CYCLES=%d", seed, cycles)
	for i, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			c := newCutRun(t, fs, rand.New(rand.NewPCG(seed, uint64(i))))
			c.run((cycles + 1 - i) / 2)
		})
	}
}

// cutRun is a broker on a faulty disk and what its clients were told.
type cutRun struct {
	t      *testing.T
	rng    *rand.Rand
	disk   *faultdisk.Disk
	broker *weirproc.Broker
	config map[string]string // of the broker; a change counts from its next start
	admin  *kadm.Client

	logs    []*cutLog      // topics with producers
	commits *cutCommits    // of groups
	topics  []*cutTopicOps // topics that come and go
	stats   cutStats
}

type cutStats struct {
	cuts, duringRecovery, records, created, deleted int
	sectors, lost                                   int // unflushed, and of those not kept
	ready, readyMax                                 time.Duration
}

func newCutRun(t *testing.T, fs string, rng *rand.Rand) *cutRun {
	t.Helper()
	disk := faultdisk.New(t, faultdisk.Options{Bytes: cutDiskBytes, FS: fs})
	config := maps.Clone(cutConfig)
	broker := weirproc.Start(t, weirproc.Options{DataDir: filepath.Join(disk.Path(), "data"), Config: config})
	c := &cutRun{t: t, rng: rng, disk: disk, broker: broker, config: config, commits: newCutCommits()}
	for i := range 2 {
		c.topics = append(c.topics, newCutTopicOps(i, broker.Addr, rng.Uint64()))
	}
	c.connect()
	t.Cleanup(func() {
		c.disconnect()
		c.closeProducers()
	})
	createTopics(t, c.admin, commitPartitions, commitTopic)
	return c
}

// connect gives the clients that ask and change metadata new connections, for a broker that was started.
func (c *cutRun) connect() {
	c.t.Helper()
	c.disconnect()
	cl, err := kgo.NewClient(quick(c.broker.Addr)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.admin = kadm.NewClient(cl)
	c.commits.admin = c.admin
	for _, o := range c.topics {
		o.admin = c.admin
	}
}

func (c *cutRun) disconnect() {
	if c.admin != nil {
		c.admin.Close()
	}
}

func (c *cutRun) run(cycles int) {
	t := c.t
	t.Helper()
	begun := time.Now()
	for cycle := range cycles {
		if cycle%cutCyclesPerLog == 0 {
			c.newLogs(cycle / cutCyclesPerLog)
		}
		c.cycle(cycle)
		if cycle%cutCyclesPerLog == cutCyclesPerLog-1 || cycle == cycles-1 {
			c.endLogs(cycle%cutCyclesPerLog + 1)
		}
	}
	s := &c.stats
	t.Logf("%d power cuts, %d of them during recovery, in %v; of %d unflushed sectors %d were lost; acknowledged and all there: %d records, "+
		"%d offset commits, %d topics created and %d deleted; ready after %v, at most %v", s.cuts, s.duringRecovery,
		time.Since(begun).Round(time.Second), s.sectors, s.lost, s.records, c.commits.count.Load(), s.created, s.deleted,
		(s.ready / time.Duration(max(cycles, 1))).Round(time.Millisecond), s.readyMax.Round(time.Millisecond))
}

// cutLogKinds are the topics with producers. Their profiles are indices into profiles.
var cutLogKinds = []struct {
	name       string
	partitions int32
	profiles   []int
	retention  int64 // bytes; 0: everything stays
}{
	{name: "small", partitions: 20, profiles: []int{0, 2}}, // enough to be flushed as a group, with one syncfs
	{name: "large", partitions: 2, profiles: []int{1, 3}},
	{name: "short", partitions: 1, profiles: []int{0, 3}, retention: 2 << 20},
}

func (c *cutRun) newLogs(number int) {
	c.t.Helper()
	for _, kind := range cutLogKinds {
		c.logs = append(c.logs, newCutLog(c.t, c.admin, c.broker.Addr, fmt.Sprintf("%s-%d", kind.name, number), kind.partitions, kind.profiles, kind.retention))
	}
}

// endLogs reads the topics once more from their beginning and deletes them, after so many cycles.
func (c *cutRun) endLogs(cycles int) {
	c.t.Helper()
	for _, l := range c.logs {
		l.scans = map[int32]*verify.Scan{}
		l.verify(c.t, c.broker.Addr, c.admin)
		count, _ := l.ledger.Acknowledged()
		c.stats.records += count
		for _, p := range l.producers {
			if p.Acks.Load() == 0 && cycles == cutCyclesPerLog {
				c.t.Errorf("producer %s got no record acknowledged in %d cycles", p.Name, cycles)
			}
		}
		deleteTopic(c.t, c.admin, l.ledger.Topic)
	}
	c.closeProducers()
	c.logs = nil
}

func (c *cutRun) closeProducers() {
	for _, l := range c.logs {
		for _, p := range l.producers {
			p.Close()
		}
	}
}

func (c *cutRun) cycle(cycle int) {
	t := c.t
	t.Helper()
	stop := c.load()
	time.Sleep(time.Duration(50+c.rng.IntN(350)) * time.Millisecond)
	keep := c.cut()
	stop()
	if c.rng.IntN(4) == 0 {
		c.launch(cycle, c.broker.LaunchAsync)
		time.Sleep(time.Duration(c.rng.IntN(300)) * time.Millisecond)
		c.stats.duringRecovery++
		keep = c.cut()
	}
	c.launch(cycle, c.broker.Launch)
	c.connect()
	c.verify(cycle)
	ready := c.broker.ReadyTime()
	c.stats.ready += ready
	c.stats.readyMax = max(c.stats.readyMax, ready)
	t.Logf("cycle %d: kept %.2f, %s, ready in %v, %d records, %d commits acknowledged", cycle, keep, c.config["io.engine"],
		ready.Round(time.Millisecond), c.acknowledged(), c.commits.count.Load())
}

// load lets all clients work until stop. The producers go on until they are verified, since idempotent ones finish what
// they began only when the broker is back.
func (c *cutRun) load() (stop func()) {
	c.t.Helper()
	for _, l := range c.logs {
		for _, p := range l.producers {
			if err := p.Start(); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	var stops []func()
	stops = append(stops, c.commits.start())
	for _, o := range c.topics {
		stops = append(stops, o.start())
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// cut takes the power away and brings the file system back.
func (c *cutRun) cut() (keep float64) {
	c.t.Helper()
	keep = []float64{0, 0.5, 1, c.rng.Float64()}[c.rng.IntN(4)]
	lost := c.disk.Cut(c.rng, keep)
	c.broker.Kill()
	if err := c.disk.Restore(); err != nil {
		c.t.Fatalf("the file system after a power cut that kept %.2f: %v", keep, err)
	}
	c.keepFiles()
	c.stats.cuts++
	c.stats.sectors += lost.Sectors
	c.stats.lost += lost.Lost
	return keep
}

// keepFiles copies what a power cut has left, if asked: to look at what the broker could not recover.
func (c *cutRun) keepFiles() {
	c.t.Helper()
	to := os.Getenv("WEIR_KEEP_DIR")
	if to == "" {
		return
	}
	to = filepath.Join(to, fmt.Sprintf("cut-%d", c.stats.cuts))
	if err := os.MkdirAll(to, 0o755); err != nil {
		c.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", c.broker.DataDir, to).CombinedOutput(); err != nil {
		c.t.Fatalf("keep the files: %v: %s", err, out)
	}
}

func (c *cutRun) launch(cycle int, launch func() error) {
	c.t.Helper()
	c.config["io.engine"] = []string{"auto", "auto", "portable"}[c.rng.IntN(3)]
	if err := launch(); err != nil {
		c.t.Fatalf("cycle %d: restart after a power cut: %v", cycle, err)
	}
}

func (c *cutRun) verify(cycle int) {
	t := c.t
	t.Helper()
	for _, l := range c.logs {
		for _, p := range l.producers {
			if err := p.Stop(limit(t, time.Minute)); err != nil {
				t.Fatalf("cycle %d: %v", cycle, err)
			}
		}
	}
	for _, l := range c.logs {
		l.verify(t, c.broker.Addr, c.admin)
	}
	if err := c.commits.verify(limit(t, time.Minute)); err != nil {
		t.Fatalf("cycle %d: %v", cycle, err)
	}
	c.stats.created, c.stats.deleted = 0, 0
	for _, o := range c.topics {
		if err := o.verify(limit(t, time.Minute)); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		c.stats.created += int(o.created.Load())
		c.stats.deleted += int(o.deleted.Load())
	}
}

func (c *cutRun) acknowledged() int {
	sum := c.stats.records
	for _, l := range c.logs {
		n, _ := l.ledger.Acknowledged()
		sum += n
	}
	return sum
}
