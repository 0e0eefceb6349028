package logtool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/replica"
	"weir/uring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dataDir = "/data"

// broker is the storage half of one: metadata and partitions over one directory.
type broker struct {
	meta *raftmeta.Meta
	*replica.Manager
}

// openBroker starts it; the error is what a broker would refuse to start with.
func openBroker(disk vfs.FS, more map[string]string) (*broker, error) {
	return openFollower(disk, more, nil)
}

// openFollower is openBroker for a node that follows others.
func openFollower(disk vfs.FS, more map[string]string, source replica.Source) (b *broker, err error) {
	values := map[string]string{
		"data-dir": dataDir, "wal.file.bytes": "1048576", "wal.max.bytes": "8388608", "wal.group.max.bytes": "65536", "log.dir.stall.ms": "30000",
		"io.engine": "portable", "log.retention.ms": "-1",
	}
	for k, v := range more {
		values[k] = v
	}
	cfg, err := config.LoadBroker(values)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	fsys := vfs.Bounded(disk, 30*time.Second, 32)
	b = &broker{}
	b.meta, err = raftmeta.Open(raftmeta.Options{
		FS: fsys, Dir: path.Join(values["data-dir"], "meta"), NodeID: cfg.NodeID, Logger: log, StoreTimeout: 30 * time.Second,
		ProposeTimeout: 30 * time.Second, IOTimeout: 30 * time.Second, Ring: uring.Options{Backend: "portable"}, FileBytes: 2 << 20, FilesMax: 8, SnapshotBytes: 64 << 10, TrailingLogs: 8,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.meta.Ready(ctx); err != nil {
		return nil, errors.Join(err, b.meta.Close())
	}
	if b.meta.Image().Broker(cfg.NodeID) == nil {
		if err := b.propose(raftmeta.RegisterBroker{ID: cfg.NodeID, Host: "127.0.0.1", Port: 9092}); err != nil {
			return nil, errors.Join(err, b.meta.Close())
		}
	}
	b.Manager, err = replica.Open(replica.Options{FS: fsys, Config: cfg, Meta: b.meta, Clock: clock.Real{}, Logger: log, Source: source})
	if err != nil {
		return nil, errors.Join(err, b.meta.Close())
	}
	return b, nil
}

func (b *broker) propose(cmds ...raftmeta.Command) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	results, err := b.meta.Propose(ctx, cmds...)
	for _, r := range results {
		err = errors.Join(err, r.Err)
	}
	return err
}

func (b *broker) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(b.Manager.Close(ctx), b.meta.Close())
}

// append writes one batch and waits for the acknowledgement; the batch has its offset then.
func (b *broker) append(topic string, partition int32, batch record.Batch) (int64, error) {
	p := b.ByName(topic, partition)
	if p == nil {
		return 0, fmt.Errorf("%s-%d is not there", topic, partition)
	}
	if err := b.Reserve(len(batch), 30*time.Second); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	a := &replica.Append{Batch: batch, Done: func(*replica.Append) { close(done) }}
	p.Append(a)
	<-done
	return a.BaseOffset, a.Err
}

// stored is an acknowledged batch.
type stored struct {
	topic      string
	partition  int32
	base, next int64
	bytes      []byte
}

// ledger is all that was acknowledged, by partition, in order.
type ledger map[string][]stored

func key(topic string, partition int32) string { return fmt.Sprintf("%s-%d", topic, partition) }

func (l ledger) add(topic string, partition int32, b record.Batch) {
	k := key(topic, partition)
	l[k] = append(l[k], stored{topic, partition, b.BaseOffset(), b.NextOffset(), slices.Clone([]byte(b))})
}

func (l ledger) keys() []string {
	var keys []string
	for k := range l {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// readAt reads the batch at an offset as a consumer would.
func (b *broker) readAt(s stored) ([]byte, error) {
	p := b.ByName(s.topic, s.partition)
	if p == nil {
		return nil, errNoPartition
	}
	r, err := p.Read(s.base, p.HighWatermark(), 1, true)
	if err != nil || r == nil {
		return nil, errors.Join(err, errNothing(r == nil && err == nil))
	}
	defer r.Release()
	return bytes.Join(r.Buffers(), nil), nil
}

var (
	errNoPartition = errors.New("no such partition")
	errEnd         = errors.New("beyond the end")
)

func errNothing(nothing bool) error {
	if nothing {
		return errEnd
	}
	return nil
}

// proofs counts the writes of proof files, so that a test can wait until an idle log has proven its end.
type proofs struct{ n [2]atomic.Int64 }

func (p *proofs) hook(op, name string, _ int64, _ int) error {
	if op == "write" && path.Base(name) == "durable" {
		if strings.Contains(name, "/meta/") {
			p.n[0].Add(1)
		} else {
			p.n[1].Add(1)
		}
	}
	return nil
}

// wait returns when both logs have written their proof since the last change, or for so long that they must have before.
func (p *proofs) wait(before [2]int64) {
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(5 * time.Millisecond) {
		if p.n[0].Load() > before[0] && p.n[1].Load() > before[1] {
			return
		}
	}
}

func (p *proofs) now() [2]int64 { return [2]int64{p.n[0].Load(), p.n[1].Load()} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
