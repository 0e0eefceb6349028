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

func (a *adminCall) createTopics(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	count := map[string]int{}
	for i := range r.Topics {
		count[r.Topics[i].Topic]++
	}
	img := a.b.meta.Image()
	taken := collidingNames(img, r)
	var topics []newTopic
	for i := range r.Topics {
		if t := &r.Topics[i]; count[t.Topic] == 1 {
			n := newTopic{name: t.Topic}
			n.cmd, n.err = a.b.planTopic(img, taken, t)
			n.cmd.ID = a.key.topicID(t.Topic)
			a.adopt(img, &n)
			topics = append(topics, n)
		}
	}
	if !r.ValidateOnly {
		a.createPlanned(topics)
	}
	for i := range topics {
		resp.Topics = append(resp.Topics, a.createdTopic(&topics[i]))
	}
	for i := range r.Topics {
		name := r.Topics[i].Topic
		if count[name] > 1 {
			count[name] = 0 // one row for all of them
			resp.Topics = append(resp.Topics, a.createdTopic(&newTopic{name: name, err: refuse(kerr.InvalidRequest, "Duplicate topic name.")}))
		}
	}
	return resp
}

// createTopicsFailed is the answer with one error for all topics.
func createTopicsFailed(req kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrCreateTopicsResponse()
	for _, t := range req.(*kmsg.CreateTopicsRequest).Topics {
		row := kmsg.NewCreateTopicsResponseTopic()
		row.Topic, row.ErrorCode, row.ErrorMessage = t.Topic, code, message
		row.NumPartitions, row.ReplicationFactor, row.Configs = -1, -1, []kmsg.CreateTopicsResponseTopicConfig{}
		resp.Topics = append(resp.Topics, row)
	}
	return resp
}

// adopt recognises a topic that this request has made already, at an earlier attempt.
func (a *adminCall) adopt(img *raftmeta.Image, n *newTopic) {
	if t := img.Topic(n.name); t != nil && t.ID == a.key.topicID(n.name) {
		n.err, n.result = nil, t
		n.cmd = raftmeta.CreateTopic{Name: t.Name, ID: t.ID, Configs: t.Configs}
		for i := range t.Partitions {
			n.cmd.Assignment = append(n.cmd.Assignment, t.Partitions[i].Replicas)
		}
	}
}

// createPlanned creates the topics that have no error yet, and lets those who lead them learn of it.
func (a *adminCall) createPlanned(topics []newTopic) {
	var cmds []raftmeta.CreateTopic
	for i := range topics {
		if topics[i].err == nil && topics[i].result == nil {
			cmds = append(cmds, topics[i].cmd)
		}
	}
	if len(cmds) == 0 {
		a.settleTopics(topics)
		return
	}
	results, err := a.b.ctl.CreateTopics(a.ctx, cmds)
	err = a.settled(err)
	var made []string
	next := 0
	for i := range topics {
		t := &topics[i]
		if t.err != nil || t.result != nil {
			continue
		}
		if t.err = err; err != nil {
			continue
		}
		if t.err, t.result = results[next].Err, results[next].Topic; t.result != nil {
			made = append(made, t.name)
		} else {
			a.adopt(a.b.meta.Image(), t) // another attempt at this request was faster
		}
		next++
	}
	a.logTopics("topics created", made)
	a.settleTopics(topics)
}

// settleTopics waits for those who lead the topics that were made, now or by an earlier attempt.
func (a *adminCall) settleTopics(topics []newTopic) {
	var made []raftmeta.Result
	for i := range topics {
		if topics[i].result != nil {
			made = append(made, raftmeta.Result{Topic: topics[i].result})
		}
	}
	a.b.settle(a.ctx, made)
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
	if partitions > raftmeta.PartitionsMax {
		return 0, 0, tooManyPartitions(t.Topic, partitions)
	}
	if factor == -1 {
		factor = int16(b.cfg.DefaultReplicationFactor)
	}
	if err := enoughBrokers(img, int(factor)); err != nil {
		return 0, 0, err
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
		switch reg := img.Broker(id); {
		case reg == nil:
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes broker %d, but no such broker is registered.", id)
		case reg.Leaving:
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes broker %d, which is being decommissioned.", id)
		}
	}
	if !slices.ContainsFunc(replicas, func(id int32) bool { return !img.Broker(id).Fenced && !img.Broker(id).ShuttingDown }) {
		return refuse(kerr.InvalidReplicaAssignment, "All brokers specified in the manual partition assignment %v are fenced or in controlled shutdown.", replicas)
	}
	if len(replicas) != count {
		return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), "+
			"but this is not consistent with previous partitions, which have %d replica(s).", len(replicas), count)
	}
	return nil
}

// createdTopic is the row that tells what became of a topic.
func (a *adminCall) createdTopic(n *newTopic) kmsg.CreateTopicsResponseTopic {
	row := kmsg.NewCreateTopicsResponseTopic()
	row.Topic, row.Configs = n.name, []kmsg.CreateTopicsResponseTopicConfig{}
	row.NumPartitions, row.ReplicationFactor = -1, -1
	if n.err != nil {
		row.ErrorCode, row.ErrorMessage = metaCode(n.err), message(n.err)
		a.b.log.Debug("topic not created", "topic", n.name, "error", n.err, "peer", a.peer)
		return row
	}
	row.NumPartitions, row.ReplicationFactor = n.cmd.Partitions, n.cmd.ReplicationFactor
	if replicas := n.cmd.Assignment; replicas != nil {
		row.NumPartitions, row.ReplicationFactor = int32(len(replicas)), int16(len(replicas[0]))
	}
	if n.result != nil { // not only validated
		row.TopicID = n.result.ID
	}
	for _, v := range a.b.cfg.TopicValues(n.cmd.Configs) {
		entry := kmsg.NewCreateTopicsResponseTopicConfig()
		entry.Name, entry.Value = v.Def.Name, shownValue(&v)
		entry.Source, entry.ReadOnly, entry.IsSensitive = int8(configSource(v.Source)), false, v.Def.Sensitive
		row.Configs = append(row.Configs, entry)
	}
	return row
}
