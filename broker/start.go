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

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/vfs"
	"weir/netproto"
	"weir/raftmeta"
	"weir/replica"
)

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
}

// Running is a node that serves. It stops by Shutdown, or by itself when its storage fails.
type Running struct {
	b        *Broker
	server   *netproto.Server
	addr     net.Addr
	started  time.Time
	done     chan error
	stopOnce sync.Once
	stopped  chan struct{} // closed when Shutdown begins
	failing  chan struct{} // closed before the listener is, when the storage has failed
}

// Start brings a node up: metadata, then the partitions (replaying what a crash left in the WAL), then the groups, then the
// listener. When it returns nil, clients are served. ctx bounds the start only.
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
	// The address is taken first: a second node on it must not touch the data.
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Config.KafkaAddr)
	if err != nil {
		return nil, fmt.Errorf("kafka-addr %s: %w", o.Config.KafkaAddr, err)
	}
	r, err := start(ctx, o, ln)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return r, nil
}

func start(ctx context.Context, o Options, ln net.Listener) (_ *Running, err error) {
	b := &Broker{
		metaFailure: make(chan error, 1), busy: o.OnBusy,
		cfg: o.Config, clk: o.Clock, log: o.Logger,
		sessions: newSessionCache(o.Config.FetchSessionSlots, o.Clock),
	}
	b.produces.clk = o.Clock
	b.metrics = newMetrics(o.Registry, b.waiting.Load, b.starved.Load, b.sessions.count)
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; i >= 0 && err != nil; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	if err := b.openMeta(ctx, o.FS, o.Registry, ln.Addr()); err != nil {
		return nil, err
	}
	undo = append(undo, b.meta.Close)
	b.parts, err = replica.Open(replica.Options{
		FS: o.FS, Config: o.Config, Meta: b.meta, Clock: o.Clock, Logger: o.Logger, Registry: o.Registry, OnIO: b.onBusy,
	})
	if err != nil {
		return nil, err
	}
	b.metaIO.Store(b.parts)
	undo = append(undo, func() error { return b.parts.Close(ctx) })
	b.openGroups(o.Registry)
	undo = append(undo, func() error { b.closeGroups(); return nil })
	r := &Running{b: b, addr: ln.Addr(), started: o.Clock.Now(), done: make(chan error, 1), stopped: make(chan struct{}), failing: make(chan struct{})}
	if r.server, err = netproto.NewServer(serverOptions(b, o)); err != nil {
		return nil, err
	}
	go r.serve(ln)
	go r.watch()
	return r, nil
}

func (b *Broker) openMeta(ctx context.Context, fs vfs.FS, reg prometheus.Registerer, bound net.Addr) (err error) {
	dir := filepath.Join(b.cfg.DataDir, "meta")
	b.meta, err = raftmeta.Open(raftmeta.Options{
		FS: fs, Dir: dir, NodeID: b.cfg.NodeID, Logger: b.log, Metrics: raftmeta.NewMetrics(reg),
		Ring: replica.RingOptions(b.cfg, b.log, b.metaIOChanged, b.metaLate),
		// Alone there is nobody to hand over to: the metadata's log gets the same patience as the data's.
		StoreTimeout: replica.StoreTimeout(b.cfg), IOTimeout: config.Millis(b.cfg.LogDirStallMs), OnPoison: b.metaFailed,
	})
	if err != nil {
		if errors.Is(err, raftmeta.ErrPoisoned) {
			err = fmt.Errorf("%w: %w", replica.ErrStorage, err)
		}
		return fmt.Errorf("metadata in %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.meta.Close())
		}
	}()
	if err := b.register(ctx, bound); err != nil {
		if b.meta.OldestIO() > config.Millis(b.cfg.LogDirStallMs) || b.meta.Poisoned() != nil {
			err = fmt.Errorf("%w: %w", replica.ErrStorage, err)
		}
		return fmt.Errorf("metadata in %s: %w", dir, err)
	}
	return nil
}

// register waits until the metadata is ready and makes this broker known in it. The wait is bounded also where stalls are waited out: a start that meets
// a stalled disk fails, and the supervisor tries again.
func (b *Broker) register(ctx context.Context, bound net.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, readyFactor*config.Millis(b.cfg.LogDirStallMs)+b.requestTimeout())
	defer cancel()
	if err := b.meta.Ready(ctx); err != nil {
		return err
	}
	host, port := b.cfg.Advertised(bound)
	self := raftmeta.RegisterBroker{ID: b.cfg.NodeID, Host: host, Port: port, Rack: b.cfg.BrokerRack}
	results, err := b.meta.Propose(ctx, self)
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return fmt.Errorf("register broker %d: %w", self.ID, err)
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
		Logger: o.Logger, Metrics: netproto.NewMetrics(o.Registry),
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

// Shutdown stops taking connections, lets requests in progress finish, writes what is in memory and closes the storage.
// After the deadline in ctx it goes on without waiting for clients; acknowledged records are on disk in any case.
func (r *Running) Shutdown(ctx context.Context) (err error) {
	r.stopOnce.Do(func() {
		close(r.stopped)
		// What waits for others - members of a rebalance, consumers for data - is answered first: the server waits for it.
		r.b.closeGroups()
		r.b.closing.Store(true)
		r.b.parts.WakeReaders()
		err = r.server.Shutdown(ctx)
		err = errors.Join(err, r.b.parts.Close(ctx), r.b.meta.Close())
		r.b.produces.close()
		if down := r.b.parts.Down(); down != nil {
			err = errors.Join(err, down) // tells failed storage, whatever else went wrong by it
		}
	})
	return err
}
