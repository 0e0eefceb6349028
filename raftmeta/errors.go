package raftmeta

import (
	"errors"
	"fmt"
	"time"
)

// Outcomes of a single command, in Result.Err. They are the same on every node that applies the command.
var (
	// ErrTopicExists: CreateTopic of a name that is taken.
	ErrTopicExists = errors.New("topic already exists")
	// ErrUnknownTopic: no topic has this name or id.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrInvalidTopic: the name is empty, too long, has a character that Kafka forbids, or collides with another name in metrics.
	ErrInvalidTopic = errors.New("invalid topic name")
	// ErrInvalidPartitions: the number of partitions is out of range.
	ErrInvalidPartitions = errors.New("invalid number of partitions")
	// ErrInvalidReplication: a replica list is empty, has duplicates, or asks for more brokers than there are.
	ErrInvalidReplication = errors.New("invalid replication")
	// ErrInvalidConfig: a configuration name or value is out of bounds.
	ErrInvalidConfig = errors.New("invalid configuration")
	// ErrInvalidBroker: a broker's id, host or port is out of range.
	ErrInvalidBroker = errors.New("invalid broker")
	// ErrStaleBroker: the broker has registered again since.
	ErrStaleBroker = errors.New("stale broker epoch")
	// ErrStalePartition: the partition has changed since.
	ErrStalePartition = errors.New("stale partition epoch")
	// ErrInvalidCommand: the command contradicts itself or the cluster (see the text).
	ErrInvalidCommand = errors.New("invalid command")
)

// Failures of Propose as a whole.
var (
	// ErrNotLeader: this node is not the controller; nothing was done.
	ErrNotLeader = errors.New("not the controller")
	// ErrLeadershipLost: the commands may or may not take effect.
	ErrLeadershipLost = errors.New("controller role lost while the change was under way")
	// ErrBackpressure: too many proposals are under way or the log cannot be shortened; nothing was done.
	ErrBackpressure = errors.New("metadata log is overloaded")
	// ErrTooLarge: the commands of one Propose do not fit an entry; nothing was done.
	ErrTooLarge = errors.New("metadata change too large")
	// ErrTimeout: not done within Options.ProposeTimeout; the commands may or may not take effect.
	ErrTimeout = errors.New("metadata change timed out")
	// ErrPoisoned: the metadata log could not be written; the process has to be restarted on a good disk.
	ErrPoisoned = errors.New("metadata log is poisoned")
	// ErrStoreTimeout: a log write was not durable in time.
	ErrStoreTimeout = errors.New("metadata log write timed out")
	// ErrUnknownMember: no node of the quorum has this id.
	ErrUnknownMember = errors.New("not a member of the metadata quorum")
	// ErrAlone: the node has no way to others.
	ErrAlone = errors.New("node is not part of a cluster")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("metadata is closed")
)

// Failures of Open.
var (
	// ErrWrongNode: the directory belongs to another node id.
	ErrWrongNode = errors.New("data directory belongs to another node")
	// ErrWrongCluster: the directory belongs to another cluster.
	ErrWrongCluster = errors.New("data directory belongs to another cluster")
	// ErrCorrupt: bytes on disk are not what was written there.
	ErrCorrupt = errors.New("metadata is corrupt")
	// ErrVersion: written by a version of Weir that this one does not understand.
	ErrVersion = errors.New("unsupported metadata version")
)

// timeoutError is an ErrTimeout that is made for each wait, most of which end well: so its text is made when it is read.
type timeoutError struct {
	what  string
	after time.Duration
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("%s%s after %s", ErrTimeout, e.what, e.after)
}

func (e *timeoutError) Unwrap() error { return ErrTimeout }
