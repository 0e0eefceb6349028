package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/config"
	"weir/netproto"
)

// A node of a cluster starts in this order: the address of the peer listener is taken; the metadata is opened; the peer listener serves,
// so that raft gets its answers; the node finds a controller (node_join.go) and registers, fenced; the metadata is applied up to that; the partitions
// are opened; data requests of other nodes and of clients are served; heartbeats begin, and the first one has the node
// unfenced. It stops in this order: the controller moves its leaderships, raft another node into office; clients' requests
// are finished, heartbeats end, other nodes' requests are finished, partitions and metadata are closed.

// peerListener is where other nodes reach this one: a server of its own, so that clients cannot take its connections, memory or time.
type peerListener struct {
	ln      net.Listener
	server  *netproto.Server
	handler *peerHandler
	cancel  context.CancelFunc // of what it serves
	b       *Broker
}

// openPeers takes the peer address and makes the connections to other nodes possible.
func (b *Broker) openPeers(ctx context.Context, o Options) (_ *peerListener, err error) {
	c := o.Config
	p := &peerListener{b: b}
	if p.ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.PeerAddr); err != nil {
		return nil, fmt.Errorf("peer-addr %s: %w", c.PeerAddr, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.ln.Close())
		}
	}()
	b.peerAddr = b.peerAddress(p.ln.Addr())
	p.handler = &peerHandler{b: b}
	p.handler.ctx, p.cancel = context.WithCancel(context.Background())
	localHost, _, _ := net.SplitHostPort(p.ln.Addr().String())
	b.peers, err = netproto.NewPeers(netproto.PeersOptions{
		NodeID: c.NodeID, ClusterID: b.clusterID, Resolve: b.resolve, LocalHost: localHost,
		DialTimeout: config.Millis(c.PeerDialTimeoutMs), MaxInFlight: c.PeerInflightRequestsMax, MaxInFlightBytes: c.PeerInflightBytesMax,
		MaxFrameBytes: peerFrameBytesMax(c), Clock: o.Clock, Logger: o.Logger, Metrics: netproto.NewPeerMetrics(o.Registry), OnGone: b.peerGone, Locks: b.locks,
	})
	if err != nil {
		return nil, err
	}
	b.forwarder = b.peers
	handler := netproto.NewPeerHandler(p.handler, netproto.PeerHandlerOptions{
		NodeID: c.NodeID, ClusterID: b.clusterID, OnHello: b.peers.Heard, Logger: o.Logger,
	})
	p.server, err = netproto.NewServer(netproto.Options{
		Handler: handler, MaxFrameBytes: peerFrameBytesMax(c), MaxInFlight: c.PeerInflightRequestsMax, MaxInFlightBytes: c.PeerInflightBytesMax,
		MaxConnections: peerConnectionsMax, AnyOrder: true, WriteTimeout: config.Millis(c.ConnectionWriteTimeoutMs), Logger: o.Logger,
		Metrics: netproto.NewPeerServerMetrics(o.Registry), Locks: b.locks, OnDone: b.watch.done,
	})
	if err != nil {
		return nil, errors.Join(err, b.peers.Close())
	}
	return p, nil
}

const (
	// peerConnectionsMax bounds the connections of other nodes. Each has one per class, and may come back before the old ones are found dead.
	peerConnectionsMax = 1024
	// peerFrameMargin is for what is around the records of a forwarded request.
	peerFrameMargin = 1 << 20
)

// peerFrameBytesMax is the largest message between nodes: a client's largest request, or a follower's fetch, and what is around it.
func peerFrameBytesMax(c *config.Broker) int {
	return max(c.SocketRequestMaxBytes, c.ReplicaFetchResponseMaxBytes+c.MessageMaxBytes) + peerFrameMargin
}

// peerAddress is where other nodes reach this one: as seed-nodes has it, so that all write it alike, else as configured.
func (b *Broker) peerAddress(bound net.Addr) string {
	if i := slices.IndexFunc(b.cfg.Seeds(), func(s config.Seed) bool { return s.ID == b.cfg.NodeID }); i >= 0 {
		return b.cfg.Seeds()[i].Addr
	}
	host, _, _ := net.SplitHostPort(b.cfg.PeerAddr) // was checked
	return net.JoinHostPort(host, strconv.Itoa(bound.(*net.TCPAddr).Port))
}

// clusterID is the cluster's id, "" as long as this node does not know it.
func (b *Broker) clusterID() string {
	if m := b.metaRef.Load(); m != nil {
		return m.ClusterID()
	}
	return ""
}

// peerGone tells the metadata and the controller that no process listens where a node was.
func (b *Broker) peerGone(node int32) {
	if m := b.metaRef.Load(); m != nil {
		m.PeerGone(node)
	}
	if c := b.ctlRef.Load(); c != nil {
		c.PeerGone(node)
	}
}

// servePeers serves the peer listener until it is closed.
func (r *Running) servePeers() {
	err := r.peers.server.Serve(r.peers.ln)
	select {
	case <-r.stopped:
	case <-r.failing: // watch says why
	case <-r.peers.handler.ctx.Done():
	default:
		r.end(fmt.Errorf("peer listener %s: %w", r.peers.ln.Addr(), err))
	}
}

// shutdown lets other nodes' requests finish.
func (p *peerListener) shutdown(ctx context.Context) error { return p.server.Shutdown(ctx) }

// stop ends what is being served.
func (p *peerListener) stop() error {
	p.cancel()
	p.server.ResetAll()
	p.handler.close()
	return nil
}

// reset lets go of all connections at once, in both directions, for a node whose storage failed.
func (p *peerListener) reset() {
	p.cancel()
	p.server.ResetAll()
	if err := p.b.peers.Close(); err != nil {
		p.b.log.Warn("connections to other nodes", "error", err)
	}
}

// abandon takes openPeers back.
func (p *peerListener) abandon() error {
	p.cancel()
	return errors.Join(closeListener(p.ln), p.b.peers.Close())
}

// closeListener closes a listener that a server may have closed before.
func closeListener(ln net.Listener) error {
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// joinCluster finds the controller, registers with it, and waits until this node has applied the metadata up to that.
func (b *Broker) joinCluster(ctx context.Context, reg prometheus.Registerer, host string, port int32) error {
	if err := b.awaitCluster(ctx); err != nil {
		return err
	}
	peerHost, peerPort, err := splitHostPort(b.peerAddr)
	if err != nil {
		return err
	}
	b.life = newLife(b, reg, host, port, peerHost, peerPort)
	if err := b.life.join(ctx); err != nil {
		b.life.close()
		return err
	}
	return nil
}

func splitHostPort(addr string) (host string, port int32, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port of %s: %w", addr, err)
	}
	return host, int32(n), nil
}

// endLife ends the heartbeats.
func (b *Broker) endLife() error {
	if b.life != nil {
		b.life.close()
	}
	return nil
}

// awaitServing opens a node of a cluster to the others and waits until the controller lets it serve.
func (r *Running) awaitServing(ctx context.Context) error {
	if r.peers == nil {
		return nil
	}
	r.peers.handler.serving.Store(true)
	r.b.life.begin()
	unfenced := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { unfenced <- r.b.life.awaitUnfenced(ctx) }()
	select {
	case err := <-unfenced:
		return err
	case err := <-r.done:
		cancel()
		<-unfenced
		return err
	}
}

// handOver leaves the cluster in good order: other brokers lead what this one led, another node is the controller. It is bounded, and what fails
// in it is found out by the others, if later.
func (r *Running) handOver(ctx context.Context) {
	b := r.b
	select {
	case <-r.failing:
		return // nothing can be handed over by a node that is cut off
	default:
	}
	limit := leaveMax
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, deadline.Sub(b.clk.Now())/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if b.cfg.ControlledShutdownEnable {
		began := b.clk.Now()
		if err := b.life.leave(ctx); err != nil {
			b.log.Warn("left without handing everything over", "error", err)
		} else {
			b.log.Info("others lead what this node led", "took", b.clk.Now().Sub(began).Round(time.Millisecond))
		}
	}
	if b.meta.Leading() {
		if err := b.meta.TransferLeadership(ctx); err != nil {
			b.log.Warn("the controller's role was not handed over", "error", err)
		}
	}
}

// leaveMax bounds the handing over, unless the shutdown has less time.
const leaveMax = 10 * time.Second
