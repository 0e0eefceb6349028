package replica

import (
	"context"
	"time"

	"weir/internal/iobuf"
)

// Source asks other nodes for what they lead. It is the broker's.
type Source interface {
	// Fetch asks a leader for partitions' records and waits for its answer, ask.MaxWait and a margin at the most. The answer must be released. An
	// error is one of the whole request: nothing in it was answered; ErrSessionLost: the leader has forgotten what was asked before. When ctx ends before
	// the leader has answered, Fetch returns at once, and the answer is dropped when it comes. The next ask is Full then, as after every error.
	Fetch(ctx context.Context, leader int32, ask *FetchAsk) (*FetchAnswer, error)
}

// FetchAsk is what a follower asks a leader's node for. It belongs to the caller again when Fetch returns.
type FetchAsk struct {
	MaxWait            time.Duration // for MinBytes to be there
	MinBytes, MaxBytes int           // of the whole answer
	Parts              []AskPart     // what is new, or asked for differently than in the last Fetch to this leader that gave no error
	Forget             []PartKey     // what was in an earlier one and is not followed there any more
	Full               bool          // begin a new session: Parts is everything
}

// PartKey names a partition.
type PartKey struct {
	TopicID [16]byte
	Index   int32
}

// AskPart is one partition of a FetchAsk.
type AskPart struct {
	TopicID       [16]byte
	Topic         string
	Index         int32
	CurrentEpoch  int32 // leader epoch that the follower believes in
	LastEpoch     int32 // of the batch before Offset; -1: the log is empty or it is not known
	Offset        int64 // the follower's durable end: everything below it survives its crash
	LogStart      int64
	HighWatermark int64 // as the follower knows it: the leader answers at once if its own is another
	MaxBytes      int
}

// FetchAnswer is a leader's answer.
type FetchAnswer struct {
	Parts   []AnswerPart
	Buf     *iobuf.Buf // that Records lie in; nil: they are on the heap
	Release func()     // to be called once, when neither Parts nor Records are needed any more; nil: nothing to do
}

// AnswerPart is one partition of an answer. Partitions that have nothing new may be missing.
type AnswerPart struct {
	TopicID             [16]byte
	Index               int32
	Err                 error // one of this package's sentinels
	HighWatermark       int64
	LogStart            int64
	Diverging           *EpochEnd // the logs differ; nil: they do not as far as the leader can tell
	Leader, LeaderEpoch int32     // with ErrNotLeader or ErrFencedEpoch; -1: not known
	Records             []byte    // whole batches; the last may be cut off
}

// EpochEnd says where a leader epoch ends in a log: no record of it lies at or beyond End.
type EpochEnd struct {
	Epoch int32 // -1: not known
	End   int64
}

// Control is the controller as leaders see it. It is the broker's.
type Control interface {
	// AlterISR proposes ISR changes; results are in the order of changes. An error is one of the whole request; whether it was done is unknown.
	AlterISR(ctx context.Context, changes []ISRChange) ([]ISRResult, error)
	// BrokerEpoch is the epoch of a node's present registration, -1 if it has none. It does not block.
	BrokerEpoch(node int32) int64
}

// ISRChange proposes the in-sync replicas of a partition.
type ISRChange struct {
	TopicID                     [16]byte
	Partition                   int32
	LeaderEpoch, PartitionEpoch int32
	ISR                         []ISRMember
}

// ISRMember is a replica in its present life: a restarted broker has another epoch.
type ISRMember struct {
	ID          int32
	BrokerEpoch int64 // -1: not known; then the controller does not check it
}

// ISRResult is what became of an ISRChange.
type ISRResult struct {
	Err                                 error // nil: the state below is what holds now
	ISR                                 []int32
	Leader, LeaderEpoch, PartitionEpoch int32
}

// FollowerFetch is what a follower's fetch tells the leader about it.
type FollowerFetch struct {
	Replica       int32
	BrokerEpoch   int64
	CurrentEpoch  int32 // leader epoch that the follower believes in; -1: not checked
	Offset        int64 // its durable end
	LastEpoch     int32 // epoch of its last batch; -1: none, or not known
	LogStart      int64
	HighWatermark int64
}
