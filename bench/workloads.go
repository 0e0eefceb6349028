package main

import (
	"fmt"
	"strings"

	"weir/bench/load"
)

// workload is one kind of load.
type workload struct {
	name       string
	about      string
	partitions int32
	load       load.Load
	extra      bool // only on request
	consumes   bool // needs a server that stores
	share      bool // runs at a share of the server's maximum, which baseWorkload finds
	preloadMiB int  // data that lies there before; 0 with cold: as the flag says
	cold       bool // not in memory: the server is restarted with an empty page cache
}

// suite is the workloads of a command.
type suite struct {
	base string // its rate is the maximum that others take a share of
	list []workload
}

// baseWorkload is the base of the suite for one node.
const baseWorkload = "1kb-8p"

const kib64 = 64 << 10

func batched(bytes, clients int) load.Batched {
	return load.Batched{RecordBytes: bytes, Clients: clients, BufferedBytes: 8 << 20}
}

func preencoded(bytes, records, connections, inFlight int) load.Preencoded {
	return load.Preencoded{RecordBytes: bytes, BatchRecords: records, Connections: connections, InFlight: inFlight}
}

// oneNode is for servers of one node, in the order they run. Where OpenMessaging has the same, its name is given.
var oneNode = suite{base: baseWorkload, list: append([]workload{
	{name: baseWorkload, about: "1 KiB records to 8 partitions, batched by 2 franz-go producers at full speed.", partitions: 8, load: batched(1024, 2)},
	{
		name: "1kb-8p-preencoded", partitions: 8, load: preencoded(1024, 64, 8, 4),
		about: "The same records in pre-encoded requests of 64 KiB, 8 connections with 4 requests in flight: the client costs next to nothing.",
	},
	{name: "100b-8p", about: "100 B records to 8 partitions, batched by 2 franz-go producers at full speed.", partitions: 8, load: batched(100, 2)},
	{
		name: "100b-sync-64", partitions: 8, load: load.Sync{RecordBytes: 100, Clients: 64},
		about: "100 B unbatched: 64 synchronous franz-go producers, each on its own connection with one record per request.",
	},
	{
		name: "100b-sync-64-preencoded", partitions: 8, load: preencoded(100, 1, 64, 1),
		about: "The same with pre-encoded requests on 64 plain connections: the client costs next to nothing.",
	},
	{
		name: "e2e-10", partitions: 8, consumes: true, share: true,
		load:  load.EndToEnd{Produce: load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, RateShare: 0.1}, Consumers: 1},
		about: "End to end at 10 % of the server's own " + baseWorkload + " rate: from when a record was due until a franz-go consumer has it.",
	},
	{
		name: "e2e-10k", partitions: 8, consumes: true,
		load:  load.EndToEnd{Produce: load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, Rate: 10_000}, Consumers: 1},
		about: "End to end at 10,000 messages a second, the same for every server.",
	},
	{
		name: "tail", partitions: 8, consumes: true, share: true,
		load:  load.EndToEnd{Produce: load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, RateShare: 0.3}, Consumers: 2},
		about: "Tail consume: two franz-go consumers read everything that is produced at 30 % of the server's own " + baseWorkload + " rate.",
	},
	{
		name: "consume-warm", partitions: 8, consumes: true, preloadMiB: 192, load: load.Fetch{Connections: 4, Repeat: true},
		about: "192 MiB that were just produced, read over and over by 4 connections that discard what they get.",
	},
	{
		name: "consume-cold", partitions: 8, consumes: true, cold: true, load: load.Fetch{Connections: 4},
		about: "Read once from the beginning after a restart with an empty page cache.",
	},
}, extras()...)}

// extras are run on request.
func extras() []workload {
	list := []workload{
		{name: "1kb-1p", about: "OpenMessaging 1-topic-1-partition-1kb: 4 franz-go producers.", partitions: 1, load: batched(1024, 4)},
		{name: "1kb-16p", about: "OpenMessaging 1-topic-16-partitions-1kb: 4 franz-go producers.", partitions: 16, load: batched(1024, 4)},
		{name: "1kb-100p", about: "OpenMessaging 1-topic-100-partitions-1kb: 4 franz-go producers.", partitions: 100, load: batched(1024, 4)},
		{name: "1kb-100p-50", about: "1 KiB to 100 partitions by 50 franz-go producers.", partitions: 100, load: batched(1024, 50)},
		{name: "64kb-8p", about: "64 KiB records by 2 franz-go producers.", partitions: 8, load: batched(kib64, 2)},
		{
			name: "e2e-50", partitions: 8, consumes: true, share: true, about: "End to end at 50 % of the " + baseWorkload + " rate.",
			load: load.EndToEnd{Produce: load.Batched{RecordBytes: 1024, Clients: 1, BufferedBytes: 64 << 20, RateShare: 0.5}, Consumers: 1},
		},
	}
	for _, n := range []int{1, 16, 128} {
		list = append(list, workload{
			name: fmt.Sprintf("100b-sync-%d-preencoded", n), partitions: 8, load: preencoded(100, 1, n, 1),
			about: fmt.Sprintf("100 B unbatched: %d connections, each with one pre-encoded request of one record at a time.", n),
		})
	}
	for i := range list {
		list[i].extra = true
	}
	return list
}

// pick returns the workloads that a comma-separated list names, "" the usual ones, "all" every one.
func (s suite) pick(names string) ([]workload, error) {
	var picked []workload
	if names == "" || names == "all" {
		for _, w := range s.list {
			if names == "all" || !w.extra {
				picked = append(picked, w)
			}
		}
		return picked, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		w, ok := s.find(name)
		if !ok {
			var known []string
			for _, w := range s.list {
				known = append(known, w.name)
			}
			return nil, fmt.Errorf("unknown workload %q; known are %s", name, strings.Join(known, ", "))
		}
		picked = append(picked, w)
	}
	return picked, nil
}

func (s suite) find(name string) (workload, bool) {
	for _, w := range s.list {
		if w.name == name {
			return w, true
		}
	}
	return workload{}, false
}

// about describes a workload, whichever suite it is of.
func about(name string) string {
	w, ok := oneNode.find(name)
	if !ok {
		w, _ = threeNodes.find(name)
	}
	return w.about
}
