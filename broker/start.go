package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/controller"
	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/faultlog"
	"weir/internal/lockmeter"
	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/netproto"
	"weir/raftmeta"
	"weir/replica"
)

// RaftThreads are the OS threads that raft's goroutines get.
type RaftThreads = raftmeta.Threads

// Options is what a node needs to run.
type Options struct {
	Config   *config.Broker
	Logger   *slog.Logger
	Registry prometheus.Registerer // nil: metrics are not exported
	FS       vfs.FS                // nil: the operating system's
	Clock    clock.Clock           // nil: the real one
	// OnBusy, if set, is called whenever the node has something to do: a request came, disk operations went in flight or came
	// back. It may be called from any thread, often, and must cost next to nothing.
	OnBusy func()
	// Version is this program's, for traces.
	Version string
	// OnDataThread and OnMetaThread, if set, are called on the OS threads that write the two write-ahead logs when those begin.
	OnDataThread, OnMetaThread func()
	RaftThreads                RaftThreads
}

// Running is a node that serves. It stops by Shutdown, or by itself when its storage fails.
type Running struct {
	b        *Broker
	server   *netproto.Server
	peers    *peerListener // nil on a single node
	addr     net.Addr
	started  time.Time
	done     chan error
	stopOnce sync.Once
	stopped  chan struct{} // closed when Shutdown begins
	failing  chan struct{} // closed before the listeners are, when the storage has failed
}

// Start brings a node up: metadata, then the partitions (replaying what a crash left in the WAL), then the groups, then the
// listener; in a cluster, node_start.go has what comes in between. When it returns nil, clients are served. ctx bounds the start only.
func Start(ctx context.Context, o Options) (*Running, error) {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// The addresses are taken first: a second node on them must not touch the data.
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Config.KafkaAddr)
	if err != nil {
		return nil, fmt.Errorf("kafka-addr %s: %w", o.Config.KafkaAddr, err)
	}
	r, err := start(ctx, o, ln)
	if err != nil {
		return nil, errors.Join(err, closeListener(ln))
	}
	return r, nil
}

// undoing takes back what was begun, the last first, when a start fails.
type undoing []func() error

func (u undoing) run(err error) error {
	for i := len(u) - 1; i >= 0; i-- {
		err = errors.Join(err, u[i]())
	}
	return err
}

func start(ctx context.Context, o Options, ln net.Listener) (_ *Running, err error) {
	b := &Broker{
		metaFailure: make(chan error, 1), busy: o.OnBusy,
		cfg: o.Config, clk: o.Clock, log: o.Logger, faults: faultlog.New(o.Logger, o.Clock),
		locks: lockmeter.New(lockmeter.Options{Registry: o.Registry, Logger: o.Logger}),
	}
	b.sessions = newSessionCache(o.Config.FetchSessionSlots, o.Clock, b.locks)
	b.produces.clk = o.Clock
	b.produces.mu.MeterBy(b.locks, lockmeter.Purgatory)
	b.commits.mu.MeterBy(b.locks, lockmeter.Purgatory)
	b.groupRoles.mu.MeterBy(b.locks, lockmeter.Group)
	b.metrics = newMetrics(o.Registry, b.waiting.Load, b.starved.Load, b.sessions.count)
	r := &Running{b: b, addr: ln.Addr(), started: o.Clock.Now(), done: make(chan error, 1), stopped: make(chan struct{}), failing: make(chan struct{})}
	undo := undoing{b.closeLocks}
	defer func() {
		if err != nil {
			err = undo.run(err)
		}
	}()
	if b.watch, err = newRequestWatch(o); err != nil {
		return nil, err
	}
	undo = append(undo, func() error { b.watch.close(ctx); return nil })
	if o.Config.Clustered() {
		if r.peers, err = b.openPeers(ctx, o); err != nil {
			return nil, err
		}
		undo = append(undo, r.peers.abandon)
	}
	if err := b.openMeta(o); err != nil {
		return nil, err
	}
	undo = append(undo, b.closeMeta)
	if r.peers != nil {
		go r.servePeers()
		undo = append(undo, r.peers.stop)
	}
	if err := b.join(ctx, o.Registry, ln.Addr()); err != nil {
		return nil, err
	}
	undo = append(undo, b.endLife)
	if err := b.openParts(o); err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return b.parts.Close(ctx) })
	b.openGroups(o.Registry)
	undo = append(undo, func() error { b.closeGroups(); return nil })
	if r.server, err = netproto.NewServer(serverOptions(b, o)); err != nil {
		return nil, err
	}
	go r.serve(ln)
	go r.watch()
	undo = append(undo, func() error {
		close(r.stopped)
		r.server.ResetAll()
		return nil
	})
	return r, r.awaitServing(ctx)
}

func (b *Broker) openParts(o Options) (err error) {
	po := replica.Options{
		Pace: b.pace, FS: o.FS, Config: o.Config, Meta: b.meta, Clock: o.Clock, Logger: o.Logger, Registry: o.Registry, Locks: b.locks, OnIO: b.onBusy, OnRole: b.onRole, OnLogThread: o.OnDataThread,
	}
	if b.clustered() {
		po.Source, po.Control = newReplicaSource(b.peers, b.cfg, b.meta, b.locks), isrControl{b}
	}
	if b.parts, err = replica.Open(po); err != nil {
		return err
	}
	b.metaIO.Store(b.parts)
	return nil
}

// openMeta opens the metadata and the controller, which begins to decide when this node wins an election.
func (b *Broker) openMeta(o Options) (err error) {
	dir := filepath.Join(b.cfg.DataDir, "meta")
	var office officeRelay
	b.pace = pace.New(o.Clock, pace.NewMetrics(o.Registry)) // one device below all that the data directory holds
	mo := raftmeta.Options{
		Pace: b.pace,
		FS:   o.FS, Dir: dir, NodeID: b.cfg.NodeID, Clock: o.Clock, Logger: b.log, Metrics: raftmeta.NewMetrics(o.Registry), Locks: b.locks,
		Ring:      replica.RingOptions(b.cfg, b.log, b.metaIOChanged, b.metaLate),
		IOTimeout: config.Millis(b.cfg.LogDirStallMs), OnPoison: b.metaFailed, OnLogThread: o.OnMetaThread, Threads: o.RaftThreads, OnOffice: office.changed,
	}
	if b.clustered() {
		mo.Sender, mo.PeerAddr, mo.Voters = raftSender{b}, b.peerAddr, voters(b.cfg)
		// Others can take over, so the metadata has half the patience that the data has: a controller that cannot write is replaced first.
		mo.StoreTimeout = config.Millis(b.cfg.LogDirStallMs) / 2
		mo.HeartbeatTimeout, mo.ElectionTimeout = config.Millis(b.cfg.QuorumFetchTimeoutMs), config.Millis(b.cfg.QuorumElectionTimeoutMs)
	} else {
		// Alone there is nobody to hand over to: the metadata's log gets the same patience as the data's.
		mo.StoreTimeout = replica.StoreTimeout(b.cfg)
	}
	if b.meta, err = raftmeta.Open(mo); err != nil {
		if errors.Is(err, raftmeta.ErrPoisoned) {
			err = fmt.Errorf("%w: %w", replica.ErrStorage, err)
		}
		return fmt.Errorf("metadata in %s: %w", dir, err)
	}
	b.metaRef.Store(b.meta)
	b.ctl = controller.New(controller.Options{
		Meta: b.meta, NodeID: b.cfg.NodeID, Config: b.cfg, Clock: o.Clock, Logger: b.log, Metrics: controller.NewMetrics(o.Registry), Locks: b.locks,
	})
	b.ctlRef.Store(b.ctl)
	office.connect(func(term uint64, leading bool) {
		b.ctl.Office(term, leading)
		b.controllers.happened()
	})
	b.unsubController = b.meta.Subscribe(func(_ *raftmeta.Image, d *raftmeta.Delta) {
		if d.Controller {
			b.controllers.happened()
		}
	})
	return nil
}

// closeLocks ends the logging of long holds; locks go on being measured.
func (b *Broker) closeLocks() error {
	b.locks.Close()
	return nil
}

// closeMeta ends the controller and this node's part in the metadata.
func (b *Broker) closeMeta() error {
	b.unsubController()
	b.ctl.Close()
	return b.meta.Close()
}

// join makes this node known in the metadata. When it returns nil, the metadata is as new as that.
func (b *Broker) join(ctx context.Context, reg prometheus.Registerer, bound net.Addr) (err error) {
	host, port := b.cfg.Advertised(bound)
	if b.clustered() {
		err = b.joinCluster(ctx, reg, host, port)
	} else {
		err = b.register(ctx, host, port)
	}
	if err == nil {
		return nil
	}
	if b.meta.OldestIO() > config.Millis(b.cfg.LogDirStallMs) || b.meta.Poisoned() != nil {
		err = fmt.Errorf("%w: %w", replica.ErrStorage, err)
	}
	return fmt.Errorf("metadata in %s: %w", filepath.Join(b.cfg.DataDir, "meta"), err)
}

// register waits until the metadata of a single node is ready and makes the node known in it. The wait is bounded also where stalls are waited out: a start
// that meets a stalled disk fails, and the supervisor tries again.
func (b *Broker) register(ctx context.Context, host string, port int32) error {
	ctx, cancel := context.WithTimeout(ctx, readyFactor*config.Millis(b.cfg.LogDirStallMs)+b.requestTimeout())
	defer cancel()
	if err := b.meta.Ready(ctx); err != nil {
		return err
	}
	if _, err := b.ctl.Register(ctx, controller.Registration{ID: b.cfg.NodeID, Host: host, Port: port, Rack: b.cfg.BrokerRack}); err != nil {
		return fmt.Errorf("register broker %d: %w", b.cfg.NodeID, err)
	}
	return nil
}

// readyFactor is how many slow, but not stalled, writes the metadata may need until it is ready.
const readyFactor = 4

// metaFailed notes that the metadata's log took an error or hung; the node ends.
func (b *Broker) metaFailed(err error) {
	select {
	case b.metaFailure <- err:
	default:
	}
}

func serverOptions(b *Broker, o Options) netproto.Options {
	c := o.Config
	return netproto.Options{
		Handler: b, MaxFrameBytes: c.SocketRequestMaxBytes, MaxInFlight: c.ConnectionInflightRequestsMax,
		MaxInFlightBytes: c.ConnectionInflightBytesMax, MaxRequestBytes: c.QueuedMaxRequestBytes, MaxConnections: connectionsMax(c.MaxConnections, vfs.Descriptors()),
		IdleTimeout: config.Millis(c.ConnectionsMaxIdleMs), WriteTimeout: config.Millis(c.ConnectionWriteTimeoutMs),
		Logger: o.Logger, Metrics: netproto.NewMetrics(o.Registry), Locks: b.locks, OnDone: b.watch.done,
	}
}

func (r *Running) serve(ln net.Listener) {
	err := r.server.Serve(ln)
	select {
	case <-r.stopped:
	case <-r.failing: // watch says why
	default:
		r.end(fmt.Errorf("listener %s: %w", r.addr, err))
	}
}

// watch ends the service when the storage fails: connections are reset, so that clients look for another node at once instead of
// waiting on sockets that a dying process keeps open.
func (r *Running) watch() {
	var err error
	select {
	case err = <-r.b.parts.Failed():
	case err = <-r.b.metaFailure:
		err = fmt.Errorf("%w: metadata: %w", replica.ErrStorage, err)
		r.b.parts.Fail(err)
	case <-r.stopped:
		return
	}
	close(r.failing)
	if r.peers != nil {
		r.peers.reset()
	}
	r.server.ResetAll()
	r.end(err)
}

func (r *Running) end(err error) {
	select {
	case r.done <- err:
	default:
	}
}

// KafkaAddr is the address that clients are served on.
func (r *Running) KafkaAddr() net.Addr { return r.addr }

// Done yields the error with which the node stopped by itself; errors.Is(err, replica.ErrStorage) tells failed storage.
func (r *Running) Done() <-chan error { return r.done }

// StorageFailed reports whether an error from Done is a failure of the data directory.
func StorageFailed(err error) bool { return errors.Is(err, replica.ErrStorage) }

// Shutdown stops taking connections, lets requests in progress finish, writes what is in memory and closes the storage. In a cluster the
// controller first moves what this node leads, while it still serves. After the deadline in ctx it goes on without waiting for
// clients; acknowledged records are on disk in any case.
func (r *Running) Shutdown(ctx context.Context) (err error) {
	r.stopOnce.Do(func() {
		if r.peers != nil {
			r.handOver(ctx)
		}
		close(r.stopped)
		// What waits for others - members of a rebalance, consumers for data - is answered first: the server waits for it.
		r.b.closeGroups()
		r.b.closing.Store(true)
		r.b.parts.WakeReaders()
		err = r.server.Shutdown(ctx)
		if r.peers != nil {
			err = errors.Join(err, r.b.endLife(), r.peers.shutdown(ctx))
		}
		err = errors.Join(err, r.b.parts.Close(ctx), r.b.closeMeta())
		if r.peers != nil {
			err = errors.Join(err, r.peers.stop(), r.b.peers.Close())
		}
		r.b.produces.close()
		r.b.watch.close(ctx)
		err = errors.Join(err, r.b.closeLocks())
		if down := r.b.parts.Down(); down != nil {
			err = errors.Join(err, down) // tells failed storage, whatever else went wrong by it
		}
	})
	return err
}
