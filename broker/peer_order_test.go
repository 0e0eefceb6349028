package broker

import (
	"context"
	"testing"

	"weir/netproto"
)

// TestPeerAnswersInAnyOrder: a request of another node that waits, here for metadata that does not exist, does not hold up the answers to those behind it
// on the connection.
func TestPeerAnswersInAnyOrder(t *testing.T) {
	c := startCluster(t, 3, nil)
	peers, err := netproto.NewPeers(netproto.PeersOptions{
		NodeID: 2, ClusterID: func() string { return c.node(1).b.meta.Image().ClusterID },
		Resolve: func(int32) (string, bool) { return c.nodes[1].peer, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer peers.Close()
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	type outcome struct {
		version uint64
		err     error
	}
	outcomes := make(chan outcome, 2)
	const never = 1 << 60
	for _, version := range []uint64{never, 0} {
		peers.Start(ctx, 1, netproto.ClassControl, netproto.KeyAwaitMetadata, awaitMetadataVersion, awaitRequest(version, clusterWait),
			func(r *netproto.PeerResponse, err error) { outcomes <- outcome{version, awaitAnswer(1, r, err)} })
	}
	if got := <-outcomes; got.version != 0 || got.err != nil {
		t.Errorf("the first answer is to version %d, %v; want version 0's", got.version, got.err)
	}
	c.crash(1) // a stop would wait for the other
	if got := <-outcomes; got.err == nil {
		t.Error("metadata that does not exist was applied")
	}
}
