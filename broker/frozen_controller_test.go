package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestControllerHangsWithRequests: the controller takes requests up and answers none, as a process that is stopped does; its connections stay open. When another
// node is the controller, a client's request goes there, and a request of a node is given up, long before they would time out.
func TestControllerHangsWithRequests(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	old := c.controller()
	control := c.inFlight(r, "control")
	h := c.node(old).peers.handler
	h.mu.Lock() // raft goes on
	defer h.mu.Unlock()
	w := dial(t, r)
	if err := w.conn.SetDeadline(time.Now().Add(clusterWait)); err != nil {
		t.Fatal(err)
	}
	req := createRequest(7, topicSpec("during", 1, 2))
	req.TimeoutMillis = int32(clusterWait.Milliseconds())
	created := make(chan int16, 1)
	go func() { created <- w.do(req).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode }()
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	ids := kmsg.NewPtrAllocateProducerIDsRequest()
	ids.Version, ids.BrokerID, ids.BrokerEpoch = allocateIDsVersion, r.b.cfg.NodeID, r.b.life.epoch.Load()
	allocated := make(chan error, 1)
	go func() {
		_, err := r.b.askController(ctx, ids)
		allocated <- err
	}()
	for c.inFlight(r, "admin") < 1 || c.inFlight(r, "control") <= control {
		if ctx.Err() != nil {
			t.Fatal("the requests are not sent")
		}
		time.Sleep(time.Millisecond)
	}
	if err := c.node(old).b.meta.TransferLeadership(ctx); err != nil {
		t.Fatal(err)
	}
	if code := <-created; code != 0 {
		t.Errorf("a request that the old controller had: %v", kerr.ErrorForCode(code))
	}
	if err := <-allocated; !errors.Is(err, context.Canceled) {
		t.Errorf("a node's request that the old controller had ended with %v, want that it is given up", err)
	}
}

// inFlight is how many requests to other nodes a node has in flight.
func (c *testCluster) inFlight(r *Running, class string) float64 {
	c.t.Helper()
	families, err := c.nodes[r.b.cfg.NodeID].reg.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "weir_peer_requests_in_flight" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == class {
				return m.GetGauge().GetValue()
			}
		}
	}
	return 0
}
