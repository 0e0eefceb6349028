package broker

import (
	"net"
	"slices"
	"strconv"
)

// ClusterInfo is the cluster as this node's metadata has it; the truth is the controller's.
type ClusterInfo struct {
	ID              string
	Controller      int32 // -1: none known
	Nodes           []NodeInfo
	UnderReplicated int // partitions with a replica that is not in sync
	Offline         int // partitions without a leader
}

// NodeInfo is one node of the cluster.
type NodeInfo struct {
	ID               int32
	Addr, Rack       string
	Fenced, Stopping bool
	Leaving          bool // being decommissioned
	Leads, Replicas  int
	OutOfSync        int // of its replicas
}

// Cluster describes the cluster. It does no I/O; its work grows with the number of partitions.
func (r *Running) Cluster() ClusterInfo {
	img := r.b.meta.Image()
	info := ClusterInfo{ID: img.ClusterID, Controller: img.ControllerID}
	at := map[int32]int{}
	for i, b := range img.Brokers() {
		at[b.ID] = i
		info.Nodes = append(info.Nodes, NodeInfo{
			ID: b.ID, Addr: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), Rack: b.Rack, Fenced: b.Fenced, Stopping: b.ShuttingDown, Leaving: b.Leaving,
		})
	}
	for t := range img.Topics() {
		for _, p := range t.Partitions {
			if i, ok := at[p.Leader]; ok {
				info.Nodes[i].Leads++
			}
			for _, replica := range p.Replicas {
				i, ok := at[replica]
				if !ok {
					continue
				}
				info.Nodes[i].Replicas++
				if !slices.Contains(p.ISR, replica) {
					info.Nodes[i].OutOfSync++
				}
			}
			switch {
			case p.Leader < 0:
				info.Offline++
			case len(p.ISR) < len(p.Replicas):
				info.UnderReplicated++
			}
		}
	}
	return info
}
