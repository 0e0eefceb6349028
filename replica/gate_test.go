package replica

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// gate holds the operations of a disk that match, and then lets them go or fails them.
type gate struct {
	mu     sync.Mutex
	match  func(op, name string) bool
	opened chan struct{} // nil: open
	err    error
}

// shut holds what matches from now on.
func (g *gate) shut(match func(op, name string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.match, g.opened, g.err = match, make(chan struct{}), nil
}

// open lets go of what is held, with err for each of it.
func (g *gate) open(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
	close(g.opened)
	g.match = nil
}

// breakWith fails what matches from now on.
func (g *gate) breakWith(err error, match func(op, name string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.match, g.opened, g.err = match, make(chan struct{}), err
	close(g.opened)
}

func (g *gate) hook(op, name string, _ int64, _ int) error {
	g.mu.Lock()
	match, opened := g.match, g.opened
	g.mu.Unlock()
	if match == nil || !match(op, name) {
		return nil
	}
	<-opened
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func dataWAL(op, name string) bool {
	return op == "write" && strings.HasPrefix(name, "/d/wal/") && strings.HasSuffix(name, ".log")
}

func segmentWrites(op, name string) bool {
	return strings.HasPrefix(name, "/d/topics") && (op == "write" || op == "sync" || op == "datasync" || op == "open" || op == "rename" || op == "syncdir")
}

// onMem runs a test in a bubble, on a node over an in-memory disk whose operations the gate can hold.
func onMem(t *testing.T, extra map[string]string, test func(t *testing.T, n *node, g *gate, disk *vfs.MemFS)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		disk, g := vfs.NewMem(), &gate{}
		disk.SetHook(g.hook)
		values := map[string]string{"io.engine": "portable", "log.dir.stall.ms": "2000"}
		for k, v := range extra {
			values[k] = v
		}
		n := openNodeOn(t, disk, "/d", values)
		n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 2})
		test(t, n, g, disk)
	})
}

// begin starts an append and returns its result.
func (n *node) begin(p *Partition, b record.Batch) <-chan *Append {
	n.t.Helper()
	if err := n.Reserve(len(b), time.Second); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan *Append, 1)
	p.Append(&Append{Batch: b, Done: func(a *Append) { done <- a }})
	return done
}

func (n *node) reopen(disk vfs.FS) *node {
	n.t.Helper()
	n.close()
	return openNodeOn(n.t, disk, "/d", map[string]string{"io.engine": "portable"})
}

// mend ends breakWith.
func (g *gate) mend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.match = nil
}

// closeFailed closes a node whose storage failed.
func (n *node) closeFailed() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	n.Manager.Close(ctx)
	n.meta.Close()
}
