package netproto

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"weir/internal/clock"
	"weir/internal/iobuf"
	"weir/internal/lockmeter"
)

// Class is a kind of traffic between nodes. Each has a connection and bounds of its own, so that none waits for another.
type Class uint8

// The classes.
const (
	ClassRaft      Class = iota // metadata: entries, votes, snapshots
	ClassHeartbeat              // heartbeats of raft and of the brokers
	ClassControl                // AlterPartition, AwaitMetadata, registration
	ClassAdmin                  // forwarded requests of admin clients
	ClassProduce                // forwarded produce requests
	ClassFetch                  // fetches of followers
	classCount
)

var classNames = [classCount]string{"raft", "heartbeat", "control", "admin", "produce", "fetch"}

func (c Class) String() string {
	if c < classCount {
		return classNames[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Private API keys: their requests have no client id in the header, and their responses no tags.
const (
	KeyHello         int16 = 10000
	KeyRaft          int16 = 10001
	KeyForward       int16 = 10002
	KeyAwaitMetadata int16 = 10003
	KeyJoin          int16 = 10004
)

// privateNames are the names of the private keys, from KeyHello on.
var privateNames = [...]string{"WeirHello", "WeirRaft", "WeirForward", "WeirAwaitMetadata", "WeirJoin"}

// PeersOptions configure Peers.
type PeersOptions struct {
	NodeID    int32
	ClusterID func() string // "": not known yet
	// Resolve is asked with each Call for the node's address; a new address gets new connections. It must not block.
	Resolve func(node int32) (addr string, ok bool)
	// LocalHost is the address that connections are made from; "": the system's choice.
	LocalHost string

	DialTimeout     time.Duration // for the connection and the exchange of Hello; default 1 s
	WriteTimeout    time.Duration // a peer must take 1 MiB within it; default 5 s
	ResponseTimeout time.Duration // a connection that stays silent for so long although requests are open is given up; default 5 s
	IdleTimeout     time.Duration // a connection without requests is closed after it; default 5 min; must be less than the server's

	MaxInFlight      int   // requests without an answer per connection; default 1024
	MaxInFlightBytes int64 // bytes of them; default 64 MiB. One request may be larger.
	MaxWaiting       int   // calls that wait for room in flight, per connection; default 16 times MaxInFlight
	MaxFrameBytes    int   // largest response; default 100 MiB

	Locks *lockmeter.Meter // measures the locks; may be nil

	Clock   clock.Clock  // nil: the system's
	Logger  *slog.Logger // nil: discard
	Metrics *PeerMetrics // nil: unregistered ones
	// OnGone tells that a connection that worked was reset, and a new dial refused: no process listens there. It may be called from any
	// goroutine and must not block.
	OnGone func(node int32)

	dialer func(ctx context.Context, addr string) (net.Conn, error) // for tests; nil: TCP
	jitter func() float64                                           // likewise; nil: random
}

func (o PeersOptions) withDefaults() (PeersOptions, error) {
	if o.ClusterID == nil {
		o.ClusterID = func() string { return "" }
	}
	if o.Resolve == nil {
		o.Resolve = func(int32) (string, bool) { return "", false }
	}
	o.DialTimeout = orDefault(o.DialTimeout, time.Second)
	o.WriteTimeout = orDefault(o.WriteTimeout, 5*time.Second)
	o.ResponseTimeout = orDefault(o.ResponseTimeout, 5*time.Second)
	o.IdleTimeout = orDefault(o.IdleTimeout, 5*time.Minute)
	o.MaxInFlight = orDefault(o.MaxInFlight, 1024)
	o.MaxInFlightBytes = orDefault(o.MaxInFlightBytes, 64<<20)
	o.MaxWaiting = orDefault(o.MaxWaiting, 16*o.MaxInFlight)
	o.MaxFrameBytes = orDefault(o.MaxFrameBytes, 100<<20)
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewPeerMetrics(nil)
	}
	if o.OnGone == nil {
		o.OnGone = func(int32) {}
	}
	var local netip.Addr
	if o.LocalHost != "" {
		var err error
		if local, err = netip.ParseAddr(o.LocalHost); err != nil {
			return o, fmt.Errorf("netproto: LocalHost %q is not an IP address: %w", o.LocalHost, err)
		}
	}
	if o.dialer == nil {
		o.dialer = dialer(local)
	}
	if o.jitter == nil {
		o.jitter = rand.Float64
	}
	if o.NodeID < 0 || o.DialTimeout < 0 || o.WriteTimeout < 0 || o.ResponseTimeout < 0 || o.IdleTimeout < 0 || o.MaxInFlight < 1 || o.MaxInFlightBytes < 1 ||
		o.MaxWaiting < 0 || o.MaxFrameBytes < helloFrameBytesMax {
		return o, fmt.Errorf("netproto: bad options for peers: node %d, timeouts: dial %v, write %v, response %v, idle %v; in flight %d requests of %d B, %d waiting, frame %d B",
			o.NodeID, o.DialTimeout, o.WriteTimeout, o.ResponseTimeout, o.IdleTimeout, o.MaxInFlight, o.MaxInFlightBytes, o.MaxWaiting, o.MaxFrameBytes)
	}
	return o, nil
}

// PeerResponse is the answer to a call.
type PeerResponse struct {
	Body []byte     // what follows the response header, a view of Buf
	Buf  *iobuf.Buf // one reference, which Release gives up
}

// Release gives the response's memory back.
func (r *PeerResponse) Release() {
	if r.Buf != nil {
		r.Buf.Release()
		r.Buf, r.Body = nil, nil
	}
}
