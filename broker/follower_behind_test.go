package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// TestFollowerBehindTheLogStart: a replica whose log ends before its leader's begins is told where that is, begins anew there, and is in sync again.
func TestFollowerBehindTheLogStart(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader := c.controller()
	follower := leader%3 + 1
	c.assigned("orders", []int32{leader, follower})
	w := dial(t, c.node(leader))
	produce := func() {
		if code := w.do(produceRequest("orders", 0, 1, buildBatch(t, "x"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
	}
	for range 3 {
		produce()
	}
	c.crash(follower)
	c.await(c.node(leader), "one replica in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 1) })
	for range 3 {
		produce()
	}
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, int32(clusterWait.Milliseconds())
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "orders", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 5}}}}
	if row := w.do(req).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]; row.ErrorCode != 0 {
		t.Fatalf("%+v", row)
	}
	c.start(follower)
	c.await(c.node(leader), "both replicas in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 2) })
	if p := c.node(follower).b.parts.ByName("orders", 0); p.LogStart() != 5 || p.End() != 6 {
		t.Errorf("the follower has %d to %d", p.LogStart(), p.End())
	}
}
