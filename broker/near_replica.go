package broker

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/replica"
)

// Reading from a replica nearby (KIP-392). A consumer that says in which rack it is (client.rack) is sent by the leader, where
// replica.selector.class is set, to an in-sync replica in the same rack, and reads there up to what that replica knows to be committed.
// Without a selector, or a rack, only leaders serve.

// near is noReplica if this node should serve a consumer that reads at offset, else the replica that should. The consumer has a rack.
func (f *fetch) near(p *replica.Partition, offset int64) (int32, error) {
	if p.IsLeader() {
		return f.nearest(p, offset), nil
	}
	if end := p.End(); offset > end {
		// It was read further somewhere else. Out of range would have the consumer begin anew.
		return noReplica, fmt.Errorf("offset %d of %s-%d, this replica ends at %d: %w", offset, p.Topic(), p.Index(), end, kerr.OffsetNotAvailable)
	}
	return noReplica, nil
}

// nearest is, of the in-sync followers in the consumer's rack that have the offset, the one that has most; noReplica if there is none, or if the leader
// is in that rack.
func (f *fetch) nearest(p *replica.Partition, offset int64) int32 {
	img := f.b.meta.Image()
	if self := img.Broker(f.b.cfg.NodeID); self != nil && self.Rack == f.rack {
		return noReplica
	}
	best, most := int32(noReplica), int64(-1)
	for _, r := range p.Followers() {
		if !r.InSync || r.End < offset || r.LogStart > offset || r.End <= most {
			continue
		}
		if node := img.Broker(r.ID); node != nil && !node.Fenced && node.Rack == f.rack {
			best, most = r.ID, r.End
		}
	}
	return best
}
