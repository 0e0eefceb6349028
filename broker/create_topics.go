package broker

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// CreateTopics (key 19) v2-7. v4 brought the broker's defaults for partitions and replication (-1), v5 the topic's configuration in
// the answer (KIP-525), v7 the topic id. However many topics a request has, they are one change of the metadata and one wait.

// newTopic is one topic of a request on its way.
type newTopic struct {
	name   string
	cmd    raftmeta.CreateTopic
	err    error
	result *raftmeta.Topic
}

func (c *call) createTopics(req kmsg.Request) {
	r := req.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	count := map[string]int{}
	for i := range r.Topics {
		count[r.Topics[i].Topic]++
	}
	img := c.b.meta.Image()
	taken := collidingNames(img, r)
	var topics []newTopic
	for i := range r.Topics {
		if t := &r.Topics[i]; count[t.Topic] == 1 {
			n := newTopic{name: t.Topic}
			n.cmd, n.err = c.b.planTopic(img, taken, t)
			topics = append(topics, n)
		}
	}
	if !r.ValidateOnly {
		c.b.createPlanned(topics, r.TimeoutMillis)
		var made []string
		for i := range topics {
			if topics[i].result != nil {
				made = append(made, topics[i].name)
			}
		}
		c.logTopics("topics created", made)
	}
	for i := range topics {
		resp.Topics = append(resp.Topics, c.createdTopic(&topics[i]))
	}
	for i := range r.Topics {
		name := r.Topics[i].Topic
		if count[name] > 1 {
			count[name] = 0 // one row for all of them
			resp.Topics = append(resp.Topics, c.createdTopic(&newTopic{name: name, err: refuse(kerr.InvalidRequest, "Duplicate topic name.")}))
		}
	}
	c.reply(resp)
}

// createPlanned creates the topics that have no error yet.
func (b *Broker) createPlanned(topics []newTopic, timeoutMs int32) {
	var cmds []raftmeta.Command
	for i := range topics {
		if topics[i].err == nil {
			cmds = append(cmds, topics[i].cmd)
		}
	}
	if len(cmds) == 0 {
		return
	}
	results, err := b.propose(timeoutMs, cmds...)
	next := 0
	for i := range topics {
		if topics[i].err != nil {
			continue
		}
		if topics[i].err = err; err == nil {
			topics[i].err, topics[i].result = results[next].Err, results[next].Topic
			next++
		}
	}
}

// unified is a topic's name as metrics show it, where a dot becomes an underscore.
func unified(name string) string { return strings.ReplaceAll(name, ".", "_") }

// collidingNames maps the unified names of the topics there are to their real ones, if the request has a name that could collide.
func collidingNames(img *raftmeta.Image, r *kmsg.CreateTopicsRequest) map[string]string {
	if !slices.ContainsFunc(r.Topics, func(t kmsg.CreateTopicsRequestTopic) bool { return strings.ContainsAny(t.Topic, "._") }) {
		return nil
	}
	taken := map[string]string{}
	for t := range img.Topics() {
		if strings.ContainsAny(t.Name, "._") {
			taken[unified(t.Name)] = t.Name
		}
	}
	return taken
}

// planTopic checks everything about a new topic that can be known before it is made.
func (b *Broker) planTopic(img *raftmeta.Image, taken map[string]string, t *kmsg.CreateTopicsRequestTopic) (raftmeta.CreateTopic, error) {
	cmd := raftmeta.CreateTopic{Name: t.Topic, Internal: internalTopic(t.Topic)}
	if t.Topic == "__cluster_metadata" {
		return cmd, refuse(kerr.InvalidRequest, "Creation of internal topic %s is prohibited.", t.Topic)
	}
	if err := raftmeta.ValidateTopicName(t.Topic); err != nil {
		return cmd, err
	}
	if img.Topic(t.Topic) != nil {
		return cmd, refuse(kerr.TopicAlreadyExists, "Topic '%s' already exists.", t.Topic)
	}
	if other, ok := taken[unified(t.Topic)]; ok {
		return cmd, refuse(kerr.InvalidTopicException, "Topic '%s' collides with existing topic: %s", t.Topic, other)
	}
	var err error
	if cmd.Configs, err = b.topicConfigs(t.Configs); err != nil {
		return cmd, err
	}
	if len(t.ReplicaAssignment) > 0 {
		cmd.Assignment, err = manualAssignment(img, t)
		return cmd, err
	}
	cmd.Partitions, cmd.ReplicationFactor, err = b.spread(img, t)
	return cmd, err
}

// topicConfigs collects the overrides and checks that they can be honoured.
func (b *Broker) topicConfigs(list []kmsg.CreateTopicsRequestTopicConfig) (map[string]string, error) {
	configs := make(map[string]string, len(list))
	var null []string
	for i := range list {
		if list[i].Value == nil {
			null = append(null, list[i].Name)
			continue
		}
		configs[list[i].Name] = *list[i].Value
	}
	if len(null) > 0 {
		return nil, refuse(kerr.InvalidConfig, "Null value not supported for topic configs: %s", strings.Join(null, ","))
	}
	if _, err := b.cfg.ResolveTopic(configs); err != nil {
		return nil, err
	}
	return configs, nil
}

// spread checks the numbers of a topic whose replicas the cluster places, and puts the defaults in.
func (b *Broker) spread(img *raftmeta.Image, t *kmsg.CreateTopicsRequestTopic) (partitions int32, factor int16, err error) {
	partitions, factor = t.NumPartitions, t.ReplicationFactor
	switch {
	case factor < -1 || factor == 0:
		return 0, 0, refuse(kerr.InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value.")
	case partitions < -1 || partitions == 0:
		return 0, 0, refuse(kerr.InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
	}
	if partitions == -1 {
		partitions = b.cfg.NumPartitions
	}
	if factor == -1 {
		factor = int16(b.cfg.DefaultReplicationFactor)
	}
	if n := len(img.Brokers()); int(factor) > n {
		return 0, 0, refuse(kerr.InvalidReplicationFactor, "Unable to replicate the partition %d time(s): The target replication factor "+
			"of %d cannot be reached because only %d broker(s) are registered.", factor, factor, n)
	}
	return partitions, factor, nil
}

// manualAssignment checks the replicas that a client chose, and puts them in order of partitions.
func manualAssignment(img *raftmeta.Image, t *kmsg.CreateTopicsRequestTopic) ([][]int32, error) {
	switch {
	case t.ReplicationFactor != -1:
		return nil, refuse(kerr.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
	case t.NumPartitions != -1:
		return nil, refuse(kerr.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
	}
	assignment := make([][]int32, len(t.ReplicaAssignment))
	first := len(t.ReplicaAssignment[0].Replicas)
	seen := make(map[int32]bool, len(assignment))
	for i := range t.ReplicaAssignment {
		a := &t.ReplicaAssignment[i]
		if seen[a.Partition] {
			return nil, refuse(kerr.InvalidReplicaAssignment, "Found multiple manual partition assignments for partition %d", a.Partition)
		}
		seen[a.Partition] = true
		if err := checkReplicas(img, a.Replicas, first); err != nil {
			return nil, err
		}
		if a.Partition >= 0 && int(a.Partition) < len(assignment) {
			assignment[a.Partition] = a.Replicas
		}
	}
	if slices.ContainsFunc(assignment, func(r []int32) bool { return r == nil }) {
		return nil, refuse(kerr.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence")
	}
	return assignment, nil
}

func checkReplicas(img *raftmeta.Image, replicas []int32, count int) error {
	if len(replicas) == 0 {
		return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes an empty replica list.")
	}
	for i, id := range replicas {
		if slices.Contains(replicas[:i], id) {
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes the broker %d more than once.", id)
		}
		if img.Broker(id) == nil {
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes broker %d, but no such broker is registered.", id)
		}
	}
	if len(replicas) != count {
		return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), "+
			"but this is not consistent with previous partitions, which have %d replica(s).", len(replicas), count)
	}
	return nil
}

// createdTopic is the row that tells what became of a topic.
func (c *call) createdTopic(n *newTopic) kmsg.CreateTopicsResponseTopic {
	row := kmsg.NewCreateTopicsResponseTopic()
	row.Topic, row.Configs = n.name, []kmsg.CreateTopicsResponseTopicConfig{}
	row.NumPartitions, row.ReplicationFactor = -1, -1
	if n.err != nil {
		row.ErrorCode, row.ErrorMessage = metaCode(n.err), message(n.err)
		c.b.log.Debug("topic not created", "topic", n.name, "error", n.err, "peer", c.r.Conn.RemoteAddr())
		return row
	}
	row.NumPartitions, row.ReplicationFactor = n.cmd.Partitions, n.cmd.ReplicationFactor
	if a := n.cmd.Assignment; a != nil {
		row.NumPartitions, row.ReplicationFactor = int32(len(a)), int16(len(a[0]))
	}
	if n.result != nil { // not only validated
		row.TopicID = n.result.ID
	}
	for _, v := range c.b.cfg.TopicValues(n.cmd.Configs) {
		entry := kmsg.NewCreateTopicsResponseTopicConfig()
		entry.Name, entry.Value = v.Def.Name, shownValue(&v)
		entry.Source, entry.ReadOnly, entry.IsSensitive = int8(configSource(v.Source)), false, v.Def.Sensitive
		row.Configs = append(row.Configs, entry)
	}
	return row
}
