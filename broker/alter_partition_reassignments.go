package broker

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/controller"
)

// AlterPartitionReassignments (key 45) v0-1. v1 lets a client insist on the replication factor as it is (KIP-860). A null list of replicas
// cancels what is under way. The answer comes when the moves have begun; ListPartitionReassignments follows them.

func (a *adminCall) alterReassignments(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.AlterPartitionAssignmentsRequest)
	if value, ok := decommissionField(&r.UnknownTags); ok {
		return a.decommission(r, value)
	}
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.AllowReplicationFactorChange = r.AllowReplicationFactorChange
	var asked []controller.Reassignment
	var rows []*kmsg.AlterPartitionAssignmentsResponseTopicPartition
	resp.Topics = make([]kmsg.AlterPartitionAssignmentsResponseTopic, len(r.Topics))
	for i := range r.Topics {
		t := &r.Topics[i]
		out := &resp.Topics[i]
		out.Topic, out.Partitions = t.Topic, make([]kmsg.AlterPartitionAssignmentsResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p, row := &t.Partitions[j], &out.Partitions[j]
			row.Default()
			row.Partition = p.Partition
			if err := a.factorKept(r, t.Topic, p); err != nil {
				row.ErrorCode, row.ErrorMessage = metaCode(err), message(err)
				continue
			}
			asked = append(asked, controller.Reassignment{Topic: t.Topic, Partition: p.Partition, Replicas: p.Replicas})
			rows = append(rows, row)
		}
	}
	if len(asked) == 0 {
		return resp
	}
	var begun, cancelled []string
	for i, err := range a.b.ctl.Reassign(a.ctx, asked) {
		err = a.settled(err)
		rows[i].ErrorCode, rows[i].ErrorMessage = metaCode(err), message(err)
		name := fmt.Sprintf("%s-%d", asked[i].Topic, asked[i].Partition)
		switch {
		case err != nil:
			a.b.log.Debug("partition reassignment refused", "partition", name, "replicas", asked[i].Replicas, "error", err, "peer", a.peer)
		case asked[i].Replicas == nil:
			cancelled = append(cancelled, name)
		default:
			begun = append(begun, name)
		}
	}
	a.logTopics("partition reassignments begun", begun)
	a.logTopics("partition reassignments cancelled", cancelled)
	return resp
}

// factorKept refuses a change of the number of replicas for a client that does not want one.
func (a *adminCall) factorKept(r *kmsg.AlterPartitionAssignmentsRequest, topic string, p *kmsg.AlterPartitionAssignmentsRequestTopicPartition) error {
	if r.AllowReplicationFactorChange || r.Version < 1 || p.Replicas == nil {
		return nil
	}
	t := a.b.meta.Image().Topic(topic)
	if t == nil || p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
		return nil // the controller says so
	}
	now := &t.Partitions[p.Partition]
	size := 0
	for _, id := range now.Replicas {
		if !slices.Contains(now.Removing, id) {
			size++
		}
	}
	if size != len(p.Replicas) {
		return refuse(kerr.InvalidReplicationFactor, "The replication factor is changed from %d to %d", size, len(p.Replicas))
	}
	return nil
}

func alterReassignmentsFailed(_ kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.ErrorCode, resp.ErrorMessage = code, message
	return resp
}
