package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/raftmeta"
)

// life is a node's membership of its cluster: its registration with the controller, and the heartbeats by which the controller knows that it
// lives. It is one goroutine, which wakes for the next heartbeat, when another node becomes the controller, and when the
// controller changes this node's state.
//
// A leader that cannot reach the controller goes on serving, as in Kafka: it cannot know whether it was replaced. What protects acknowledged
// records is the ISR. If it was replaced, the others follow the new leader and refuse it by its epoch, so no acks=all request
// completes; what it took with acks=1 in that time is cut off when it comes back. Fetches end at the high
// watermark, below which everything is committed. Only /health/ready tells, once the session must have ended.
type life struct {
	b           *Broker
	incarnation [16]byte
	host        string // for clients
	port        int32
	peerHost    string // for the other nodes
	peerPort    int32
	interval    time.Duration
	session     time.Duration

	wake     chan struct{} // holds one
	stopped  context.Context
	stop     context.CancelFunc
	ended    chan struct{} // closed when run has returned
	runOnce  sync.Once
	unsub    func()
	self     changes      // of this node's registration in the image
	epoch    atomic.Int64 // of the registration; unregistered if there is none
	answered atomic.Int64 // when the controller last answered a heartbeat, clock.Ticks
	leaving  atomic.Bool
	released chan struct{} // closed when the controller lets a leaving node go
	letGo    sync.Once
	deserted chan struct{} // closed when a leaving node finds nobody to leave to
	giveUp   sync.Once
	trouble  trouble
	seek     seeker // of whoever asks
	asking   atomic.Bool
	asks     sync.WaitGroup // at most one
	lost     time.Time      // since when no controller is known; zero: one is
	metrics  *nodeMetrics
}

const unregistered = -1

// Versions in which a node speaks to the controller. Others are refused: all nodes are of one release, or of one that knows these.
const (
	registrationVersion  = 3
	heartbeatVersion     = 1
	alterPartitionVer    = 3
	allocateIDsVersion   = 0
	listenerClients      = "CLIENT"
	listenerPeers        = "PEER"
	reconnectMin         = 50 * time.Millisecond
	desertedAfter        = 2 // session timeouts without a controller after which a leaving node does not wait for one
	heartbeatPatienceDiv = 3 // a heartbeat is given up after this part of the session timeout
)

func newLife(b *Broker, reg prometheus.Registerer, host string, port int32, peerHost string, peerPort int32) *life {
	l := &life{
		b: b, host: host, port: port, peerHost: peerHost, peerPort: peerPort,
		interval: config.Millis(b.cfg.BrokerHeartbeatIntervalMs), session: config.Millis(b.cfg.BrokerSessionTimeoutMs),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), released: make(chan struct{}), deserted: make(chan struct{}),
		trouble: trouble{log: b.log, clk: b.clk}, seek: seeker{b: b, add: true},
	}
	l.stopped, l.stop = context.WithCancel(context.Background())
	l.epoch.Store(unregistered)
	l.answered.Store(clock.Ticks(b.clk.Now())) // nothing was asked before
	_, _ = rand.Read(l.incarnation[:])         // never fails
	l.metrics = newNodeMetrics(reg, l)
	l.unsub = b.meta.Subscribe(l.follow)
	return l
}

// follow wakes run when the metadata says something that it has to act on.
func (l *life) follow(_ *raftmeta.Image, d *raftmeta.Delta) {
	if d.Controller {
		l.kick()
	}
	for i := range d.Brokers {
		if d.Brokers[i].ID == l.b.cfg.NodeID {
			l.self.happened()
			l.kick()
		}
	}
	if len(d.RemovedBrokers) > 0 || l.leaving.Load() && len(d.Changed) > 0 {
		l.kick()
	}
}

// kick has run look after things at once. It does not block.
func (l *life) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run keeps the registration alive until close.
func (l *life) run() {
	defer close(l.ended)
	timer := l.b.clk.AfterFunc(l.interval, l.kick)
	defer timer.Stop()
	backOff := reconnectMin
	for {
		select {
		case <-l.wake:
		case <-l.stopped.Done():
			return
		}
		err := l.beat()
		l.askAgain()
		if l.stopped.Err() != nil {
			return
		}
		next := l.interval
		if err == nil {
			backOff = reconnectMin
		} else {
			next = min(backOff, l.interval)
			backOff *= 2
		}
		l.trouble.note(err)
		if err != nil && l.leaving.Load() && l.silent() > desertedAfter*l.session {
			l.giveUp.Do(func() { close(l.deserted) })
		}
		timer.Reset(next)
	}
}

// begin starts the heartbeats: from now on the controller may give this node leaderships.
func (l *life) begin() {
	l.runOnce.Do(func() {
		l.kick()
		go l.run()
	})
}

// close ends the heartbeats.
func (l *life) close() {
	l.unsub()
	l.stop()
	l.runOnce.Do(func() { close(l.ended) }) // never began
	<-l.ended
	l.asks.Wait()
}

// beat does what is due: a registration if there is none, then a heartbeat.
func (l *life) beat() error {
	ctx, cancel := context.WithTimeout(l.stopped, max(l.session/heartbeatPatienceDiv, l.interval))
	defer cancel()
	if l.epoch.Load() == unregistered {
		if err := l.register(ctx); err != nil {
			return err
		}
		// The controller trusts a node that has applied the metadata up to its registration.
		if err := l.b.meta.Await(ctx, uint64(l.epoch.Load())); err != nil {
			return err
		}
	}
	return l.heartbeat(ctx)
}

// join registers, however long that takes, and waits until this node has applied the metadata up to its registration.
func (l *life) join(ctx context.Context) error {
	backOff := reconnectMin
	var taken time.Time // since when another broker with this id lives
	for {
		seen := l.b.controllers.count()
		try, cancel := context.WithTimeout(ctx, max(l.session, l.interval))
		err := l.register(try)
		if err == nil {
			err = l.b.meta.Await(try, uint64(l.epoch.Load()))
		}
		cancel()
		l.trouble.note(err)
		switch now := l.b.clk.Now(); {
		case err == nil:
			return nil
		case errors.Is(err, kerr.InconsistentClusterID), errors.Is(err, kerr.InvalidRegistration), l.b.meta.Poisoned() != nil:
			return err
		case !errors.Is(err, kerr.DuplicateBrokerRegistration):
			taken = time.Time{}
		case taken.IsZero():
			taken = now
		case now.Sub(taken) > takenAfter*l.session:
			return fmt.Errorf("%w: %w", errTaken, err)
		}
		l.askAgain()
		if !l.b.controllers.wait(ctx, l.b.clk, seen, backOff) {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		backOff = min(2*backOff, l.session)
	}
}

// askAgain asks the seeds to let this node follow the metadata, if it has known no controller for a session timeout: it may have been taken out.
func (l *life) askAgain() {
	now := l.b.clk.Now()
	switch {
	case l.b.controllerNow() >= 0:
		l.lost = time.Time{}
	case l.lost.IsZero():
		l.lost = now
	case now.Sub(l.lost) > l.session:
		l.lost = now
		if !l.asking.CompareAndSwap(false, true) {
			return
		}
		// Beside the heartbeats: a seed that does not answer takes seconds, and there may be a controller before, for which this node has to live.
		l.asks.Go(func() {
			defer l.asking.Store(false)
			if err := l.seek.ask(l.stopped); err != nil {
				l.b.log.Warn("this node is not let into the cluster", "error", err)
			}
		})
	}
}

// register makes this node known to the controller, which fences it until it has said that it has caught up.
func (l *life) register(ctx context.Context) error {
	req := kmsg.NewPtrBrokerRegistrationRequest()
	req.Version = registrationVersion
	req.BrokerID, req.ClusterID, req.IncarnationID = l.b.cfg.NodeID, l.b.meta.ClusterID(), l.incarnation
	req.Listeners = []kmsg.BrokerRegistrationRequestListener{
		{Name: listenerClients, Host: l.host, Port: uint16(l.port)},
		{Name: listenerPeers, Host: l.peerHost, Port: uint16(l.peerPort)},
	}
	if l.b.cfg.BrokerRack != "" {
		req.Rack = &l.b.cfg.BrokerRack
	}
	resp, err := l.b.askController(ctx, req)
	if err != nil {
		return fmt.Errorf("register with the controller: %w", err)
	}
	r := resp.(*kmsg.BrokerRegistrationResponse)
	if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
		return fmt.Errorf("register with the controller: %w", err)
	}
	l.epoch.Store(r.BrokerEpoch)
	l.answered.Store(clock.Ticks(l.b.clk.Now()))
	l.b.log.Info("registered", "node", l.b.cfg.NodeID, "epoch", r.BrokerEpoch, "clients", fmt.Sprintf("%s:%d", l.host, l.port),
		"peers", fmt.Sprintf("%s:%d", l.peerHost, l.peerPort))
	return nil
}

// heartbeat tells the controller that this node lives.
func (l *life) heartbeat(ctx context.Context) (err error) {
	began := l.b.clk.Now()
	defer func() { l.metrics.beat(l.b.clk.Now().Sub(began), err) }()
	epoch := l.epoch.Load()
	req := kmsg.NewPtrBrokerHeartbeatRequest()
	req.Version = heartbeatVersion
	req.BrokerID, req.BrokerEpoch = l.b.cfg.NodeID, epoch
	req.CurrentMetadataOffset = int64(l.b.meta.Image().Version)
	// While its disk does not answer a node can lead nothing; it comes back by itself when it can.
	req.WantFence, req.WantShutdown = l.b.down() != nil, l.leaving.Load()
	resp, err := l.b.askController(ctx, req)
	if err != nil {
		return fmt.Errorf("heartbeat to the controller: %w", err)
	}
	r := resp.(*kmsg.BrokerHeartbeatResponse)
	if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
		if errors.Is(err, kerr.StaleBrokerEpoch) || errors.Is(err, kerr.BrokerIDNotRegistered) {
			l.epoch.CompareAndSwap(epoch, unregistered) // the next beat registers
		}
		return fmt.Errorf("heartbeat to the controller with epoch %d: %w", epoch, err)
	}
	l.answered.Store(clock.Ticks(l.b.clk.Now()))
	if req.WantShutdown && r.ShouldShutdown {
		l.letGo.Do(func() { close(l.released) })
	}
	return nil
}

// silent is for how long the controller has not answered, since this node began.
func (l *life) silent() time.Duration {
	return time.Duration(clock.Ticks(l.b.clk.Now()) - l.answered.Load())
}

// notReady says why clients are better served elsewhere, "" if there is no reason.
func (l *life) notReady() string {
	epoch := l.epoch.Load()
	self := l.b.meta.Image().Broker(l.b.cfg.NodeID)
	silent := l.silent()
	switch {
	case epoch == unregistered:
		return "not registered with the controller"
	case self == nil || self.Epoch != epoch:
		return "this node does not see its registration yet"
	case silent > l.session:
		return fmt.Sprintf("no heartbeat was answered for %s (broker.session.timeout.ms is %d)", silent.Round(time.Millisecond), l.session.Milliseconds())
	case self.Fenced:
		return "fenced by the controller"
	}
	return ""
}

// awaitUnfenced waits until the controller lets this node serve.
func (l *life) awaitUnfenced(ctx context.Context) error {
	for {
		seen := l.self.count()
		reason := l.notReady()
		if reason == "" {
			return nil
		}
		if !l.self.wait(ctx, l.b.clk, seen, l.session) {
			return fmt.Errorf("%w: %s", context.Cause(ctx), reason)
		}
	}
}

// leave asks the controller to move what this node leads, and waits until it has, or ctx ends. Meanwhile the node serves.
func (l *life) leave(ctx context.Context) error {
	l.leaving.Store(true)
	l.kick()
	select {
	case <-l.released:
		return nil
	case <-l.ended:
		return errNotReady
	case <-l.deserted: // so many nodes stop that there is no controller any more
		return fmt.Errorf("%w for %s", errNoController, l.silent().Round(time.Millisecond))
	case <-ctx.Done():
		return fmt.Errorf("the controller did not move everything that this node leads: %w", ctx.Err())
	}
}

// trouble logs when something that is tried again and again begins to fail, now and then while it does, and when it works again.
type trouble struct {
	log   *slog.Logger
	clk   clock.Clock
	since time.Time // zero: there is none
	said  time.Time
	count int
}

const troubleEvery = 10 * time.Second

func (t *trouble) note(err error) {
	now := t.clk.Now()
	switch {
	case err == nil && t.since.IsZero():
	case err == nil:
		t.log.Info("the controller answers again", "after", now.Sub(t.since).Round(time.Millisecond), "failures", t.count)
		*t = trouble{log: t.log, clk: t.clk}
	default:
		if t.since.IsZero() {
			t.since = now
		}
		t.count++
		if t.said.IsZero() || now.Sub(t.said) >= troubleEvery {
			t.said = now
			t.log.Warn("the controller does not know that this node lives", "error", err, "failures", t.count, "since", now.Sub(t.since).Round(time.Millisecond))
		}
	}
}
