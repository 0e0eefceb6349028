package broker

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/controller"
)

// ElectLeaders (key 43) v0-2. v1 brought the type of election (KIP-460) and a top-level error, v2 flexible encoding. Null topics mean all
// partitions; then those that need no election are not in the answer.

const (
	electPreferred = 0
	electUnclean   = 1
)

func (a *adminCall) electLeaders(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.ElectLeadersRequest)
	if r.ElectionType != electPreferred && r.ElectionType != electUnclean {
		err := refuse(kerr.InvalidRequest, "Unknown election type %d.", r.ElectionType)
		return electLeadersFailed(req, metaCode(err), message(err))
	}
	unclean := r.ElectionType == electUnclean
	var parts []controller.TopicPartition
	if r.Topics != nil {
		parts = []controller.TopicPartition{}
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				parts = append(parts, controller.TopicPartition{Topic: t.Topic, Partition: p})
			}
		}
	}
	results, err := a.b.ctl.ElectLeaders(a.ctx, unclean, parts)
	if err = a.settled(err); err != nil {
		return electLeadersFailed(req, metaCode(err), message(err))
	}
	return electResponse(results, unclean)
}

// electResponse puts the partitions of a topic together, in the order in which they were first named.
func electResponse(results []controller.ElectResult, unclean bool) *kmsg.ElectLeadersResponse {
	resp := kmsg.NewPtrElectLeadersResponse()
	at := map[string]int{}
	for i := range results {
		r := &results[i]
		row := kmsg.NewElectLeadersResponseTopicPartition()
		row.Partition, row.ErrorCode, row.ErrorMessage = r.Partition, electCode(r.Err, unclean), message(r.Err)
		t, ok := at[r.Topic]
		if !ok {
			t = len(resp.Topics)
			at[r.Topic] = t
			resp.Topics = append(resp.Topics, kmsg.ElectLeadersResponseTopic{Topic: r.Topic})
		}
		resp.Topics[t].Partitions = append(resp.Topics[t].Partitions, row)
	}
	return resp
}

// electCode tells apart why there is no leader to be had.
func electCode(err error, unclean bool) int16 {
	if errors.Is(err, controller.ErrNoEligibleLeader) && !unclean {
		return kerr.PreferredLeaderNotAvailable.Code
	}
	return metaCode(err)
}

func electLeadersFailed(req kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrElectLeadersResponse()
	resp.ErrorCode = code
	for _, t := range req.(*kmsg.ElectLeadersRequest).Topics { // v0 has no other place for it
		topic := kmsg.ElectLeadersResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			row := kmsg.NewElectLeadersResponseTopicPartition()
			row.Partition, row.ErrorCode, row.ErrorMessage = p, code, message
			topic.Partitions = append(topic.Partitions, row)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}
