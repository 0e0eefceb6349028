package raftmeta

import "fmt"

// Command is one change of the metadata: one of the types of this file. A command is a value; Propose does not keep it.
type Command interface {
	kind() commandKind
	encode(e *encoder)
	// apply changes b, or leaves it as it was and returns a typed error. It must depend on nothing but b and the command:
	// every node applies every command.
	apply(b *builder) Result
}

// Result is the outcome of one command.
type Result struct {
	Err             error  // nil, or one of the errors of errors.go, wrapped
	Topic           *Topic // CreateTopic, SetTopicConfigs, AddPartitions: as it is now; DeleteTopic: as it was
	FirstProducerID int64  // AllocateProducerIDs: the block is [FirstProducerID, FirstProducerID+ProducerIDs)
	ProducerIDs     int64
	BrokerEpoch     int64 // RegisterBroker
}

// CreateTopic makes a topic. Propose fills in what is zero: ID with a random one, Assignment by spreading
// Partitions x ReplicationFactor (default 1) over the registered brokers.
type CreateTopic struct {
	Name              string
	ID                [16]byte
	Partitions        int32 // ignored if Assignment is given
	ReplicationFactor int16
	Assignment        [][]int32 // replicas of each partition, all of them registered brokers
	ISR               [][]int32 // in-sync replicas of each, the first one leads; nil: all replicas
	Configs           map[string]string
	Internal          bool
}

// DeleteTopic deletes the topic of this Name or, if Name is empty, of this ID.
type DeleteTopic struct {
	Name string
	ID   [16]byte
}

// SetTopicConfigs changes a topic's overrides: with Replace they become Set, else Set is added and Remove taken away.
type SetTopicConfigs struct {
	Topic   string
	Set     map[string]string
	Remove  []string
	Replace bool
}

// SetConfigs is SetTopicConfigs for resources other than topics.
type SetConfigs struct {
	Resource Resource
	Set      map[string]string
	Remove   []string
	Replace  bool
}

// AddPartitions appends partitions to a topic until it has Total. Propose fills in a missing Assignment, which
// holds the new partitions only, as does ISR (nil: all replicas).
type AddPartitions struct {
	Topic      string
	Total      int32
	Assignment [][]int32
	ISR        [][]int32
}

// RegisterBroker makes a broker known or replaces what was known of it. The same Incarnation again, if it is not zero, keeps its epoch
// and whether it is fenced; else the broker gets a new epoch and is fenced as this says.
type RegisterBroker struct {
	ID          int32
	Host        string
	Port        int32
	Rack        string
	PeerHost    string
	PeerPort    int32
	Incarnation [16]byte
	Fenced      bool
}

// SetBroker changes the state of a broker, if Epoch is the one it registered with; else ErrStaleBroker.
type SetBroker struct {
	ID           int32
	Epoch        int64
	Fenced       bool
	ShuttingDown bool
}

// SetLeaving says whether a broker is being decommissioned.
type SetLeaving struct {
	ID      int32
	Leaving bool
}

// LeaderSame, as ChangePartition.Leader, leaves the leader as it is.
const LeaderSame int32 = -2

// ChangePartition changes who leads, holds and keeps up with a partition, if PartitionEpoch is the present one; else
// ErrStalePartition. A list that is nil stays as it is, an empty one that is not nil becomes empty. A change raises the
// partition epoch; one that changes nothing is no error and raises nothing.
type ChangePartition struct {
	TopicID        [16]byte
	Partition      int32
	PartitionEpoch int32 // expected
	Leader         int32 // LeaderSame, -1 for none, or a member of the ISR; another leader raises the leader epoch
	NewEpoch       bool  // raise the leader epoch though the leader stays
	ISR            []int32
	Replicas       []int32
	Adding         []int32
	Removing       []int32
}

// UnregisterBroker forgets a broker that holds no replica.
type UnregisterBroker struct{ ID int32 }

// AllocateProducerIDs hands a block of producer ids to a broker. Count 0 means ProducerIDBlock.
type AllocateProducerIDs struct {
	Broker int32
	Count  int32
}

// SetClusterID names the cluster, once.
type SetClusterID struct{ ID string }

// ProducerIDBlock is how many producer ids a broker gets at a time.
const ProducerIDBlock = 1000

// commandKind is a command's number in the log. Numbers are never reused.
type commandKind uint16

const (
	kindSetClusterID commandKind = iota + 1
	kindRegisterBrokerV1
	kindUnregisterBroker
	kindCreateTopicV1
	kindDeleteTopic
	kindSetTopicConfigs
	kindSetConfigs
	kindAddPartitionsV1
	kindAllocateProducerIDs
	kindRegisterBroker // the bodies of kindRegisterBrokerV1 and the like could not take what was added
	kindCreateTopic
	kindAddPartitions
	kindSetBroker
	kindChangePartition
	kindSetLeaving
)

// commandType is a row of the table of all commands.
type commandType struct {
	name   string
	decode func(d *decoder) Command
	old    bool // found in logs, but written as another number now
}

// commandTypes is the one table of commands; the enumeration test walks it.
var commandTypes = map[commandKind]commandType{
	kindSetClusterID:        {name: "SetClusterID", decode: decodeSetClusterID},
	kindRegisterBrokerV1:    {name: "RegisterBroker", decode: decodeRegisterBrokerV1, old: true},
	kindUnregisterBroker:    {name: "UnregisterBroker", decode: decodeUnregisterBroker},
	kindCreateTopicV1:       {name: "CreateTopic", decode: decodeCreateTopicV1, old: true},
	kindDeleteTopic:         {name: "DeleteTopic", decode: decodeDeleteTopic},
	kindSetTopicConfigs:     {name: "SetTopicConfigs", decode: decodeSetTopicConfigs},
	kindSetConfigs:          {name: "SetConfigs", decode: decodeSetConfigs},
	kindAddPartitionsV1:     {name: "AddPartitions", decode: decodeAddPartitionsV1, old: true},
	kindAllocateProducerIDs: {name: "AllocateProducerIDs", decode: decodeAllocateProducerIDs},
	kindRegisterBroker:      {name: "RegisterBroker", decode: decodeRegisterBroker},
	kindCreateTopic:         {name: "CreateTopic", decode: decodeCreateTopic},
	kindAddPartitions:       {name: "AddPartitions", decode: decodeAddPartitions},
	kindSetBroker:           {name: "SetBroker", decode: decodeSetBroker},
	kindChangePartition:     {name: "ChangePartition", decode: decodeChangePartition},
	kindSetLeaving:          {name: "SetLeaving", decode: decodeSetLeaving},
}

func (k commandKind) String() string {
	if t, ok := commandTypes[k]; ok {
		return t.name
	}
	return fmt.Sprintf("command %d", uint16(k))
}

func (SetClusterID) kind() commandKind        { return kindSetClusterID }
func (RegisterBroker) kind() commandKind      { return kindRegisterBroker }
func (UnregisterBroker) kind() commandKind    { return kindUnregisterBroker }
func (CreateTopic) kind() commandKind         { return kindCreateTopic }
func (DeleteTopic) kind() commandKind         { return kindDeleteTopic }
func (SetTopicConfigs) kind() commandKind     { return kindSetTopicConfigs }
func (SetConfigs) kind() commandKind          { return kindSetConfigs }
func (AddPartitions) kind() commandKind       { return kindAddPartitions }
func (AllocateProducerIDs) kind() commandKind { return kindAllocateProducerIDs }
func (SetBroker) kind() commandKind           { return kindSetBroker }
func (ChangePartition) kind() commandKind     { return kindChangePartition }
func (SetLeaving) kind() commandKind          { return kindSetLeaving }
