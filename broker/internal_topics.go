package broker

import (
	"context"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// reservedTopics are topics of Kafka's own that are not created on a client's word: the features that keep their state in them
// create them, with the configuration they need.
var reservedTopics = map[string]bool{
	"__transaction_state":   true,
	"__share_group_state":   true,
	"__cluster_metadata":    true,
	"__remote_log_metadata": true,
}

// internalTopic reports whether Kafka's clients take a topic of this name for an internal one.
func internalTopic(name string) bool {
	return name == offsetsTopic || name == "__transaction_state" || name == "__share_group_state"
}

// autoCreateOffsets creates the offsets topic for a client that asked for it by name.
func (c *call) autoCreateOffsets() {
	ctx, cancel := context.WithTimeout(c.b.untilStalled(), c.b.requestTimeout())
	defer cancel()
	if err := c.b.ensureOffsetsTopic(ctx); err != nil {
		c.b.faults.Warn("topic was not created automatically", offsetsTopic, "topic", offsetsTopic, "error", err, "peer", c.r.Conn.RemoteAddr())
	}
}

// ensureOffsetsTopic has the controller create __consumer_offsets if it is missing. When it returns nil the topic is known here.
func (b *Broker) ensureOffsetsTopic(ctx context.Context) error {
	if b.meta.Image().Topic(offsetsTopic) != nil {
		return nil
	}
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = offsetsTopic, b.cfg.OffsetsTopicNumPartitions, int16(b.cfg.OffsetsTopicReplicationFactor)
	segmentBytes := strconv.Itoa(b.cfg.OffsetsTopicSegmentBytes)
	for _, c := range []struct{ name, value string }{
		{"cleanup.policy", "compact"}, {"compression.type", "producer"}, {"segment.bytes", segmentBytes},
	} {
		t.Configs = append(t.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: c.name, Value: &c.value})
	}
	if err := b.createTopics(ctx, []kmsg.CreateTopicsRequestTopic{t})[offsetsTopic]; err != nil {
		return fmt.Errorf("create %s: %w", offsetsTopic, err)
	}
	return nil
}
