package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments (key 46) v0. Null topics mean all.

func (a *adminCall) listReassignments(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.ListPartitionReassignmentsRequest)
	wanted := map[string][]int32{}
	for _, t := range r.Topics {
		wanted[t.Topic] = append(wanted[t.Topic], t.Partitions...)
	}
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	for _, m := range a.b.ctl.Reassignments() {
		if r.Topics != nil && !slices.Contains(wanted[m.Topic], m.Partition) {
			continue
		}
		last := len(resp.Topics) - 1
		if last < 0 || resp.Topics[last].Topic != m.Topic {
			resp.Topics = append(resp.Topics, kmsg.ListPartitionReassignmentsResponseTopic{Topic: m.Topic})
			last++
		}
		row := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
		row.Partition, row.Replicas, row.AddingReplicas, row.RemovingReplicas = m.Partition, m.Replicas, m.Adding, m.Removing
		resp.Topics[last].Partitions = append(resp.Topics[last].Partitions, row)
	}
	return resp
}

func listReassignmentsFailed(_ kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	resp.ErrorCode, resp.ErrorMessage = code, message
	return resp
}
