package broker

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// Disk stall -> cluster freeze: what happened in production. The controller's disk stops answering for ever; the node gives up by itself, the others notice at once,
// elect a controller and leaders, and serve.
func TestStalledDiskOfTheControllerFreezesNobody(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"log.dir.stall.ms": "3000"})
	disks := map[int32]*slowDisk{}
	for id, node := range c.nodes {
		disks[id] = newSlowDisk()
		node.disk = disks[id]
	}
	c.start(1, 2, 3)
	r := c.follower()
	spreadTopic(t, r, "t", 3)
	victim := c.controller()
	failing := c.node(victim)
	disks[victim].hold("/d/meta")
	defer disks[victim].release(errCrash)
	// A change, for the controller to write. The next controller makes it, and the client does not notice.
	w := dial(t, r)
	if err := w.conn.SetDeadline(time.Now().Add(clusterWait)); err != nil {
		t.Fatal(err)
	}
	req := createRequest(7, topicSpec("during", 1, 2))
	req.TimeoutMillis = int32(clusterWait.Milliseconds())
	if code := w.do(req).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != 0 {
		t.Errorf("a request that the stalled controller had taken: %v", kerr.ErrorForCode(code))
	}
	select {
	case err := <-failing.Done():
		if !StorageFailed(err) {
			t.Errorf("the node ended with %v, want a failed storage", err)
		}
	case <-time.After(clusterWait):
		t.Fatal("the node does not give up")
	}
	c.await(r, "others lead", func(img *raftmeta.Image) bool {
		return img.ControllerID >= 0 && img.ControllerID != victim && img.Broker(victim).Fenced &&
			!slices.ContainsFunc(img.Topic("t").Partitions, func(p raftmeta.Partition) bool { return p.Leader == victim || p.Leader < 0 })
	})
	spreadTopic(t, r, "after", 2)
	disks[victim].release(errCrash)
	_ = c.shutdown(victim) // says that the storage failed
}

// Where stalls are waited out the node stays, but leads nothing until its disk answers again.
func TestStallThatIsWaitedOutGivesLeadershipsUp(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"log.dir.stall.action": "wait", "log.dir.stall.ms": "1000", "auto.leader.rebalance.enable": "false"})
	disks := map[int32]*slowDisk{}
	for id, node := range c.nodes {
		disks[id] = newSlowDisk()
		node.disk = disks[id]
	}
	c.start(1, 2, 3)
	r := c.follower()
	victim := slices.DeleteFunc([]int32{1, 2, 3}, func(id int32) bool { return id == c.controller() || id == r.b.cfg.NodeID })[0]
	others := slices.DeleteFunc([]int32{1, 2, 3}, func(id int32) bool { return id == victim })
	resp := dial(t, r).do(createRequest(7, assigned("t", append([]int32{victim}, others...)))).(*kmsg.CreateTopicsResponse)
	if resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("create: code %d", resp.Topics[0].ErrorCode)
	}
	disks[victim].hold("/d/wal")
	defer disks[victim].release(nil)
	dial(t, c.node(victim)).send(produceRequest("t", 0, 1, buildBatch(t, "x"))) // something to write
	c.await(r, "the stalled node leads nothing", func(img *raftmeta.Image) bool {
		return img.Broker(victim).Fenced && img.Topic("t").Partitions[0].Leader != victim && img.Topic("t").Partitions[0].Leader >= 0
	})
	if c.node(victim).Health().Ready {
		t.Error("the stalled node says that it is ready")
	}
	disks[victim].release(nil)
	c.await(r, "it is back", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3) })
}
