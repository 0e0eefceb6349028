package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir/bench/load"
	"weir/bench/result"
	"weir/bench/server"
)

// bench cluster: three nodes on 127.0.0.1 to 127.0.0.3, every partition on all three, acks=all, min.insync.replicas 2; and the same loads on one node, so that
// the price of replication is seen. What was acknowledged is read back after each run.

const (
	clusterNodes = 3
	clusterBase  = "1kb-3p"
)

// threeNodes is what they do. The names with 3p are this suite's own.
var threeNodes = suite{base: clusterBase, list: clusterWorkloads()}

func clusterWorkloads() []workload {
	paced := func(share float64) load.Batched {
		return load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, RateShare: share}
	}
	list := []workload{
		{name: clusterBase, partitions: 3, load: batched(1024, 4), about: "1 KiB records to 3 partitions (OpenMessaging 1-topic-3-partitions-1kb), batched by 4 franz-go producers at full speed."},
		{name: "1kb-16p", partitions: 16, load: batched(1024, 4), about: "OpenMessaging 1-topic-16-partitions-1kb: 4 franz-go producers."},
		{name: "100b-3p", partitions: 3, load: batched(100, 4), about: "100 B records to 3 partitions, batched by 4 franz-go producers at full speed."},
	}
	for _, n := range []int{1, 16, 64, 128} {
		list = append(list, workload{
			name: fmt.Sprintf("100b-3p-sync-%d", n), partitions: 3, load: load.Sync{RecordBytes: 100, Clients: n},
			about: fmt.Sprintf("100 B unbatched to 3 partitions: %d synchronous franz-go producers, each with one record under way on a connection of its own.", n),
		})
	}
	list = append(list,
		workload{
			name: "100b-3p-sync-64-preencoded", partitions: 3, load: preencoded(100, 1, 64, 1),
			about: "64 of them with pre-encoded requests on plain connections: the client costs next to nothing.",
		},
		workload{
			name: "e2e-3p-10", partitions: 3, consumes: true, share: true, load: load.EndToEnd{Produce: paced(0.1), Consumers: 1},
			about: "End to end at 10 % of the server's own " + clusterBase + " rate: from when a record was due until a franz-go consumer has it.",
		},
		workload{
			name: "e2e-3p-50", partitions: 3, consumes: true, share: true, load: load.EndToEnd{Produce: paced(0.5), Consumers: 1},
			about: "The same at 50 %.",
		},
		workload{
			name: "tail-3p", partitions: 3, consumes: true, share: true, load: load.EndToEnd{Produce: paced(0.3), Consumers: 2},
			about: "Tail consume: two franz-go consumers read everything that is produced at 30 % of the server's own " + clusterBase + " rate.",
		},
		workload{
			name: "100b-1p-sync-64", partitions: 1, extra: true, load: load.Sync{RecordBytes: 100, Clients: 64},
			about: "64 synchronous franz-go producers on one partition: one node leads and two follow, so that their profiles tell the two apart.",
		},
		workload{
			name: "1kb-1p", partitions: 1, extra: true, load: batched(1024, 4), about: "OpenMessaging 1-topic-1-partition-1kb: 4 franz-go producers.",
		},
		workload{
			name: "e2e-3p-5k", partitions: 3, extra: true, consumes: true,
			load:  load.EndToEnd{Produce: load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, Rate: 5000}, Consumers: 1},
			about: "End to end at 5,000 messages a second, the same for every server.",
		},
	)
	return list
}

// The short form: enough to see that everything works and roughly where it stands.
const (
	quickWorkloads = "100b-3p-sync-64," + clusterBase + ",e2e-3p-10"
	quickServers   = "weir-3,weir-1,kafka-3"
	quickDuration  = 4 * time.Second
	quickWarmup    = 5 * time.Second
)

// quicken fills in the short form's sizes where the command line says nothing else.
func (o *options) quicken(flags *flag.FlagSet) {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["rounds"] {
		o.rounds = 1
	}
	if !given["duration"] {
		o.duration = quickDuration
	}
	if !given["warmup"] {
		o.warmup = quickWarmup
	}
	if !given["workloads"] && !given["only"] {
		o.workloads = quickWorkloads
	}
	if !given["servers"] {
		o.servers = quickServers
	}
}

// clusterServers builds or fetches what bench cluster measures.
func clusterServers(o options, bins string, file *result.File) ([]server.Spec, error) {
	l := serverList{wanted: o.servers, file: file}
	if l.wants("weir-3") || l.wants("weir-1") {
		bin := o.weirBin
		if bin == "" {
			var err error
			if bin, err = server.Build(o.root, "./cmd/weir", bins); err != nil {
				return nil, err
			}
		}
		l.add("weir-3", server.WeirCluster(bin, clusterNodes), file.Commit)
		if o.against != "" {
			l.add("weir-3-before", server.WeirCluster(o.against, clusterNodes), o.against)
		}
		l.add("weir-1", server.Weir(bin), file.Commit)
	}
	if l.wants("kafka-3") || l.wants("kafka-3-flush") || l.wants("kafka-1") {
		lib, version, err := server.KafkaJars(filepath.Join(o.root, "bench", "peers", "kafka"))
		if err != nil {
			file.Missing["kafka-3"] = err.Error()
			fmt.Fprintln(os.Stderr, "without Apache Kafka:", err)
		} else {
			l.add("kafka-3", server.KafkaCluster(lib, false, clusterNodes), "Apache Kafka "+version)
			l.add("kafka-3-flush", server.KafkaCluster(lib, true, clusterNodes), "Apache Kafka "+version)
			if o.servers != "" { // on request
				l.add("kafka-1", server.Kafka(lib, false), "Apache Kafka "+version)
			}
		}
	}
	return l.found("cluster")
}
