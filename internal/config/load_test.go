package config

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustLoad(t *testing.T, values map[string]string) *Broker {
	t.Helper()
	b, err := LoadBroker(values)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDefaultsServeLocalhost(t *testing.T) {
	b := mustLoad(t, nil)
	if b.KafkaAddr != "127.0.0.1:9092" || b.HTTPAddr != "127.0.0.1:9644" || b.DataDir != "./data" || b.NodeID != 1 {
		t.Errorf("got %s, %s, %s, node %d", b.KafkaAddr, b.HTTPAddr, b.DataDir, b.NodeID)
	}
	host, port := b.Advertised(&net.TCPAddr{Port: 9092})
	if host != "127.0.0.1" || port != 9092 {
		t.Errorf("advertised %s:%d", host, port)
	}
}

// three are seed nodes; the defaults make the first of them.
const three = "1@10.0.0.1:9192,2@10.0.0.2:9192,3@10.0.0.3:9192"

func TestBadConfigurationExplainsItself(t *testing.T) {
	tests := []struct {
		name   string
		values map[string]string
		is     error
		says   []string
	}{
		{"unknown key", map[string]string{"log.segment.byte": "1"}, ErrUnknownKey, []string{`"log.segment.byte"`, `"log.segment.bytes"`}},
		{"swapped letters", map[string]string{"num.partitoins": "1"}, ErrUnknownKey, []string{`"num.partitions"`}},
		{"prefix", map[string]string{"auto.create.topics": "true"}, ErrUnknownKey, []string{`"auto.create.topics.enable"`}},
		{"nothing near", map[string]string{"zookeeper": "x"}, ErrUnknownKey, []string{`"zookeeper"`}},
		{"not a number", map[string]string{"num.partitions": "many"}, ErrBadValue, []string{"num.partitions", `"many"`, "at least 1"}},
		{"too small", map[string]string{"log.segment.bytes": "1000"}, ErrBadValue, []string{"log.segment.bytes", `"1000"`, "at least 1048576"}},
		{"too large for int", map[string]string{"num.partitions": "3000000000"}, ErrBadValue, []string{"3000000000"}},
		{"not a boolean", map[string]string{"delete.topic.enable": "yes"}, ErrBadValue, []string{"true or false"}},
		{"not an address", map[string]string{"kafka-addr": "9092"}, ErrBadValue, []string{"kafka-addr", "host:port"}},
		{"port out of range", map[string]string{"kafka-addr": "127.0.0.1:99999"}, ErrBadValue, []string{"host:port"}},
		{"zero retention", map[string]string{"log.retention.hours": "0"}, ErrBadValue, []string{"log.retention.hours"}},
		{"bad synonym", map[string]string{"log.retention.hours": "x"}, ErrBadValue, []string{"log.retention.hours"}},
		{"wildcard without advertised", map[string]string{"kafka-addr": "0.0.0.0:9092"}, ErrBadValue, []string{"advertised.listeners", "9092"}},
		{"IPv6 wildcard", map[string]string{"kafka-addr": "[::]:9092"}, ErrBadValue, []string{"advertised.listeners"}},
		{"empty host", map[string]string{"kafka-addr": ":9092"}, ErrBadValue, []string{"advertised.listeners"}},
		{"listeners wildcard", map[string]string{"listeners": "PLAINTEXT://:9092"}, ErrBadValue, []string{"advertised.listeners"}},
		{"advertised wildcard", map[string]string{"advertised.listeners": "PLAINTEXT://0.0.0.0:9092"}, ErrBadValue, []string{"advertised.listeners", "wildcard"}},
		{"advertised empty host", map[string]string{"advertised.listeners": "PLAINTEXT://:9092"}, ErrBadValue, []string{"wildcard"}},
		{"advertised long IPv6 wildcard", map[string]string{"advertised.listeners": "PLAINTEXT://[0:0:0:0:0:0:0:0]:9092"}, ErrBadValue, []string{"wildcard"}},
		{"advertised without protocol", map[string]string{"advertised.listeners": "host:9092"}, ErrBadValue, []string{"PLAINTEXT://host:port"}},
		{"TLS listener", map[string]string{"listeners": "SSL://h:9093"}, ErrUnsupported, []string{"not built yet"}},
		{"two listeners", map[string]string{"listeners": "PLAINTEXT://a:1,PLAINTEXT://b:2"}, ErrUnsupported, []string{"one listener"}},
		{"two directories", map[string]string{"log.dirs": "/a,/b"}, ErrUnsupported, []string{"one data directory"}},
		{"contradicting names", map[string]string{"log.dirs": "/a", "data-dir": "/b"}, ErrBadValue, []string{"data-dir", "/a", "/b"}},
		{"wildcard peer address", map[string]string{"peer-addr": "0.0.0.0:9192", "seed-nodes": three}, ErrBadValue, []string{"peer-addr", "wildcard"}},
		{"any peer port", map[string]string{"peer-addr": "10.0.0.1:0", "seed-nodes": three}, ErrBadValue, []string{"peer-addr", "port 0"}},
		{"peer address without seeds", map[string]string{"peer-addr": "10.0.0.1:9192"}, ErrBadValue, []string{"peer-addr", "seed-nodes"}},
		{"seeds without peer address", map[string]string{"seed-nodes": three}, ErrBadValue, []string{"peer-addr", "reach"}},
		{"joiner without peer address", map[string]string{"node.id": "7", "seed-nodes": three}, ErrBadValue, []string{"peer-addr"}},
		{"another peer port", map[string]string{"peer-addr": "10.0.0.1:9193", "seed-nodes": three}, ErrBadValue, []string{"peer-addr", "10.0.0.1:9192"}},
		{"another node's address", map[string]string{"node.id": "7", "peer-addr": "10.0.0.2:9192", "seed-nodes": three}, ErrBadValue, []string{"node.id", "7", "2"}},
		{"malformed seed", map[string]string{"seed-nodes": "a:1"}, ErrBadValue, []string{"id@host:port"}},
		{"wildcard seed", map[string]string{"seed-nodes": "1@:1"}, ErrBadValue, []string{"id@host:port"}},
		{"seed without port", map[string]string{"seed-nodes": "1@a:0"}, ErrBadValue, []string{"id@host:port"}},
		{"seed twice", map[string]string{"seed-nodes": "1@a:1,1@b:1"}, ErrBadValue, []string{"once"}},
		{"seed address twice", map[string]string{"seed-nodes": "1@a:1,2@a:1"}, ErrBadValue, []string{"once"}},
		{"too many seeds", map[string]string{"seed-nodes": "1@a:1,2@a:2,3@a:3,4@a:4,5@a:5,6@a:6,7@a:7,8@a:8,9@a:9,10@a:10"}, ErrBadValue, []string{"at most 9", "join"}},
		{"replication", map[string]string{"default.replication.factor": "3"}, ErrBadValue, []string{"single node"}},
		{"offsets replication", map[string]string{"offsets.topic.replication.factor": "3"}, ErrBadValue, []string{"single node"}},
		{"no replica", map[string]string{"default.replication.factor": "0"}, ErrBadValue, []string{"from 1 to"}},
		{"session too short", map[string]string{"broker.session.timeout.ms": "499"}, ErrBadValue, []string{"broker.heartbeat.interval.ms", "250"}},
		{"fetch longer than lag", map[string]string{"replica.lag.time.max.ms": "499"}, ErrBadValue, []string{"replica.fetch.wait.max.ms", "499"}},
		{"unknown selector", map[string]string{"replica.selector.class": "com.example.Nearest"}, ErrBadValue, []string{"RackAwareReplicaSelector"}},
		{"recompression", map[string]string{"compression.type": "zstd"}, ErrUnsupported, []string{"recompress"}},
		{"unknown codec", map[string]string{"compression.type": "rar"}, ErrBadValue, []string{"zstd"}},
		{"a full map", map[string]string{"log.cleaner.io.buffer.load.factor": "1"}, ErrBadValue, []string{"below 1"}},
		{"no speed", map[string]string{"log.cleaner.io.max.bytes.per.second": "0"}, ErrBadValue, []string{"above 0"}},
		{"lazy flush", map[string]string{"log.flush.interval.messages": "10000"}, ErrUnsupported, []string{"acknowledges"}},
		{"session timeouts", map[string]string{"group.min.session.timeout.ms": "10", "group.max.session.timeout.ms": "9"}, ErrBadValue, []string{"group.max.session.timeout.ms"}},
		{"wal too small", map[string]string{"wal.max.bytes": "67108864"}, ErrBadValue, []string{"wal.file.bytes"}},
		{"wal unaligned", map[string]string{"wal.file.bytes": "5000000"}, ErrBadValue, []string{"multiple of 4096"}},
		{"messages larger than requests", map[string]string{"message.max.bytes": "200000000"}, ErrBadValue, []string{"socket.request.max.bytes"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := LoadBroker(test.values)
			if !errors.Is(err, test.is) {
				t.Fatalf("got %v, want %v", err, test.is)
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}

func TestAdvertised(t *testing.T) {
	tests := []struct {
		values map[string]string
		bound  int
		host   string
		port   int32
	}{
		{map[string]string{"kafka-addr": "127.0.0.1:0"}, 4242, "127.0.0.1", 4242},
		{map[string]string{"kafka-addr": "PLAINTEXT://10.1.2.3:9092"}, 9092, "10.1.2.3", 9092},
		{map[string]string{"kafka-addr": "0.0.0.0:9092", "advertised.listeners": "PLAINTEXT://broker1:19092"}, 9092, "broker1", 19092},
		{map[string]string{"listeners": "PLAINTEXT://:9092", "advertised.listeners": "plaintext://[2001:db8::1]:9092"}, 9092, "2001:db8::1", 9092},
		{map[string]string{"kafka-addr": ":0", "advertised.listeners": "PLAINTEXT://h:0"}, 77, "h", 77},
	}
	for _, test := range tests {
		b := mustLoad(t, test.values)
		if host, port := b.Advertised(&net.TCPAddr{Port: test.bound}); host != test.host || port != test.port {
			t.Errorf("%v: got %s:%d, want %s:%d", test.values, host, port, test.host, test.port)
		}
	}
}

func TestSynonymsInOrder(t *testing.T) {
	tests := []struct {
		values map[string]string
		want   int64
	}{
		{nil, 168 * msPerHour},
		{map[string]string{"log.retention.hours": "1"}, msPerHour},
		{map[string]string{"log.retention.hours": "1", "log.retention.minutes": "7"}, 7 * msPerMinute},
		{map[string]string{"log.retention.hours": "1", "log.retention.minutes": "7", "log.retention.ms": "5"}, 5},
		{map[string]string{"log.retention.hours": "-1"}, -1},
	}
	for _, test := range tests {
		b := mustLoad(t, test.values)
		if b.LogRetentionMs != test.want {
			t.Errorf("%v: got %d, want %d", test.values, b.LogRetentionMs, test.want)
		}
		topic, err := b.ResolveTopic(nil)
		if err != nil || topic.RetentionMs != test.want {
			t.Errorf("%v: topic got %d, want %d (%v)", test.values, topic.RetentionMs, test.want, err)
		}
	}
	if b := mustLoad(t, map[string]string{"log.roll.hours": "2"}); b.LogRollMs != 2*msPerHour {
		t.Errorf("log.roll.hours=2: got %d", b.LogRollMs)
	}
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "num.partitions: 2\nlog.dirs: /file\nlog:\n  segment:\n    bytes: 2097152\n  retention.hours: 3\ncleanup: {}\n")
	if _, err := Load(Sources{File: file}); err == nil {
		t.Error("an unknown empty section was accepted")
	}
	file = writeFile(t, "num.partitions: 2\nlog.dirs: [/file]\nlog:\n  segment:\n    bytes: 2097152\n  retention.hours: 3\nauto.create.topics.enable: false\n")
	b, err := Load(Sources{
		File:  file,
		Env:   []string{"WEIR_NUM_PARTITIONS=3", "WEIR_NODE_ID=7", "WEIR_DATA_DIR=/env", "WEIR_SERVICE_HOST=10.0.0.1", "WEIR_PORT_9092_TCP=x", "PATH=/bin"},
		Flags: map[string]string{"data-dir": "/flag"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.NumPartitions != 3 || b.NodeID != 7 || b.DataDir != "/flag" || b.LogSegmentBytes != 2<<20 || b.LogRetentionMs != 3*msPerHour || b.AutoCreateTopics {
		t.Errorf("got %+v", b)
	}
	set := b.Set()
	if set["data-dir"] != "flag --data-dir" || set["num.partitions"] != "environment variable WEIR_NUM_PARTITIONS" || set["log.segment.bytes"] != file {
		t.Errorf("origins: %v", set)
	}
}

func TestSourcesExplainErrors(t *testing.T) {
	tests := []struct {
		name string
		s    Sources
		says []string
	}{
		{"file missing", Sources{File: "/nowhere/weir.yaml"}, []string{"/nowhere/weir.yaml", "does not exist"}},
		{"file not YAML", Sources{File: writeFile(t, "a: [")}, []string{"weir.yaml"}},
		{"file unknown key", Sources{File: writeFile(t, "node:\n  ids: 1\n")}, []string{"node.ids", `"node.id"`, "weir.yaml"}},
		{"file structure", Sources{File: writeFile(t, "seed-nodes: [{a: 1}]\n")}, []string{"seed-nodes", "list of values"}},
		{"file value", Sources{File: writeFile(t, "node.id: 1.5\n")}, []string{"node.id", "1.5", "weir.yaml"}},
		{"unknown variable", Sources{Env: []string{"WEIR_DATADIR=x"}}, []string{"WEIR_DATADIR", `"WEIR_DATA_DIR"`}},
		{"variable value", Sources{Env: []string{"WEIR_NODE_ID=x"}}, []string{"WEIR_NODE_ID", "node.id"}},
		{"flag value", Sources{Flags: map[string]string{"kafka-addr": "x"}}, []string{"--kafka-addr", "host:port"}},
		{"flag wildcard", Sources{Flags: map[string]string{"kafka-addr": ":9092"}}, []string{"--kafka-addr", "advertised.listeners"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Load(test.s)
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}
