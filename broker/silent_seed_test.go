package broker

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"weir/netproto"
	"weir/raftmeta"
)

// silentSeed is a node that takes requests and answers none. Of those that join it tells.
type silentSeed struct{ joined func() }

func (s silentSeed) Handle(r *netproto.Request) {
	if r.APIKey == keyJoin {
		s.joined()
	}
}

func (silentSeed) Closed(*netproto.Conn) {}

func startSilentSeed(t *testing.T, node int32, joined func()) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := netproto.NewServer(netproto.Options{Handler: netproto.NewPeerHandler(silentSeed{joined}, netproto.PeerHandlerOptions{NodeID: node})})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ln) // until ResetAll
	}()
	t.Cleanup(func() {
		server.ResetAll()
		<-ended
	})
	return ln.Addr().String()
}

// heartbeats is how many a node has tried.
func (c *testCluster) heartbeats(id int32) (n uint64) {
	families, err := c.nodes[id].reg.Gather()
	if err != nil {
		c.t.Error(err)
	}
	for _, f := range families {
		if f.GetName() == "weir_broker_controller_heartbeat_seconds" {
			for _, m := range f.GetMetric() {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

// TestHeartbeatsGoOnWhileASeedIsSilent: a node that knows no controller asks the seeds for one, which takes seconds if one does not answer. Its heartbeats go
// on meanwhile: there may be a controller before, for which the node has to live.
func TestHeartbeatsGoOnWhileASeedIsSilent(t *testing.T) {
	// The session is shorter than the patience with a seed: the node asks again as soon as it has given up, and if it waited for the seeds, there would be one heartbeat
	// between two times.
	c := newCluster(t, 3, map[string]string{"broker.session.timeout.ms": "1500", "broker.heartbeat.interval.ms": "100"})
	const x, silent = 4, 9
	var watched atomic.Bool
	asked := make(chan uint64, 64)
	addr := startSilentSeed(t, silent, func() {
		if watched.Load() {
			select {
			case asked <- c.heartbeats(x):
			default:
			}
		}
	})
	c.start(1, 2, 3)
	c.add(x).seeds += ",9@" + addr
	c.start(x)
	watched.Store(true)
	c.crash(1)
	c.crash(2)
	c.await(c.node(x), "no controller", func(img *raftmeta.Image) bool { return img.ControllerID < 0 })
	next := func() uint64 {
		select {
		case n := <-asked:
			return n
		case <-time.After(clusterWait):
			t.Fatal("the seed is not asked")
			return 0
		}
	}
	first := next()
	if n := next() - first; n < 3 {
		t.Errorf("%d heartbeats while the seed did not answer", n)
	}
}
