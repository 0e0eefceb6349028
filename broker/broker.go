// Package broker serves the Kafka protocol: one file per API, a dispatch table, and the purgatory
// where produce and fetch requests wait. Kafka's error codes appear in this package and nowhere else.
package broker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"weir/controller"
	"weir/coordinator/group"
	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/faultlog"
	"weir/internal/lockmeter"
	"weir/internal/pace"
	"weir/netproto"
	"weir/raftmeta"
	"weir/replica"
)

// Broker answers requests from one node's state. It is safe for use by many connections.
type Broker struct {
	cfg      *config.Broker
	meta     *raftmeta.Meta
	parts    *replica.Manager
	groups   *group.Coordinator
	sessions *sessionCache
	clk      clock.Clock
	log      *slog.Logger
	metrics  *metrics
	watch    *requestWatch
	locks    *lockmeter.Meter
	pace     *pace.Pace                      // of the background writes to the data directory's device
	waiting  atomic.Int64                    // fetches in the purgatory
	starved  atomic.Int64                    // of those, fetches that wait for memory
	closing  atomic.Bool                     // fetches do not wait any more
	busy     func()                          // Options.OnBusy, may be nil
	produces produceWaits                    // those that wait for the disk
	metaIO   atomic.Pointer[replica.Manager] // whom the metadata's disk operations are reported to; nil while it is not open

	producerIDs producerIDs

	metaFailure chan error // the metadata's first failure
	unsubGroups func()
	groupRoles  groupRoles  // which groups this node coordinates
	commits     commitWaits // appends to __consumer_offsets under way
	forwarder   pieceSender // peers, for forwarded produces; nil on a single node

	ctl         *controller.Controller
	controllers changes // of the controller, as this node sees it

	unsubController func()
	faults          *faultlog.Log // failures that every request can meet

	// What follows is nil on a single node.
	peers    *netproto.Peers                       // connections to the other nodes
	peerAddr string                                // where they reach this one
	life     *life                                 // registration and heartbeats
	metaRef  atomic.Pointer[raftmeta.Meta]         // meta and
	ctlRef   atomic.Pointer[controller.Controller] // ctl, for who may come before they are there
	loading  sync.WaitGroup                        // loads of __consumer_offsets
}

// clustered reports whether this node is one of several.
func (b *Broker) clustered() bool { return b.peers != nil }

// down is why the disk takes nothing at the moment, nil if it does or if the partitions are not open yet.
func (b *Broker) down() error {
	if m := b.metaIO.Load(); m != nil {
		return m.Down()
	}
	return nil
}

// untilStalled is a context that ends when the disk stalls.
func (b *Broker) untilStalled() context.Context {
	if m := b.metaIO.Load(); m != nil {
		return m.UntilStalled()
	}
	return context.Background()
}
