package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// Metadata (key 3) v0-13. v1 tells "all topics" (null) from "none" (empty), v4 lets a client forbid auto creation, v5 has offline
// replicas, v7 leader epochs, v8 authorized operations, v10 topic ids, v12 requests by id, v13 a top-level error (KIP-1102).

const (
	// topicOperations and clusterOperations are what anybody may do where there is no authorizer, as bits numbered by Kafka's AclOperation.
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12

	// topicIDVersionMin is the first version that may ask by id; in v10 and v11 the fields exist but must not be used.
	topicIDVersionMin = 12
)

func (c *call) metadata(req kmsg.Request) {
	r := req.(*kmsg.MetadataRequest)
	resp := kmsg.NewPtrMetadataResponse()
	if !c.metadataAllowed(r, resp) {
		c.reply(resp)
		return
	}
	all := r.Topics == nil || (r.Version == 0 && len(r.Topics) == 0)
	names, ids := wanted(r)
	if !all && len(ids) == 0 && c.b.cfg.AutoCreateTopics && (r.AllowAutoTopicCreation || r.Version < 4) {
		c.autoCreate(names)
	}
	img := c.b.meta.Image() // after creation, so that the new topics are in it
	resp.Brokers = metadataBrokers(img)
	resp.ControllerID = controllerShown(img)
	if img.ClusterID != "" {
		resp.ClusterID = &img.ClusterID
	}
	m := metadataBuilder{img: img, version: r.Version, operations: r.IncludeTopicAuthorizedOperations}
	switch {
	case all:
		for t := range img.Topics() {
			m.known(t)
		}
	case len(ids) > 0:
		for _, id := range ids {
			m.byID(id)
		}
	default:
		for _, name := range names {
			m.byName(name)
		}
	}
	resp.Topics = m.topics
	if r.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	c.reply(resp)
}

// metadataAllowed refuses a request that names topics in a way its version does not have: every topic gets the error.
func (c *call) metadataAllowed(r *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) bool {
	bad := false
	for i := range r.Topics {
		t := &r.Topics[i]
		bad = bad || r.Version < topicIDVersionMin && (t.Topic == nil || t.TopicID != [16]byte{})
	}
	if !bad {
		return true
	}
	resp.ControllerID = -1
	resp.ErrorCode = kerr.InvalidRequest.Code
	for i := range r.Topics {
		t := kmsg.NewMetadataResponseTopic()
		t.ErrorCode, t.Topic, t.TopicID = kerr.InvalidRequest.Code, r.Topics[i].Topic, r.Topics[i].TopicID
		if t.Topic == nil {
			t.Topic = kmsg.StringPtr("")
		}
		resp.Topics = append(resp.Topics, t)
	}
	return false
}

// wanted lists the distinct names and ids that a request asks for. As in Kafka, names do not count once there is an id.
func wanted(r *kmsg.MetadataRequest) (names []string, ids [][16]byte) {
	seenNames := make(map[string]bool, len(r.Topics))
	seenIDs := map[[16]byte]bool{}
	for i := range r.Topics {
		t := &r.Topics[i]
		switch {
		case t.TopicID != [16]byte{}:
			if !seenIDs[t.TopicID] {
				seenIDs[t.TopicID] = true
				ids = append(ids, t.TopicID)
			}
		case t.Topic != nil && !seenNames[*t.Topic]:
			seenNames[*t.Topic] = true
			names = append(names, *t.Topic)
		}
	}
	return names, ids
}

// autoCreate creates the topics that are missing, all with one change of the metadata. What fails shows in the answer as
// an unknown topic, and the client asks again.
func (c *call) autoCreate(names []string) {
	img := c.b.meta.Image()
	var topics []kmsg.CreateTopicsRequestTopic
	for _, name := range names {
		if img.Topic(name) != nil || raftmeta.ValidateTopicName(name) != nil || reservedTopics[name] {
			continue
		}
		if name == offsetsTopic {
			c.autoCreateOffsets()
			continue
		}
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, -1, -1
		topics = append(topics, t)
	}
	if len(topics) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(c.b.untilStalled(), c.b.requestTimeout())
	defer cancel()
	var failed error
	for name, err := range c.b.createTopics(ctx, topics) {
		failed = fmt.Errorf("topic %s: %w", name, err)
	}
	if failed != nil {
		c.b.faults.Warn("topics were not created automatically", "", "asked", len(topics), "error", failed, "peer", c.r.Conn.RemoteAddr())
	}
}

// controllerShown is the controller as clients are told: a node that they can reach, -1 if there is none.
func controllerShown(img *raftmeta.Image) int32 {
	if reg := img.Broker(img.ControllerID); reg == nil || reg.Fenced {
		return -1
	}
	return img.ControllerID
}

// metadataBrokers lists the brokers that live.
func metadataBrokers(img *raftmeta.Image) []kmsg.MetadataResponseBroker {
	brokers := make([]kmsg.MetadataResponseBroker, 0, len(img.Brokers()))
	for _, b := range img.Brokers() {
		if b.Fenced {
			continue
		}
		row := kmsg.NewMetadataResponseBroker()
		row.NodeID, row.Host, row.Port = b.ID, b.Host, b.Port
		if b.Rack != "" {
			row.Rack = &b.Rack
		}
		brokers = append(brokers, row)
	}
	return brokers
}

// alive reports whether clients can reach a broker.
func alive(img *raftmeta.Image, id int32) bool {
	reg := img.Broker(id)
	return reg != nil && !reg.Fenced
}

// metadataBuilder collects the topics of an answer.
type metadataBuilder struct {
	img        *raftmeta.Image
	version    int16
	operations bool
	topics     []kmsg.MetadataResponseTopic
}

func (m *metadataBuilder) add(t kmsg.MetadataResponseTopic) { m.topics = append(m.topics, t) }

func (m *metadataBuilder) byID(id [16]byte) {
	if t := m.img.TopicByID(id); t != nil {
		m.known(t)
		return
	}
	row := kmsg.NewMetadataResponseTopic()
	row.ErrorCode, row.TopicID = kerr.UnknownTopicID.Code, id
	m.add(row)
}

func (m *metadataBuilder) byName(name string) {
	if t := m.img.Topic(name); t != nil {
		m.known(t)
		return
	}
	row := kmsg.NewMetadataResponseTopic()
	row.ErrorCode, row.Topic, row.IsInternal = kerr.UnknownTopicOrPartition.Code, &name, internalTopic(name)
	if raftmeta.ValidateTopicName(name) != nil {
		row.ErrorCode = kerr.InvalidTopicException.Code
	}
	if m.operations {
		row.AuthorizedOperations = topicOperations
	}
	m.add(row)
}

func (m *metadataBuilder) known(t *raftmeta.Topic) {
	row := kmsg.NewMetadataResponseTopic()
	row.Topic, row.TopicID, row.IsInternal = &t.Name, t.ID, t.Internal
	row.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, len(t.Partitions))
	for i := range t.Partitions {
		row.Partitions = append(row.Partitions, m.partition(int32(i), &t.Partitions[i]))
	}
	if m.operations {
		row.AuthorizedOperations = topicOperations
	}
	m.add(row)
}

func (m *metadataBuilder) partition(index int32, p *raftmeta.Partition) kmsg.MetadataResponseTopicPartition {
	row := kmsg.NewMetadataResponseTopicPartition()
	row.Partition, row.Leader, row.LeaderEpoch = index, p.Leader, p.LeaderEpoch
	row.Replicas, row.ISR = p.Replicas, p.ISR
	for _, id := range p.Replicas {
		if !alive(m.img, id) {
			row.OfflineReplicas = append(row.OfflineReplicas, id)
		}
	}
	switch {
	case p.Leader < 0 || !alive(m.img, p.Leader):
		row.ErrorCode, row.Leader = kerr.LeaderNotAvailable.Code, -1
	case m.version == 0 && len(row.OfflineReplicas) > 0: // v0 clients do not know replicas without a broker
		row.ErrorCode = kerr.ReplicaNotAvailable.Code
	}
	return row
}
