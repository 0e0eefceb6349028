package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"

	"weir/netproto"
	"weir/raftmeta"
)

// Errors that say who leads carry the leader and its address (KIP-951), so that a client goes there at once instead of asking for metadata first.

// leaderHints gathers what one response tells about leaders, all from one image.
type leaderHints struct {
	img   *raftmeta.Image
	self  int32
	nodes []netproto.NodeEndpoint
}

func (b *Broker) newLeaderHints() leaderHints {
	return leaderHints{img: b.meta.Image(), self: b.cfg.NodeID}
}

// misled reports whether an error code means that the client does not know the leader, or its epoch.
func misled(code int16) bool {
	return code == kerr.NotLeaderForPartition.Code || code == kerr.FencedLeaderEpoch.Code
}

// of returns the partition's leader where that helps the client; its address goes to nodes. It is nil if nobody leads, if the leader is not in
// service, or if it is this node, to which the client has just come in vain.
func (h *leaderHints) of(topic *raftmeta.Topic, index int32, code int16) *netproto.LeaderAndEpoch {
	if topic == nil || index < 0 || int(index) >= len(topic.Partitions) {
		return nil
	}
	p := &topic.Partitions[index]
	node := h.img.Broker(p.Leader)
	if node == nil || node.Fenced || p.Leader == h.self && code == kerr.NotLeaderForPartition.Code {
		return nil
	}
	h.add(node)
	return &netproto.LeaderAndEpoch{LeaderID: p.Leader, LeaderEpoch: p.LeaderEpoch}
}

func (h *leaderHints) add(node *raftmeta.Broker) {
	for i := range h.nodes {
		if h.nodes[i].ID == node.ID {
			return
		}
	}
	h.nodes = append(h.nodes, netproto.NodeEndpoint{ID: node.ID, Host: node.Host, Port: node.Port, Rack: node.Rack})
}

// topic finds the topic that a request names, by id where its version has ids.
func (h *leaderHints) topic(byID bool, id [16]byte, name string) *raftmeta.Topic {
	if byID {
		return h.img.TopicByID(id)
	}
	return h.img.Topic(name)
}
