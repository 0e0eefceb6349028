package machine

import "weir/raftmeta"

// Op is something that is asked of the controller: a pointer to one of the types of this file. An Op and all it refers to belong
// to the machine until it is answered.
type Op interface{ op() }

// Registration makes a broker known. Answer: int64, its epoch. Without a PeerHost the broker is the only node there is: it needs no
// heartbeats and is unfenced at once.
type Registration struct {
	ID          int32
	Host        string
	Port        int32
	Rack        string
	PeerHost    string
	PeerPort    int32
	Incarnation [16]byte
}

// Heartbeat keeps a broker's session. Applied is the version of its image. Answer: HeartbeatAnswer.
type Heartbeat struct {
	Broker       int32
	Epoch        int64
	Applied      uint64
	WantFence    bool
	WantShutdown bool
}

// HeartbeatAnswer tells a broker its state.
type HeartbeatAnswer struct {
	CaughtUp       bool // its image has its registration
	Fenced         bool
	ShouldShutDown bool // nothing is left that could be moved to others
}

// AlterISR is a leader's wish to change in-sync replicas. Answer: []ISRResult, one for each change.
type AlterISR struct {
	Broker      int32
	BrokerEpoch int64
	Changes     []ISRChange
}

// ISRChange is the change of one partition. The epochs are those that the leader knows.
type ISRChange struct {
	TopicID        [16]byte
	Partition      int32
	LeaderEpoch    int32
	PartitionEpoch int32
	ISR            []ISRMember
}

// ISRMember is a replica in sync and the epoch of its registration, -1 if the leader does not know it.
type ISRMember struct {
	ID          int32
	BrokerEpoch int64
}

// ISRResult is the state of a partition after a change, or with Err, as it is. Leader may be another broker than the one that asked,
// without an error: a change that completes a reassignment can move it.
type ISRResult struct {
	Err            error
	ISR            []int32
	Leader         int32
	LeaderEpoch    int32
	PartitionEpoch int32
}

// CreateTopics makes topics and places what has no Assignment. Answer: []raftmeta.Result.
type CreateTopics struct{ Topics []raftmeta.CreateTopic }

// AddPartitions grows topics and places what has no Assignment. Answer: []raftmeta.Result.
type AddPartitions struct{ Topics []raftmeta.AddPartitions }

// DeleteTopics deletes topics. Answer: []raftmeta.Result.
type DeleteTopics struct{ Topics []raftmeta.DeleteTopic }

// Reassign moves partitions to other brokers. Answer: []error, one for each.
type Reassign struct{ Partitions []Reassignment }

// Reassignment asks for a partition's replicas to become Replicas, in this order; nil cancels what is under way.
type Reassignment struct {
	Topic     string
	Partition int32
	Replicas  []int32
}

// Reassigning is a partition on its way to other brokers: Adding and Removing are both in Replicas.
type Reassigning struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
	Replicas  []int32
	Adding    []int32
	Removing  []int32
	ISR       []int32
}

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// ElectLeaders makes preferred replicas leaders, or with Unclean, gives partitions without a leader one, whatever was lost. With nil
// Partitions it is about all, and those that need no election are not in the answer. Answer: []ElectResult.
type ElectLeaders struct {
	Unclean    bool
	Partitions []TopicPartition
}

// ElectResult is the outcome for one partition.
type ElectResult struct {
	Topic     string
	Partition int32
	Err       error
}

// Unregister forgets a broker that holds no replica. Answer: nil.
type Unregister struct{ Broker int32 }

// Decommission has a broker leave: it gets no new replicas, and others take over those that it has, until it holds none and can be
// unregistered. Asked for again it goes on where it is. Answer: DecommissionProgress.
type Decommission struct {
	Broker int32
	// Try only tells what would be done.
	Try bool
	// Cancel ends it: what is still moving off the broker stays there. What has moved is not moved back.
	Cancel bool
}

// DecommissionProgress says how far a broker is from holding nothing.
type DecommissionProgress struct {
	Broker  int32
	Leaving bool
	Started int // partitions that began to move now; with Cancel, that stay now
	Left    int // partitions that it still holds a replica of
	Moving  int // how many of those are on their way to others
	// Stuck is how many have nowhere to go now, because too few brokers are alive; they go when there are more. StuckAt names some of them.
	Stuck   int
	StuckAt []TopicPartition
	// Heirs is how many replicas each broker takes over of those that Started.
	Heirs map[int32]int
}

func (*Registration) op()  {}
func (*Heartbeat) op()     {}
func (*AlterISR) op()      {}
func (*CreateTopics) op()  {}
func (*AddPartitions) op() {}
func (*DeleteTopics) op()  {}
func (*Reassign) op()      {}
func (*ElectLeaders) op()  {}
func (*Unregister) op()    {}
func (*Decommission) op()  {}
