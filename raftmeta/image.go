package raftmeta

import (
	"iter"
	"maps"
	"slices"
)

// Image is the cluster's metadata at one moment. It never changes after it was published; nothing reached from it may be
// modified. A new image shares with its predecessor all that did not change.
type Image struct {
	// Version is the raft index of the last entry that changed the image: equal versions are equal images on every node.
	Version uint64
	// ClusterID is 22 characters of base64url, empty only before the first start has finished.
	ClusterID string
	// ControllerID is the node that leads the metadata as far as this node knows, -1 if it knows none. Not replicated.
	ControllerID int32

	byName     tree[*Topic]
	byID       tree[*Topic]
	byUnified  tree[*Topic] // names with . or _, both written as _: they would collide in metrics
	brokers    []Broker     // by id
	configs    map[Resource]map[string]string
	producerID int64
	partitions int
}

// Topic is one topic. Partitions are indexed by partition number.
type Topic struct {
	Name       string
	ID         [16]byte // version 4 UUID, never zero
	Partitions []Partition
	Configs    map[string]string // overrides only; may be nil
	Internal   bool
}

// Partition says who holds and who leads a partition. Leader is -1 if nobody does. LeaderEpoch rises with every leadership,
// PartitionEpoch with every change. Adding and Removing are part of Replicas, and empty unless the partition is being reassigned.
type Partition struct {
	Leader         int32
	LeaderEpoch    int32
	PartitionEpoch int32
	Replicas       []int32
	ISR            []int32
	Adding         []int32
	Removing       []int32
}

// Broker is a registered broker. Epoch is the raft index of its registration: it tells a restarted broker from its former life.
// A fenced broker leads nothing and clients do not see it; one that is shutting down leads nothing new; one that is leaving is being
// decommissioned: it gets no new replicas, and others take over those that it has.
type Broker struct {
	ID           int32
	Host         string
	Port         int32
	Rack         string
	Epoch        int64
	PeerHost     string // where the other nodes reach it; empty on a single node
	PeerPort     int32
	Incarnation  [16]byte // of its process: a restarted one has another; zero on a single node
	Fenced       bool
	ShuttingDown bool
	Leaving      bool
}

// ResourceType is what a configuration belongs to; the numbers are Kafka's.
type ResourceType int8

const (
	ResourceTopic  ResourceType = 2
	ResourceBroker ResourceType = 4 // name: decimal node id, empty: default of all brokers
	ResourceGroup  ResourceType = 32
)

// Resource names something that has a configuration.
type Resource struct {
	Type ResourceType
	Name string
}

func emptyImage() *Image { return &Image{ControllerID: -1} }

// Topic returns the topic of this name, or nil.
func (img *Image) Topic(name string) *Topic { return img.byName.get(name) }

// TopicByID returns the topic of this id, or nil.
func (img *Image) TopicByID(id [16]byte) *Topic { return img.byID.get(string(id[:])) }

// Topics yields every topic, sorted by name.
func (img *Image) Topics() iter.Seq[*Topic] { return img.byName.all() }

// NumTopics is the number of topics.
func (img *Image) NumTopics() int { return img.byName.len() }

// NumPartitions is the number of partitions of all topics.
func (img *Image) NumPartitions() int { return img.partitions }

// Broker returns the broker of this id, or nil.
func (img *Image) Broker(id int32) *Broker {
	i, ok := slices.BinarySearchFunc(img.brokers, id, func(b Broker, id int32) int { return int(b.ID) - int(id) })
	if !ok {
		return nil
	}
	return &img.brokers[i]
}

// Brokers returns all brokers by id. The slice is shared: read only.
func (img *Image) Brokers() []Broker { return img.brokers }

// NextProducerID is the first producer id that was never handed out.
func (img *Image) NextProducerID() int64 { return img.producerID }

// Config returns the overrides of a resource, nil if it has none. The map is shared: read only.
func (img *Image) Config(resource ResourceType, name string) map[string]string {
	if resource == ResourceTopic {
		if t := img.Topic(name); t != nil {
			return t.Configs
		}
		return nil
	}
	return img.configs[Resource{Type: resource, Name: name}]
}

// resources returns the non-topic resources that have a configuration, in a fixed order.
func (img *Image) resources() []Resource {
	return slices.SortedFunc(maps.Keys(img.configs), compareResources)
}

func compareResources(a, b Resource) int {
	if a.Type != b.Type {
		return int(a.Type) - int(b.Type)
	}
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}
