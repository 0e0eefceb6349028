package broker

import "weir/replica"

// TopicInfo is a topic as an operator's page shows it.
type TopicInfo struct {
	Name       string
	Internal   bool
	Partitions []PartitionInfo
}

// PartitionInfo is a partition's place and extent; offsets are -1 where another node has it. Bytes counts segments and memory.
type PartitionInfo struct {
	ID, Leader                     int32
	LogStart, HighWatermark, Bytes int64
}

// Topics lists the topics by name. It does no I/O.
func (r *Running) Topics() []TopicInfo {
	var topics []TopicInfo
	for t := range r.b.meta.Image().Topics() {
		info := TopicInfo{Name: t.Name, Internal: t.Internal}
		for i, meta := range t.Partitions {
			row := PartitionInfo{ID: int32(i), Leader: meta.Leader, LogStart: -1, HighWatermark: -1}
			if p := r.b.parts.Partition(t.ID, int32(i)); p != nil {
				row.describe(p)
			}
			info.Partitions = append(info.Partitions, row)
		}
		topics = append(topics, info)
	}
	return topics
}

func (i *PartitionInfo) describe(p *replica.Partition) {
	i.LogStart, i.HighWatermark, i.Bytes = p.LogStart(), p.HighWatermark(), p.Size()
}
