package replica

import (
	"errors"

	"weir/internal/record"
)

var (
	// ErrNotHere: this node has no such partition, or it has just been deleted.
	ErrNotHere = errors.New("partition is not on this node")
	// ErrStorage: the data directory failed; what was not acknowledged may or may not be on disk.
	ErrStorage = errors.New("storage failed")
	// ErrStalled, always with ErrStorage: the disk has not answered for log.dir.stall.ms. What was under way is not acknowledged and may
	// yet be written; if stalls are waited out, appends are taken again when the disk answers.
	ErrStalled = errors.New("disk is stalled")
	// ErrDiskFull: refused before anything was written, because the file system is nearly full.
	ErrDiskFull = errors.New("file system is nearly full")
	// ErrOverloaded: the memory for unflushed data stayed full for as long as the caller would wait.
	ErrOverloaded = errors.New("unflushed data is at its limit")
	// ErrStaleEpoch: the producer's epoch is older than one seen before.
	ErrStaleEpoch = errors.New("producer epoch is fenced")
	// ErrOutOfOrder: an idempotent producer's sequence number leaves a gap.
	ErrOutOfOrder = errors.New("sequence number out of order")
	// ErrTimestamp: a record's timestamp is further from the broker's clock than the topic allows.
	ErrTimestamp = record.ErrTimestamp
	// ErrTooLarge: the batch exceeds the topic's max.message.bytes.
	ErrTooLarge = errors.New("record batch is too large")
	// ErrSegmentSize: the batch does not fit a segment of the topic.
	ErrSegmentSize = errors.New("record batch is larger than a segment")
	// ErrPolicy: the topic's cleanup.policy does not allow what was asked for.
	ErrPolicy = errors.New("not allowed by cleanup.policy")
	// ErrOffsetOutOfRange: a read below the log start or beyond the end.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrNotLeader: another node leads the partition, or none. Whoever waited for an acknowledgement does not know the outcome.
	ErrNotLeader = errors.New("not the leader of the partition")
	// ErrNotReplica: who fetches as a follower is none of the partition's.
	ErrNotReplica = errors.New("not a replica of the partition")
	// ErrNotEnoughReplicas: fewer replicas are in sync than min.insync.replicas; nothing was appended.
	ErrNotEnoughReplicas = errors.New("not enough replicas are in sync")
	// ErrNotEnoughReplicasAfterAppend: the same, but the batch is in the log and may yet be committed.
	ErrNotEnoughReplicasAfterAppend = errors.New("not enough replicas are in sync to acknowledge what was appended")
	// ErrStalePartition: an ISR change was proposed for a state of the partition that is not its present one.
	ErrStalePartition = errors.New("partition epoch is old")
	// ErrSessionLost: the leader does not know the follower's fetch session any more; ask again for everything.
	ErrSessionLost = errors.New("fetch session is not known")
	// ErrFencedEpoch: who asks believes in an older leader epoch than the present one.
	ErrFencedEpoch = errors.New("leader epoch is old")
	// ErrUnknownEpoch: who asks knows of a newer leader epoch than this node.
	ErrUnknownEpoch = errors.New("leader epoch is not known here yet")
)
