package config

import (
	"reflect"
	"testing"
)

func TestSeeds(t *testing.T) {
	parsed := []Seed{{1, "10.0.0.1:9192"}, {2, "10.0.0.2:9192"}, {3, "10.0.0.3:9192"}}
	tests := []struct {
		name      string
		values    map[string]string
		seeds     []Seed
		clustered bool
		offsets   int // offsets.topic.replication.factor
	}{
		{"nothing", nil, nil, false, 1},
		{"itself", map[string]string{"seed-nodes": "1@a:1"}, []Seed{{1, "a:1"}}, false, 1},
		{"itself, with its address", map[string]string{"seed-nodes": "1@a:1", "peer-addr": "a:1"}, []Seed{{1, "a:1"}}, false, 1},
		{"three", map[string]string{"seed-nodes": three, "peer-addr": "10.0.0.1:9192"}, parsed, true, 3},
		{"three, by another name", map[string]string{"seed-nodes": three, "peer-addr": "one.example.com:9192"}, parsed, true, 3},
		{"two", map[string]string{"seed-nodes": "1@a:1,2@[::1]:2", "peer-addr": "a:1"}, []Seed{{1, "a:1"}, {2, "[::1]:2"}}, true, 2},
		{"joins", map[string]string{"node.id": "9", "seed-nodes": three, "peer-addr": "10.0.0.9:9192"}, parsed, true, 3},
		{"joins one", map[string]string{"node.id": "9", "seed-nodes": "1@a:1", "peer-addr": "b:1"}, []Seed{{1, "a:1"}}, true, 1},
		{
			"told otherwise", map[string]string{"seed-nodes": three, "peer-addr": "10.0.0.1:9192", "offsets.topic.replication.factor": "2"},
			parsed, true, 2,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := mustLoad(t, test.values)
			if !reflect.DeepEqual(b.Seeds(), test.seeds) || b.Clustered() != test.clustered || b.OffsetsTopicReplicationFactor != test.offsets {
				t.Errorf("got %v, clustered %v, %d replicas of offsets", b.Seeds(), b.Clustered(), b.OffsetsTopicReplicationFactor)
			}
		})
	}
}

// A default that depends on other keys is shown as the value it is.
func TestDerivedDefaultIsShown(t *testing.T) {
	b := mustLoad(t, map[string]string{"seed-nodes": three, "peer-addr": "10.0.0.1:9192"})
	if v := find(b.Values(), "offsets.topic.replication.factor"); v.Null || v.Value != "3" || v.Source != SourceDefault {
		t.Errorf("got %+v", v)
	}
	b = mustLoad(t, map[string]string{"seed-nodes": three, "peer-addr": "10.0.0.1:9192", "offsets.topic.replication.factor": "1"})
	if v := find(b.Values(), "offsets.topic.replication.factor"); v.Value != "1" || v.Source != SourceStaticBroker || len(v.Synonyms) != 2 {
		t.Errorf("got %+v", v)
	}
}

func TestClusterDefaults(t *testing.T) {
	b := mustLoad(t, nil)
	kafka := []struct {
		key       string
		got, want int64
	}{
		{"replica.lag.time.max.ms", b.ReplicaLagTimeMaxMs, 30000},
		{"replica.fetch.wait.max.ms", b.ReplicaFetchWaitMaxMs, 500},
		{"replica.fetch.min.bytes", int64(b.ReplicaFetchMinBytes), 1},
		{"replica.fetch.max.bytes", int64(b.ReplicaFetchMaxBytes), 1 << 20},
		{"replica.fetch.response.max.bytes", int64(b.ReplicaFetchResponseMaxBytes), 10 << 20},
		{"replica.fetch.backoff.ms", b.ReplicaFetchBackoffMs, 1000},
		{"controller.quorum.election.timeout.ms", b.QuorumElectionTimeoutMs, 1000},
		{"leader.imbalance.check.interval.seconds", b.LeaderImbalanceCheckIntervalSeconds, 300},
		{"leader.imbalance.per.broker.percentage", int64(b.LeaderImbalancePerBrokerPercentage), 10},
	}
	for _, k := range kafka {
		if k.got != k.want {
			t.Errorf("%s: got %d, Kafka has %d", k.key, k.got, k.want)
		}
	}
	if !b.AutoLeaderRebalanceEnable || !b.ControlledShutdownEnable || b.UncleanLeaderElection || b.ReplicaSelectorClass != "" {
		t.Errorf("got %+v", b)
	}
	if v := mustLoad(t, map[string]string{"replica.selector.class": rackAware}).ReplicaSelectorClass; v != rackAware {
		t.Errorf("replica.selector.class: got %q", v)
	}
}
