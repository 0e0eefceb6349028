package broker

import "context"

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
	ctx, cancel := context.WithTimeout(context.Background(), c.b.requestTimeout())
	defer cancel()
	if err := c.b.ensureOffsetsTopic(ctx); err != nil {
		c.b.log.Warn("topic was not created automatically", "topic", offsetsTopic, "error", err, "peer", c.r.Conn.RemoteAddr())
	}
}
