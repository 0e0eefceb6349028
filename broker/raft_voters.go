package broker

import (
	"encoding/base64"
	"net"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/config"
	"weir/raftmeta"
)

// AddRaftVoter (key 80) v0-1 and RemoveRaftVoter (key 81) v0 (KIP-853) change who votes on the metadata. A node becomes a voter once it follows the
// metadata, is heard of and is not far behind: a voter that cannot be reached would count for the majority all the same. For the same reason no voter goes
// if those that stay are not heard of in their majority: nothing could be changed any more, not even that. A node that is not a voter any more
// goes on following. The changes are committed when they are answered, also without AckWhenCommitted (v1, KIP-1186). A node has one data
// directory, the id of which is zero (DescribeQuorum says so): there is no voter of another one.

// voterLagMax is how many entries a node may be behind when it becomes a voter.
const voterLagMax = 1000

func (a *adminCall) addRaftVoter(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.AddRaftVoterRequest)
	err := a.addVoter(r)
	if err == nil {
		a.b.log.Info("voter added", "node", r.VoterID, "peer", a.peer)
	}
	return addRaftVoterFailed(req, metaCode(err), message(err))
}

func (a *adminCall) addVoter(r *kmsg.AddRaftVoterRequest) error {
	if err := a.sameCluster(r.ClusterID); err != nil {
		return err
	}
	q := a.b.meta.Quorum()
	node := memberOf(q.Observers, r.VoterID)
	switch {
	case r.VoterID < 0:
		return refuse(kerr.InvalidRequest, "Voter id %d is negative.", r.VoterID)
	case a.b.beingDecommissioned(r.VoterID):
		return refuse(kerr.InvalidRequest, "Node %d is being decommissioned.", r.VoterID)
	case memberOf(q.Voters, r.VoterID) != nil:
		return refuse(kerr.DuplicateVoter, "Node %d is already a voter.", r.VoterID)
	case r.VoterDirectoryID != [16]byte{}:
		return refuse(kerr.InvalidRequest, "Directory id %s: nodes have one data directory, its id is zero.", directoryID(r.VoterDirectoryID))
	case node == nil:
		return refuse(kerr.InvalidRequest, "Node %d does not follow the metadata yet: start it first with this cluster's seed-nodes.", r.VoterID)
	case !a.heardOf(node):
		return refuse(kerr.RequestTimedOut, "Node %d is not heard of: is it running?", r.VoterID)
	case node.LastIndex+voterLagMax < q.Commit:
		return refuse(kerr.RequestTimedOut, "Node %d has not caught up with the metadata: it is at entry %d of %d.", r.VoterID, node.LastIndex, q.Commit)
	}
	if err := namedAddress(r, node.Addr); err != nil {
		return err
	}
	return a.settled(a.b.meta.AddVoter(a.ctx, r.VoterID, node.Addr))
}

// namedAddress refuses an address that is not the one at which the node follows the metadata; none need be named.
func namedAddress(r *kmsg.AddRaftVoterRequest, addr string) error {
	if len(r.Listeners) == 0 {
		return nil
	}
	for _, l := range r.Listeners {
		if l.Name != listenerPeers {
			continue
		}
		if named := net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port))); named != addr {
			return refuse(kerr.InvalidRequest, "Node %d is at %s, not at %s.", r.VoterID, addr, named)
		}
		return nil
	}
	return refuse(kerr.InvalidRequest, "The request does not include the endpoint of node %d for the listener %s.", r.VoterID, listenerPeers)
}

func directoryID(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// heardOf says that a member has answered lately, and is not known to be gone since.
func (a *adminCall) heardOf(m *raftmeta.Member) bool {
	if m.ID == a.b.cfg.NodeID {
		return true
	}
	if reg := a.b.meta.Image().Broker(m.ID); reg != nil && reg.Fenced {
		return false
	}
	return !m.LastContact.IsZero() && a.b.clk.Now().Sub(m.LastContact) <= config.Millis(a.b.cfg.QuorumFetchTimeoutMs)
}

func addRaftVoterFailed(_ kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrAddRaftVoterResponse()
	resp.ErrorCode, resp.ErrorMessage = code, message
	return resp
}

func (a *adminCall) removeRaftVoter(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.RemoveRaftVoterRequest)
	err := a.removeVoter(r)
	if err == nil {
		a.b.log.Info("voter removed", "node", r.VoterID, "peer", a.peer)
	}
	return removeRaftVoterFailed(req, metaCode(err), message(err))
}

func (a *adminCall) removeVoter(r *kmsg.RemoveRaftVoterRequest) error {
	if err := a.sameCluster(r.ClusterID); err != nil {
		return err
	}
	q := a.b.meta.Quorum()
	voter := memberOf(q.Voters, r.VoterID)
	switch {
	case voter == nil || r.VoterDirectoryID != [16]byte{}:
		return refuse(kerr.VoterNotFound, "Node %d with directory id %s is not a voter.", r.VoterID, directoryID(r.VoterDirectoryID))
	case len(q.Voters) == 1:
		return refuse(kerr.InvalidRequest, "Node %d is the only voter.", r.VoterID)
	}
	if err := a.majorityWithout(r.VoterID); err != nil {
		return err
	}
	if r.VoterID == a.b.cfg.NodeID {
		// Another node takes over first and does it, so that there is no time without a controller.
		err := a.b.meta.TransferLeadership(a.ctx)
		a.moved = err == nil
		return a.settled(err)
	}
	if err := a.b.meta.RemoveMember(a.ctx, r.VoterID); err != nil {
		return a.settled(err)
	}
	if a.b.meta.Image().Broker(r.VoterID) == nil {
		return nil
	}
	// A broker follows the metadata, with or without a vote. If this fails it asks for it itself when it starts again.
	return a.settled(a.b.meta.AddObserver(a.ctx, r.VoterID, voter.Addr))
}

// majorityWithout refuses to take a vote away if the others could decide nothing then. A controller that has just taken office hears of them first.
func (a *adminCall) majorityWithout(node int32) error {
	began, patience := a.b.clk.Now(), config.Millis(a.b.cfg.BrokerSessionTimeoutMs)
	for {
		silent, voters := []int32{}, 0
		for _, m := range a.b.meta.Quorum().Voters {
			if m.ID == node {
				continue
			}
			if voters++; !a.heardOf(&m) {
				silent = append(silent, m.ID)
			}
		}
		if voters-len(silent) > voters/2 {
			return nil
		}
		if a.b.clk.Now().Sub(began) > patience || !pause(a.ctx, a.b, joinRetry) {
			return refuse(kerr.InvalidRequest, "Without node %d there are %d voters, and %v of them are not heard of: no majority could decide anything. "+
				"Start them, or remove them first.", node, voters, silent)
		}
	}
}

func removeRaftVoterFailed(_ kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrRemoveRaftVoterResponse()
	resp.ErrorCode, resp.ErrorMessage = code, message
	return resp
}

// sameCluster refuses a request that names another cluster.
func (a *adminCall) sameCluster(id *string) error {
	if have := a.b.meta.ClusterID(); id != nil && *id != have {
		return refuse(kerr.InconsistentClusterID, "The request is for cluster %s, this is %s.", *id, have)
	}
	return nil
}
