package controller

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/raftmeta"
)

// fakeMeta is the metadata of a test. fate, if set, decides what becomes of a Propose.
type fakeMeta struct {
	mu struct {
		sync.Mutex
		img   *raftmeta.Image
		index uint64
		subs  []func(*raftmeta.Image, *raftmeta.Delta)
		fate  func(ctx context.Context, apply func() []raftmeta.Result) ([]raftmeta.Result, error)
	}
	proposals atomic.Int64
	running   atomic.Int64 // Proposes at this moment
	most      atomic.Int64 // that there ever were
}

func newFakeMeta() *fakeMeta {
	f := &fakeMeta{}
	f.mu.img = raftmeta.NewImage()
	return f
}

func (f *fakeMeta) Image() *raftmeta.Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.img
}

func (f *fakeMeta) Subscribe(fn func(*raftmeta.Image, *raftmeta.Delta)) (cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.subs = append(f.mu.subs, fn)
	fn(f.mu.img, &raftmeta.Delta{To: f.mu.img.Version})
	return func() {}
}

func (f *fakeMeta) Propose(ctx context.Context, cmds ...raftmeta.Command) ([]raftmeta.Result, error) {
	f.proposals.Add(1)
	if n := f.running.Add(1); n > f.most.Load() {
		f.most.Store(n)
	}
	defer f.running.Add(-1)
	f.mu.Lock()
	fate := f.mu.fate
	f.mu.Unlock()
	apply := func() []raftmeta.Result { return f.apply(cmds) }
	if fate != nil {
		return fate(ctx, apply)
	}
	return apply(), nil
}

func (f *fakeMeta) apply(cmds []raftmeta.Command) []raftmeta.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.index++
	next, d, results := raftmeta.Apply(f.mu.img, f.mu.index, cmds...)
	if next != f.mu.img {
		f.mu.img = next
		for _, fn := range f.mu.subs {
			fn(next, d)
		}
	}
	return results
}

func (f *fakeMeta) setFate(fate func(ctx context.Context, apply func() []raftmeta.Result) ([]raftmeta.Result, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.fate = fate
}

// hold makes Proposes wait until release is called, or their context ends.
func (f *fakeMeta) hold() (release func()) {
	gate := make(chan struct{})
	f.setFate(func(ctx context.Context, apply func() []raftmeta.Result) ([]raftmeta.Result, error) {
		select {
		case <-gate:
			return apply(), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return func() { close(gate) }
}

// countingClock counts timers.
type countingClock struct {
	clock.Real
	timers atomic.Int64
}

func (c *countingClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	c.timers.Add(1)
	return c.Real.AfterFunc(d, f)
}

// rig is a controller on a fake.
type rig struct {
	t     *testing.T
	c     *Controller
	meta  *fakeMeta
	clock *countingClock
}

// inBubble runs a test on a fake clock, with a controller in office.
func inBubble(t *testing.T, test func(r *rig)) {
	c := &countingClock{}
	inBubbleWith(t, c, func(r *rig) {
		r.clock = c
		test(r)
	})
}

func inBubbleWith(t *testing.T, clk clock.Clock, test func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		cfg, err := config.LoadBroker(nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, meta: newFakeMeta()}
		r.c = New(Options{Meta: r.meta, NodeID: 1, Config: cfg, Clock: clk})
		defer func() { r.c.Close() }()
		r.c.Office(1, true)
		test(r)
	})
}

func (r *rig) ctx() context.Context { return r.t.Context() }

func registration(id int32, life byte) Registration {
	host := fmt.Sprintf("host%d", id)
	return Registration{ID: id, Host: host, Port: 9092, PeerHost: host, PeerPort: 9192, Incarnation: [16]byte{byte(id), life}}
}

// join registers brokers and has them unfenced.
func (r *rig) join(ids ...int32) {
	r.t.Helper()
	for _, id := range ids {
		if _, err := r.c.Register(r.ctx(), registration(id, 1)); err != nil {
			r.t.Fatal(err)
		}
		if a := r.beat(id); a.Fenced {
			r.t.Fatalf("broker %d is fenced", id)
		}
	}
}

func (r *rig) heartbeat(id int32) Heartbeat {
	img := r.meta.Image()
	return Heartbeat{Broker: id, Epoch: img.Broker(id).Epoch, Applied: img.Version}
}

func (r *rig) beat(id int32) Answer {
	r.t.Helper()
	a, err := r.c.Heartbeat(r.ctx(), r.heartbeat(id))
	if err != nil {
		r.t.Fatalf("heartbeat of %d: %v", id, err)
	}
	return a
}

// pass lets time go by, with heartbeats of these brokers.
func (r *rig) pass(d time.Duration, ids ...int32) {
	r.t.Helper()
	for range d / (250 * time.Millisecond) {
		time.Sleep(250 * time.Millisecond)
		for _, id := range ids {
			r.beat(id)
		}
	}
	synctest.Wait()
}

func (r *rig) topic(name string, replicas ...int32) {
	r.t.Helper()
	rs, err := r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: name, Assignment: [][]int32{replicas}}})
	if err != nil || rs[0].Err != nil {
		r.t.Fatal(err, rs)
	}
}

func (r *rig) part(topic string) raftmeta.Partition {
	return r.meta.Image().Topic(topic).Partitions[0]
}
