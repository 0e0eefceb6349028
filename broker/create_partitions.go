package broker

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// CreatePartitions (key 37) v0-3. v1 brought quotas' throttle time, v2 flexible encoding, v3 THROTTLING_QUOTA_EXCEEDED (KIP-599), which never
// comes: there are no quotas. All topics of a request are one change of the metadata. What is wrong with a topic is said of it alone, in the words of Kafka's
// controller, and in its order: the topics that can grow as they were named, then those named twice.

// growth is one topic of a request on its way.
type growth struct {
	name string
	cmd  raftmeta.AddPartitions
	err  error
}

func (a *adminCall) createPartitions(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.CreatePartitionsRequest)
	count := map[string]int{}
	for i := range r.Topics {
		count[r.Topics[i].Topic]++
	}
	img := a.b.meta.Image()
	var topics, twice []growth
	for i := range r.Topics {
		t := &r.Topics[i]
		switch count[t.Topic] {
		case 1:
			g := growth{name: t.Topic}
			g.cmd, g.err = planGrowth(img, t)
			topics = append(topics, g)
		case 0: // has its row
		default:
			count[t.Topic] = 0
			twice = append(twice, growth{name: t.Topic, err: refuse(kerr.InvalidRequest, "Duplicate topic name.")})
		}
	}
	if !r.ValidateOnly {
		a.grow(topics)
	}
	return growths(append(topics, twice...))
}

// growths is the answer.
func growths(topics []growth) *kmsg.CreatePartitionsResponse {
	resp := kmsg.NewPtrCreatePartitionsResponse()
	for i := range topics {
		row := kmsg.NewCreatePartitionsResponseTopic()
		row.Topic = topics[i].name
		row.ErrorCode, row.ErrorMessage = metaCode(topics[i].err), message(topics[i].err)
		resp.Topics = append(resp.Topics, row)
	}
	return resp
}

// createPartitionsFailed is the answer with one error for all topics.
func createPartitionsFailed(req kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrCreatePartitionsResponse()
	for _, t := range req.(*kmsg.CreatePartitionsRequest).Topics {
		row := kmsg.NewCreatePartitionsResponseTopic()
		row.Topic, row.ErrorCode, row.ErrorMessage = t.Topic, code, message
		resp.Topics = append(resp.Topics, row)
	}
	return resp
}

// planGrowth checks everything about new partitions that can be known before they are made.
func planGrowth(img *raftmeta.Image, t *kmsg.CreatePartitionsRequestTopic) (raftmeta.AddPartitions, error) {
	cmd := raftmeta.AddPartitions{Topic: t.Topic, Total: t.Count}
	topic := img.Topic(t.Topic)
	if topic == nil {
		return cmd, refuse(kerr.UnknownTopicOrPartition, "%s", kerr.UnknownTopicOrPartition.Description)
	}
	have := int32(len(topic.Partitions))
	switch {
	case topic.Internal: // Kafka does it, and the groups lose their offsets
		return cmd, refuse(kerr.InvalidRequest, "Topic %s is internal: with more partitions groups would be looked for where they are not.", t.Topic)
	case t.Count == have:
		return cmd, refuse(kerr.InvalidPartitions, "Topic already has %d partition(s).", have)
	case t.Count < have:
		return cmd, refuse(kerr.InvalidPartitions, "The topic %s currently has %d partition(s); %d would not be an increase.", t.Topic, have, t.Count)
	case t.Count > raftmeta.PartitionsMax:
		return cmd, tooManyPartitions(t.Topic, t.Count)
	}
	if t.Assignment == nil {
		return cmd, placeable(img, topic)
	}
	if more := t.Count - have; int32(len(t.Assignment)) != more {
		return cmd, refuse(kerr.InvalidReplicaAssignment, "Attempted to add %d additional partition(s), but only %d assignment(s) were specified.",
			more, len(t.Assignment))
	}
	factor := len(topic.Partitions[0].Replicas) - len(topic.Partitions[0].Adding)
	for i := range t.Assignment {
		if err := checkReplicas(img, t.Assignment[i].Replicas, factor); err != nil {
			return cmd, err
		}
		cmd.Assignment = append(cmd.Assignment, t.Assignment[i].Replicas)
	}
	return cmd, nil
}

// placeable says that there are brokers for as many replicas as a topic has.
func placeable(img *raftmeta.Image, t *raftmeta.Topic) error {
	factor := len(t.Partitions[0].Replicas) - len(t.Partitions[0].Adding)
	return enoughBrokers(img, factor)
}

func tooManyPartitions(topic string, n int32) error {
	return refuse(kerr.InvalidPartitions, "Topic %s cannot have %d partitions: at most %d.", topic, n, raftmeta.PartitionsMax)
}

// enoughBrokers refuses a replication factor for which too few brokers take new replicas, or any if none of them lives.
func enoughBrokers(img *raftmeta.Image, factor int) error {
	n, leaving, usable := len(img.Brokers()), 0, 0
	for _, b := range img.Brokers() {
		switch {
		case b.Leaving:
			leaving++
		case !b.Fenced && !b.ShuttingDown:
			usable++
		}
	}
	switch {
	case factor <= n-leaving && usable > 0:
		return nil
	case factor <= n-leaving:
		return refuse(kerr.InvalidReplicationFactor, "Unable to replicate the partition %d time(s): All brokers are currently fenced or in controlled shutdown.", factor)
	}
	note := ""
	if leaving > 0 {
		note = fmt.Sprintf(", and %d of them are being decommissioned", leaving)
	}
	return refuse(kerr.InvalidReplicationFactor, "Unable to replicate the partition %d time(s): The target replication factor "+
		"of %d cannot be reached because only %d broker(s) are registered%s.", factor, factor, n, note)
}

// grow makes the partitions of those topics that have no error yet, and lets those who lead them learn of it.
func (a *adminCall) grow(topics []growth) {
	var cmds []raftmeta.AddPartitions
	for i := range topics {
		if topics[i].err == nil {
			cmds = append(cmds, topics[i].cmd)
		}
	}
	if len(cmds) == 0 {
		return
	}
	results, err := a.b.ctl.AddPartitions(a.ctx, cmds)
	err = a.settled(err)
	var grown []string
	next := 0
	for i := range topics {
		t := &topics[i]
		if t.err != nil {
			continue
		}
		if t.err = err; err != nil {
			continue
		}
		if t.err = results[next].Err; t.err == nil {
			grown = append(grown, t.name)
		}
		next++
	}
	slices.Sort(grown)
	a.logTopics("partitions added", grown)
	a.b.settle(a.ctx, results)
}
