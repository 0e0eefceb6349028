package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/netproto"
)

// api is one row of the dispatch table: a Kafka API, the versions served, and what serves it.
// Exactly one of handle, raw and admin is set. handle gets the decoded request; raw decodes by itself (produce and
// fetch, whose records must not be copied); admin serves it on the controller, wherever that is, and fail is the answer that
// tells one error of all that was asked for. They run on the connection's reader goroutine and may answer
// later from any goroutine; a handler that waits for the cluster does so without blocking the reader
// only if it answers asynchronously, and otherwise holds back just its own connection, as Kafka does.
type api struct {
	key      int16
	name     string
	min, max int16
	handle   func(c *call, req kmsg.Request)
	raw      func(c *call)
	admin    adminHandler
	fail     adminFailure
	repeat   repeater // of admin; nil: what may have been done is not sent again
}

// apis is the dispatch table, and the only place that says what Weir serves: ApiVersions answers from
// it. A row appears here when its semantics, errors and limits are done.
var apis []api

func init() {
	apis = []api{
		{key: 0, name: "Produce", min: 3, max: 13, raw: (*call).produce},
		{key: 1, name: "Fetch", min: 4, max: 18, raw: (*call).fetch},
		{key: 2, name: "ListOffsets", min: 1, max: 11, handle: (*call).listOffsets},
		{key: 3, name: "Metadata", min: 0, max: 13, handle: (*call).metadata},
		{key: 8, name: "OffsetCommit", min: 2, max: 10, handle: (*call).offsetCommit},
		{key: 9, name: "OffsetFetch", min: 1, max: 10, handle: (*call).offsetFetch},
		{key: 10, name: "FindCoordinator", min: 0, max: 6, handle: (*call).findCoordinator},
		{key: 11, name: "JoinGroup", min: 2, max: 9, handle: (*call).joinGroup},
		{key: 12, name: "Heartbeat", min: 0, max: 4, handle: (*call).heartbeat},
		{key: 13, name: "LeaveGroup", min: 0, max: 5, handle: (*call).leaveGroup},
		{key: 14, name: "SyncGroup", min: 0, max: 5, handle: (*call).syncGroup},
		{key: 15, name: "DescribeGroups", min: 0, max: 6, handle: (*call).describeGroups},
		{key: 16, name: "ListGroups", min: 0, max: 5, handle: (*call).listGroups},
		{key: 18, name: "ApiVersions", min: 0, max: 4, handle: (*call).apiVersions},
		{key: 19, name: "CreateTopics", min: 2, max: 7, admin: (*adminCall).createTopics, fail: createTopicsFailed, repeat: repeatAsIs},
		{key: 20, name: "DeleteTopics", min: 1, max: 6, admin: (*adminCall).deleteTopics, fail: deleteTopicsFailed, repeat: repeatDeletion},
		{key: 21, name: "DeleteRecords", min: 0, max: 2, handle: (*call).deleteRecords},
		{key: 22, name: "InitProducerId", min: 0, max: 5, handle: (*call).initProducerID},
		{key: 23, name: "OffsetForLeaderEpoch", min: 2, max: 4, handle: (*call).offsetForLeaderEpoch},
		{key: 32, name: "DescribeConfigs", min: 1, max: 4, handle: (*call).describeConfigs},
		{key: 35, name: "DescribeLogDirs", min: 1, max: 5, handle: (*call).describeLogDirs},
		{key: 37, name: "CreatePartitions", min: 0, max: 3, admin: (*adminCall).createPartitions, fail: createPartitionsFailed, repeat: repeatGrowth},
		{key: 42, name: "DeleteGroups", min: 0, max: 2, handle: (*call).deleteGroups},
		{key: 43, name: "ElectLeaders", min: 0, max: 2, admin: (*adminCall).electLeaders, fail: electLeadersFailed, repeat: repeatAsIs},
		{key: 45, name: "AlterPartitionReassignments", min: 0, max: 1, admin: (*adminCall).alterReassignments, fail: alterReassignmentsFailed, repeat: repeatMoves},
		{key: 46, name: "ListPartitionReassignments", min: 0, max: 0, admin: (*adminCall).listReassignments, fail: listReassignmentsFailed, repeat: repeatAsIs},
		{key: 47, name: "OffsetDelete", min: 0, max: 0, handle: (*call).offsetDelete},
		{key: 55, name: "DescribeQuorum", min: 0, max: 2, admin: (*adminCall).describeQuorum, fail: describeQuorumFailed, repeat: repeatAsIs},
		{key: 60, name: "DescribeCluster", min: 0, max: 2, handle: (*call).describeCluster},
		{key: 64, name: "UnregisterBroker", min: 0, max: 0, admin: (*adminCall).unregisterBroker, fail: unregisterBrokerFailed, repeat: repeatUnregistration},
		{key: 80, name: "AddRaftVoter", min: 0, max: 1, admin: (*adminCall).addRaftVoter, fail: addRaftVoterFailed, repeat: repeatNewVoter},
		{key: 81, name: "RemoveRaftVoter", min: 0, max: 0, admin: (*adminCall).removeRaftVoter, fail: removeRaftVoterFailed, repeat: repeatRemoval},
	}
	for i := range apis {
		apisByKey[apis[i].key] = &apis[i]
	}
}

var apisByKey = map[int16]*api{}

// call is one request being served. It lives until reply.
type call struct {
	b *Broker
	r *netproto.Request
	// peer is the node that sent the request over the peer listener, clientPeer for a client's request.
	peer int32
}

// clientPeer is call.peer of a request that came from a client.
const clientPeer int32 = -1

// reply sends the response; exactly once per call, from any goroutine.
func (c *call) reply(resp kmsg.Response) { c.r.RespondKmsg(resp) }
