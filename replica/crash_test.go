package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/uring"
)

// TestCrashClones runs a broker's storage under load on a file system in memory and, each time something is made durable (a sync, a durable
// write, a rename, a removal), takes what a machine would find if it lost power just then, with none, half, all or some of what was not
// synced. Each of these, WEIR_TEST_CRASH_CLONES (500, in CI 5,000), is opened as by a restart: what was acknowledged is there, once, in order,
// byte by byte; nothing else is; a producer that tries again what was under way writes it once. A share of them loses power again while it recovers.
func TestCrashClones(t *testing.T) {
	clones := 500
	if os.Getenv("CI") == "true" {
		clones = 5000
	}
	clones = envNumber(t, "WEIR_TEST_CRASH_CLONES", clones)
	seed := uint64(envNumber(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d WEIR_TEST_CRASH_CLONES=%d", seed, clones)
	c := &crashes{t: t, left: clones, slots: make(chan struct{}, 3)}
	rounds := 0
	for ; c.going(); rounds++ {
		runCrashRound(t, c, seed, uint64(rounds))
	}
	t.Logf("%d clones of %d rounds, %d lost power again while recovering, %d batches read", clones, rounds, c.again.Load(), c.read.Load())
	if clones >= 500 && c.again.Load() == 0 {
		t.Error("no recovery was interrupted")
	}
}

func envNumber(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// crashes counts what is still to be done, over all rounds.
type crashes struct {
	t     *testing.T
	slots chan struct{} // one for each clone that is looked at now: the file system waits for them
	again atomic.Int64
	read  atomic.Int64
	mu    sync.Mutex
	left  int
	err   error
}

func (c *crashes) going() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left > 0 && c.err == nil
}

// claim takes one of the clones that are left.
func (c *crashes) claim() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || c.err != nil {
		return false
	}
	c.left--
	return true
}

func (c *crashes) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// isBoundary reports whether an operation makes something durable, or changes what names there are.
func isBoundary(op, name string) bool {
	switch op {
	case "sync", "datasync", "syncdir", "rename", "remove", "removeall", "truncate":
		return true
	case "write": // the WAL's are durable by themselves
		return strings.Contains(name, "/wal/") && !strings.HasSuffix(name, ".tmp")
	case "open":
		return strings.HasSuffix(name, ".tmp") // about to be made
	}
	return false
}

// crashRound is one life of a workload.
type crashRound struct {
	*crashes
	seed, n uint64
	model   *crashModel
	disk    *vfs.MemFS
	pending sync.WaitGroup
	rngMu   sync.Mutex
	rng     *rand.Rand
	at      atomic.Int64 // boundaries seen
}

func runCrashRound(t *testing.T, c *crashes, seed, n uint64) {
	r := &crashRound{crashes: c, seed: seed, n: n, model: &crashModel{}, disk: vfs.NewMem(), rng: rand.New(rand.NewPCG(seed, n))}
	if err := r.disk.MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	for life := 0; life < 3 && r.going(); life++ {
		b, err := openCrashed(r.disk)
		if err != nil {
			t.Fatalf("seed %d, round %d, life %d: %v", seed, n, life, err)
		}
		r.disk.SetHook(r.hook)
		r.model.run(t, b, rand.New(rand.NewPCG(seed, n<<8|uint64(life))))
		err = b.close()
		r.disk.SetHook(nil)
		if err != nil {
			t.Fatalf("seed %d, round %d, life %d: close: %v", seed, n, life, err)
		}
	}
	r.pending.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		t.Fatal(c.err)
	}
}

// hook takes a clone at each boundary. What was acknowledged is noted before, so that it must be in it.
func (r *crashRound) hook(op, name string, _ int64, _ int) error {
	if !isBoundary(op, name) || !r.claim() {
		return nil
	}
	r.slots <- struct{}{}
	at := r.at.Add(1)
	acked := r.model.acknowledged()
	r.rngMu.Lock()
	keep := []float64{0, 0.5, 1, r.rng.Float64()}[at%4]
	rng := rand.New(rand.NewPCG(r.rng.Uint64(), 0))
	again := r.rng.IntN(5) == 0
	r.rngMu.Unlock()
	clone := r.disk.CrashClone(rng, keep)
	r.pending.Go(func() {
		defer func() { <-r.slots }()
		err := r.examine(clone, acked, rng, again)
		if err != nil {
			r.failed(fmt.Errorf("WEIR_SEED=%d, round %d, power lost at boundary %d (%s %s), %.0f%% of what was not synced kept, again while recovering: %v: %w",
				r.seed, r.n, at, op, name, keep*100, again, err))
		}
	})
	return nil
}

// examine opens a clone, or what is left of it when the power goes once more on the way, and holds it against the model.
func (r *crashRound) examine(clone *vfs.MemFS, acked *crashState, rng *rand.Rand, again bool) error {
	if again {
		left := int64(rng.IntN(40))
		var second atomic.Pointer[vfs.MemFS]
		inner := rand.New(rand.NewPCG(rng.Uint64(), 1))
		var count atomic.Int64
		clone.SetHook(func(op, name string, _ int64, _ int) error {
			if isBoundary(op, name) && count.Add(1) == left+1 {
				second.Store(clone.CrashClone(inner, []float64{0, 0.5, 1, 0.3}[left%4]))
			}
			return nil
		})
		b, err := openCrashed(clone)
		if err != nil {
			return fmt.Errorf("restart: %w", err)
		}
		if err := b.close(); err != nil {
			return fmt.Errorf("close after the restart: %w", err)
		}
		clone.SetHook(nil)
		if s := second.Load(); s != nil {
			clone = s
			r.again.Add(1)
		}
	}
	b, err := openCrashed(clone)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	read, err := acked.check(b, r.model)
	r.read.Add(int64(read))
	return errors.Join(err, b.close())
}

// crashed is a node on a file system that went through a crash.
type crashed struct {
	meta *raftmeta.Meta
	*Manager
}

func openCrashed(disk vfs.FS) (*crashed, error) { return openCrashedWith(disk, nil) }

func openCrashedWith(disk vfs.FS, more map[string]string) (*crashed, error) {
	values := map[string]string{
		"data-dir": "/data", "wal.file.bytes": "1048576", "wal.max.bytes": "3145728", "wal.group.max.bytes": "65536", "log.dir.stall.ms": "60000",
		"io.engine": "portable", "log.writeback.bytes": "6000", "log.cleaner.backoff.ms": "1",
	}
	maps.Copy(values, more)
	cfg, err := config.LoadBroker(values)
	if err != nil {
		return nil, err
	}
	const patient = time.Minute
	log := slog.New(slog.DiscardHandler)
	c := &crashed{}
	c.meta, err = raftmeta.Open(raftmeta.Options{
		FS: disk, Dir: filepath.Join("/data", "meta"), NodeID: cfg.NodeID, Logger: log, Ring: uring.Options{Backend: uring.BackendPortable},
		StoreTimeout: patient, ProposeTimeout: patient, IOTimeout: patient, FileBytes: 2 << 20, FilesMax: 8, SnapshotBytes: 64 << 10, TrailingLogs: 4,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := c.meta.Ready(ctx); err != nil {
		return nil, errors.Join(err, c.meta.Close())
	}
	if c.meta.Image().Broker(cfg.NodeID) == nil {
		if err := c.propose(raftmeta.RegisterBroker{ID: cfg.NodeID, Host: "127.0.0.1", Port: 9092}); err != nil {
			return nil, errors.Join(err, c.meta.Close())
		}
	}
	c.Manager, err = Open(Options{FS: disk, Config: cfg, Meta: c.meta, Clock: clock.Real{}, Logger: log})
	if err != nil {
		return nil, errors.Join(err, c.meta.Close())
	}
	return c, nil
}

func (c *crashed) propose(cmds ...raftmeta.Command) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results, err := c.meta.Propose(ctx, cmds...)
	for _, r := range results {
		err = errors.Join(err, r.Err)
	}
	return err
}

func (c *crashed) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(c.Manager.Close(ctx), c.meta.Close())
}
