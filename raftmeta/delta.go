package raftmeta

import "maps"

// Delta is what changed between two images. Several entries that were committed together give one delta with their net effect:
// a topic made and deleted again is in none of the lists. A name that was deleted and made again is in Deleted
// with its old id and in Created with its new one: handle Deleted first.
type Delta struct {
	From, To uint64 // versions of the images before and after; From is 0 in the first delta of a subscription

	Deleted []*Topic // as they were
	Created []*Topic
	Changed []*Topic // as they are now: partitions, leaders or configuration differ

	Brokers        []Broker   // registered anew or changed
	RemovedBrokers []int32    //
	Configs        []Resource // resources other than topics whose configuration differs
	ProducerIDs    bool       // NextProducerID moved
	ClusterID      bool       // the cluster got its id
	Controller     bool       // ControllerID differs
}

// Empty says that nothing changed.
func (d *Delta) Empty() bool {
	return len(d.Deleted) == 0 && len(d.Created) == 0 && len(d.Changed) == 0 && len(d.Brokers) == 0 &&
		len(d.RemovedBrokers) == 0 && len(d.Configs) == 0 && !d.ProducerIDs && !d.ClusterID && !d.Controller
}

// diff computes the delta between two images from scratch: for a new subscriber and for a snapshot installed from
// another node.
func diff(from, to *Image) *Delta {
	d := &Delta{From: from.Version, To: to.Version}
	for t := range from.Topics() {
		if to.TopicByID(t.ID) == nil {
			d.Deleted = append(d.Deleted, t)
		}
	}
	for t := range to.Topics() {
		switch old := from.TopicByID(t.ID); {
		case old == nil:
			d.Created = append(d.Created, t)
		case !sameTopic(old, t):
			d.Changed = append(d.Changed, t)
		}
	}
	for _, b := range from.brokers {
		if to.Broker(b.ID) == nil {
			d.RemovedBrokers = append(d.RemovedBrokers, b.ID)
		}
	}
	for _, b := range to.brokers {
		if old := from.Broker(b.ID); old == nil || *old != b {
			d.Brokers = append(d.Brokers, b)
		}
	}
	d.Configs = diffConfigs(from, to)
	d.ProducerIDs = from.producerID != to.producerID
	d.ClusterID = from.ClusterID != to.ClusterID
	d.Controller = from.ControllerID != to.ControllerID
	return d
}

func diffConfigs(from, to *Image) []Resource {
	var changed []Resource
	for _, r := range to.resources() {
		if !maps.Equal(from.configs[r], to.configs[r]) {
			changed = append(changed, r)
		}
	}
	for _, r := range from.resources() {
		if to.configs[r] == nil {
			changed = append(changed, r)
		}
	}
	return changed
}
