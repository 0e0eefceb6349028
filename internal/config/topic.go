package config

import (
	"maps"
	"slices"
	"strings"
)

// Topic is the resolved configuration of one topic: its own override, else the broker's value, else the default. Fields
// are named after their keys. It is immutable.
type Topic struct {
	SegmentBytes                int
	SegmentMs                   int64
	SegmentJitterMs             int64
	SegmentIndexBytes           int
	RetentionMs                 int64 // -1: for ever
	RetentionBytes              int64 // -1: no limit
	CleanupPolicy               []string
	CompressionType             string
	CompressionGzipLevel        int
	CompressionLz4Level         int
	CompressionZstdLevel        int
	MaxMessageBytes             int
	MinInsyncReplicas           int
	MessageTimestampType        string // CreateTime or LogAppendTime
	MessageTimestampBeforeMaxMs int64
	MessageTimestampAfterMaxMs  int64
	FlushMessages               int64
	FlushMs                     int64
	IndexIntervalBytes          int
	FileDeleteDelayMs           int64
	DeleteRetentionMs           int64
	MinCleanableDirtyRatio      float64
	MinCompactionLagMs          int64
	MaxCompactionLagMs          int64
	Preallocate                 bool
	UncleanLeaderElection       bool

	Delete  bool // cleanup.policy has delete
	Compact bool // cleanup.policy has compact
}

// LogAppendTime: records get the broker's time.
func (t *Topic) LogAppendTime() bool { return t.MessageTimestampType == "LogAppendTime" }

// ResolveTopic returns the configuration of a topic with these overrides. An unknown key, a bad value and one that
// this version cannot honour are errors (ErrUnknownKey, ErrBadValue, ErrUnsupported).
func (b *Broker) ResolveTopic(overrides map[string]string) (*Topic, error) {
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		k, ok := topicByName[name]
		if !ok {
			return nil, &UnknownKeyError{Key: name, Nearest: Nearest(name, topicNames)}
		}
		if err := k.Validate(overrides[name]); err != nil {
			return nil, err
		}
	}
	t := new(Topic)
	for i := range topicTable {
		k := &topicTable[i]
		if k.field == nil {
			continue
		}
		value, ok := overrides[k.Name]
		if !ok {
			value = k.base(b)
		}
		store(k.field(t), k.Type, value)
	}
	if t.MinCompactionLagMs > t.MaxCompactionLagMs {
		return nil, &ValueError{
			Key: "min.compaction.lag.ms", Value: i64(t.MinCompactionLagMs),
			Expected: "at most max.compaction.lag.ms, which is " + i64(t.MaxCompactionLagMs),
		}
	}
	if v, ok := overrides["internal.segment.bytes"]; ok {
		store(&t.SegmentBytes, Int, v)
	}
	t.Delete = slices.Contains(t.CleanupPolicy, "delete")
	t.Compact = slices.Contains(t.CleanupPolicy, "compact")
	return t, nil
}

// base is the value of the key without an override: the broker's, else the default.
func (k *topicKey) base(b *Broker) string {
	if k.broker != nil {
		return text(k.broker(b))
	}
	return k.Default
}

// TopicDefs returns the table of topic keys, sorted by name.
func TopicDefs() []Def {
	defs := make([]Def, 0, len(topicTable))
	for i := range topicTable {
		defs = append(defs, topicTable[i].Def)
	}
	slices.SortFunc(defs, func(x, y Def) int { return strings.Compare(x.Name, y.Name) })
	return defs
}

var topicByName, topicNames = func() (map[string]*topicKey, []string) {
	m := make(map[string]*topicKey, len(topicTable))
	for i := range topicTable {
		m[topicTable[i].Name] = &topicTable[i]
	}
	return m, slices.Sorted(maps.Keys(m))
}()
