package raftmeta

import (
	"fmt"
	"maps"
)

// imageVersion is the first byte of an encoded image; those from imageVersionMin on are read. See docs/format/metadata.md.
const (
	imageVersion    = 3
	imageVersionMin = 1 // before there were several nodes
)

// snapshotBytesMax bounds a snapshot: some 10 million partitions.
const snapshotBytesMax = 256 << 20

// encodeImage writes the replicated part of an image: equal images are equal bytes.
func encodeImage(img *Image) []byte {
	e := encoder{b: make([]byte, 0, 1024+96*img.NumTopics()+24*img.NumPartitions())}
	e.byte(imageVersion)
	e.uint(img.Version)
	e.string(img.ClusterID)
	e.int(img.producerID)
	e.uint(uint64(len(img.brokers)))
	for _, b := range img.brokers {
		e.int(int64(b.ID))
		e.string(b.Host)
		e.int(int64(b.Port))
		e.string(b.Rack)
		e.int(b.Epoch)
		e.string(b.PeerHost)
		e.int(int64(b.PeerPort))
		e.id(b.Incarnation)
		e.bool(b.Fenced)
		e.bool(b.ShuttingDown)
		e.bool(b.Leaving)
	}
	e.uint(uint64(len(img.configs)))
	for _, r := range img.resources() {
		e.byte(byte(r.Type))
		e.string(r.Name)
		e.pairs(img.configs[r])
	}
	e.uint(uint64(img.NumTopics()))
	for t := range img.Topics() {
		encodeTopic(&e, t)
	}
	return e.b
}

func encodeTopic(e *encoder, t *Topic) {
	e.string(t.Name)
	e.id(t.ID)
	e.bool(t.Internal)
	e.pairs(t.Configs)
	e.uint(uint64(len(t.Partitions)))
	for i := range t.Partitions {
		p := &t.Partitions[i]
		e.int(int64(p.Leader))
		e.int(int64(p.LeaderEpoch))
		e.int(int64(p.PartitionEpoch))
		e.ints(p.Replicas)
		e.ints(p.ISR)
		// Reassignments are rare: a byte says that there is none.
		moving := len(p.Adding)+len(p.Removing) > 0
		e.bool(moving)
		if moving {
			e.ints(p.Adding)
			e.ints(p.Removing)
		}
	}
}

// decodeImage checks what the encoder guarantees, too: order, uniqueness, ids. ControllerID is -1.
func decodeImage(b []byte) (*Image, error) {
	d := &decoder{b: b}
	version := d.byte()
	if d.err == nil && (version < imageVersionMin || version > imageVersion) {
		return nil, fmt.Errorf("%w: snapshot has version %d, want %d to %d", ErrVersion, version, imageVersionMin, imageVersion)
	}
	img := emptyImage()
	img.Version = d.uint()
	img.ClusterID = d.string()
	img.producerID = d.int()
	decodeBrokers(d, img, version)
	decodeConfigs(d, img)
	decodeTopics(d, img, version)
	if err := d.end(); err != nil {
		return nil, err
	}
	return img, nil
}

func decodeBrokers(d *decoder, img *Image, version byte) {
	const brokerBytesMin = 5
	for range d.count(brokerBytesMin) {
		b := Broker{ID: d.int32(), Host: d.string(), Port: d.int32(), Rack: d.string(), Epoch: d.int()}
		if version >= 2 {
			b.PeerHost, b.PeerPort, b.Incarnation, b.Fenced, b.ShuttingDown = d.string(), d.int32(), d.id(), d.bool(), d.bool()
		}
		if version >= 3 {
			b.Leaving = d.bool()
		}
		if n := len(img.brokers); n > 0 && img.brokers[n-1].ID >= b.ID {
			d.fail("broker %d follows %d", b.ID, img.brokers[n-1].ID)
		}
		if d.err != nil {
			return
		}
		img.brokers = append(img.brokers, b)
	}
}

func decodeConfigs(d *decoder, img *Image) {
	const resourceBytesMin = 3
	n := d.count(resourceBytesMin)
	if n == 0 {
		return
	}
	img.configs = make(map[Resource]map[string]string)
	var last Resource
	for i := range n {
		r := Resource{Type: ResourceType(d.byte()), Name: d.string()}
		if i > 0 && compareResources(last, r) >= 0 {
			d.fail("resource %v follows %v", r, last)
		}
		values := d.pairs()
		if d.err == nil && len(values) == 0 {
			d.fail("resource %v has no configuration", r)
		}
		if d.err != nil {
			return
		}
		img.configs[r], last = values, r
	}
}

func decodeTopics(d *decoder, img *Image, version byte) {
	const topicBytesMin = 20
	names, ids, unified := img.byName.txn(), img.byID.txn(), img.byUnified.txn()
	last := ""
	for range d.count(topicBytesMin) {
		t := decodeTopic(d, version)
		if d.err == nil && t.Name <= last {
			d.fail("topic %q follows %q", t.Name, last)
		}
		if d.err == nil && (t.ID == ([16]byte{}) || ids.get(string(t.ID[:])) != nil) {
			d.fail("topic %s has id %s, which is zero or taken", t.Name, FormatID(t.ID))
		}
		if d.err != nil {
			return
		}
		names.set(t.Name, t)
		ids.set(string(t.ID[:]), t)
		if collides(t.Name) {
			unified.set(unify(t.Name), t)
		}
		img.partitions += len(t.Partitions)
		last = t.Name
	}
	img.byName, img.byID, img.byUnified = names.commit(), ids.commit(), unified.commit()
}

func decodeTopic(d *decoder, version byte) *Topic {
	const partitionBytesMin = 5
	t := &Topic{Name: d.string(), ID: d.id(), Internal: d.bool(), Configs: d.pairs()}
	t.Partitions = make([]Partition, d.count(partitionBytesMin))
	for i := range t.Partitions {
		t.Partitions[i] = Partition{Leader: d.int32(), LeaderEpoch: d.int32(), PartitionEpoch: d.int32(), Replicas: d.ints(), ISR: d.ints()}
		if version >= 2 && d.bool() {
			t.Partitions[i].Adding, t.Partitions[i].Removing = d.ints(), d.ints()
		}
		if d.err != nil {
			return t
		}
	}
	return t
}

// equal compares the replicated part of two images.
func (img *Image) equal(other *Image) bool {
	if img.Version != other.Version || img.ClusterID != other.ClusterID || img.producerID != other.producerID {
		return false
	}
	d := diff(img, other)
	d.Controller = false
	return d.Empty() && maps.EqualFunc(img.configs, other.configs, maps.Equal)
}
