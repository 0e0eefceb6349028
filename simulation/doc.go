// Package simulation runs whole clusters of the pure state machines - the controller's (controller/machine), the leaders' and followers'
// (replica/machine), the metadata's (raftmeta.Apply) - with a clock, a network and disks that are simulated, through crashes, stalls,
// partitions and changes of the controller. One seed is one history: it prints first and replays identically.
//
// What is simulated is the cluster's protocol, not the code around the machines: raft is a log with one leader at a time that needs a majority,
// a disk is a log of which a crash keeps what was flushed and any part of the rest. The package has only tests:
//
//	make simulate SEEDS=20000
//	WEIR_SEED=17 go test ./simulation -run TestClusters -v
package simulation
