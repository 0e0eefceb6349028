// Package group is Kafka's group coordinator for the classic protocol: who is in a group, which generation it
// is in, and which offsets it has committed, stored in __consumer_offsets in Kafka's own records.
//
// A group is a pure state machine (group.go and the files named after its inputs: join.go, sync.go, heartbeat.go,
// leave.go, commit.go, expire.go). A transition reads the request and the time it was handed, changes the group, and
// puts what must happen outside into an effects value: replies, timers, appends. It does no I/O, reads no clock,
// starts no goroutine.
//
// A shard owns the groups of one partition of __consumer_offsets under one mutex: it runs transitions one after the other and
// carries out their effects. Appends are handed to Storage under that mutex, so that records are in the log in the order of
// the transitions; replies run after it is released. The completion of an append is a transition like any other.
//
// All groups share one timing structure: a heap with a single clock timer (timers.go). An idle coordinator arms nothing.
//
// Non-obvious:
//   - What a client is told is durable first: a commit is answered, and visible to OffsetFetch, when its record is; an
//     assignment goes to the members when the leader's SyncGroup is stored.
//   - Joining changes memory only. After a crash the group is what the last SyncGroup (or the last member's
//     leaving) stored; members of a rebalance that was under way are told UNKNOWN_MEMBER_ID and join again.
//   - A commit in flight is counted in group.inflight: a group or topic that is deleted meanwhile must put a tombstone behind
//     it, or the commit would bring the group back at the next start.
//
// Lock order: shard.mu, then timerQueue.mu. completions.mu is a leaf. No lock is held while a reply runs.
package group
