// Package raftmeta keeps the cluster's metadata: brokers, topics, partitions, configurations, producer-id blocks. It is a
// hashicorp/raft state machine whose log lies on a wal of its own.
//
// The walk of a change: Propose encodes the commands of one caller into one raft entry; the leader stores what is waiting as one
// group (store.go); when it is committed, fsm.ApplyBatch applies every command to one builder (builder.go), which yields
// the next immutable Image and the Delta from the one before; the image is published with one atomic store and every
// subscriber is called with the delta; then the callers return. Reading metadata is Meta.Image: one pointer load.
//
// What a failing disk does: a log write that is not durable after Options.StoreTimeout (1 s) fails with ErrStoreTimeout and poisons
// the store for the life of the process. Raft is then shut down, so that this node can neither lead nor vote before a
// restart has proven its disk; Propose fails at once with ErrPoisoned, Image keeps serving what was known. In a cluster the node
// is silent from that moment on, but for a word to another voter to take over.
//
// Several nodes: Options.Sender carries messages to the others, whose HandleRPC answers them (cluster.go, transport.go). Decision
// 0011 says what of hashicorp/raft is helped along, and why.
//
// Files, below Options.Dir (docs/format/metadata.md):
//
//	meta.properties   node id and cluster id: refuses a directory that is not this node's
//	wal/              raft log and stable store
//	snapshots/        images, newest two
//
// Goroutines: those of hashicorp/raft (main, fsm, snapshots, on a leader two per other node), lead (reacts to leadership and poison), snap
// (takes snapshots when the log has grown), identify (until the cluster has its id), and heralds while followers are told of a commit. The wal
// has its committer. Nothing polls. With Options.Threads three of raft's run on OS threads of their own.
package raftmeta
