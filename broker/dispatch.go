package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/netproto"
)

// api is one row of the dispatch table: a Kafka API, the versions served, and what serves it.
// Exactly one of handle and raw is set. handle gets the decoded request; raw decodes by itself (produce and
// fetch, whose records must not be copied). Both run on the connection's reader goroutine and may answer
// later from any goroutine; a handler that waits for the cluster does so without blocking the reader
// only if it answers asynchronously, and otherwise holds back just its own connection, as Kafka does.
type api struct {
	key      int16
	name     string
	min, max int16
	handle   func(c *call, req kmsg.Request)
	raw      func(c *call)
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
		{key: 19, name: "CreateTopics", min: 2, max: 7, handle: (*call).createTopics},
		{key: 20, name: "DeleteTopics", min: 1, max: 6, handle: (*call).deleteTopics},
		{key: 21, name: "DeleteRecords", min: 0, max: 2, handle: (*call).deleteRecords},
		{key: 22, name: "InitProducerId", min: 0, max: 5, handle: (*call).initProducerID},
		{key: 32, name: "DescribeConfigs", min: 1, max: 4, handle: (*call).describeConfigs},
		{key: 35, name: "DescribeLogDirs", min: 1, max: 5, handle: (*call).describeLogDirs},
		{key: 42, name: "DeleteGroups", min: 0, max: 2, handle: (*call).deleteGroups},
		{key: 47, name: "OffsetDelete", min: 0, max: 0, handle: (*call).offsetDelete},
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
}

// reply sends the response; exactly once per call, from any goroutine.
func (c *call) reply(resp kmsg.Response) { c.r.RespondKmsg(resp) }
