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
	Assignment        [][]int32 // replicas of each partition; the first one leads
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
// holds the new partitions only.
type AddPartitions struct {
	Topic      string
	Total      int32
	Assignment [][]int32
}

// RegisterBroker makes a broker known or replaces what was known of it, and gives it a new epoch.
type RegisterBroker struct {
	ID   int32
	Host string
	Port int32
	Rack string
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
	kindRegisterBroker
	kindUnregisterBroker
	kindCreateTopic
	kindDeleteTopic
	kindSetTopicConfigs
	kindSetConfigs
	kindAddPartitions
	kindAllocateProducerIDs
)

// commandType is a row of the table of all commands.
type commandType struct {
	name   string
	decode func(d *decoder) Command
}

// commandTypes is the one table of commands; the enumeration test walks it.
var commandTypes = map[commandKind]commandType{
	kindSetClusterID:        {"SetClusterID", decodeSetClusterID},
	kindRegisterBroker:      {"RegisterBroker", decodeRegisterBroker},
	kindUnregisterBroker:    {"UnregisterBroker", decodeUnregisterBroker},
	kindCreateTopic:         {"CreateTopic", decodeCreateTopic},
	kindDeleteTopic:         {"DeleteTopic", decodeDeleteTopic},
	kindSetTopicConfigs:     {"SetTopicConfigs", decodeSetTopicConfigs},
	kindSetConfigs:          {"SetConfigs", decodeSetConfigs},
	kindAddPartitions:       {"AddPartitions", decodeAddPartitions},
	kindAllocateProducerIDs: {"AllocateProducerIDs", decodeAllocateProducerIDs},
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
