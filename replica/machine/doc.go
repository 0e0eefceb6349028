// Package machine has the rules of replication as state machines without clock, disk, network, locks or goroutines: what a leader knows of
// its followers and when the high watermark rises (Leader), what a follower does with a leader's answers (Follower), and which
// leader epoch wrote which offsets (Epochs). Inputs carry the time; outputs say what is to be done. The partitions of package replica drive
// them, and so does a simulator of whole clusters.
//
// # What holds
//
// The high watermark is the smallest durable offset of the in-sync replicas, and of those that are about to be. A replica's durable offset is
// what its own write-ahead log has confirmed: a follower fetches from there, so its fetch is the proof. So a record
// below the high watermark survives the loss of power of all of them together, and any of them can lead.
//
// A follower's log is made a prefix of the leader's by leader epochs alone (KIP-101, KIP-279): offsets say nothing about who wrote them, and high
// watermarks come late. An epoch has one leader, who wrote its offsets in one order. Two logs that agree on the epoch of a batch agree on everything before it.
package machine
