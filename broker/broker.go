// Package broker serves the Kafka protocol: one file per API, a dispatch table, and the purgatory
// where produce and fetch requests wait. Kafka's error codes appear in this package and nowhere else.
package broker

import (
	"log/slog"
	"sync"
	"sync/atomic"

	"weir/coordinator/group"
	"weir/internal/clock"
	"weir/internal/config"
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
	waiting  atomic.Int64                    // fetches in the purgatory
	starved  atomic.Int64                    // of those, fetches that wait for memory
	closing  atomic.Bool                     // fetches do not wait any more
	busy     func()                          // Options.OnBusy, may be nil
	produces produceWaits                    // those that wait for the disk
	metaIO   atomic.Pointer[replica.Manager] // whom the metadata's disk operations are reported to; nil while it is not open

	producerIDs producerIDs

	metaFailure chan error // the metadata's first failure
	unsubGroups func()
	loading     sync.WaitGroup // loads of __consumer_offsets
}
