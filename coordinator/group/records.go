package group

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

// Versions of the records' keys: 0 and 1 are committed offsets, 2 is a group's metadata.
const (
	offsetKeyVersionMax = 1
	groupKeyVersion     = 2
)

// Versions of the values written: the newest that every Kafka since 2.3 reads, unless a field needs another.
const (
	offsetValueVersion        = 3
	offsetValueVersionExpire  = 1 // the only one with an expiry of its own
	offsetValueVersionTopicID = 4
	groupValueVersion         = 3
)

// offset is one committed offset.
type offset struct {
	offset      int64
	leaderEpoch int32 // -1: none
	metadata    string
	committedMs int64
	expireMs    int64    // 0: by the broker's retention; else the time the committer asked for
	topicID     [16]byte // zero: not known
}

func offsetRecord(group, topic string, partition int32, o *offset, nowMs int64) record.Record {
	v := kmsg.OffsetCommitValue{
		Version: offsetValueVersion, Offset: o.offset, LeaderEpoch: o.leaderEpoch, Metadata: o.metadata,
		CommitTimestamp: o.committedMs, TopicID: o.topicID,
	}
	switch {
	case o.expireMs != 0:
		v.Version, v.ExpireTimestamp = offsetValueVersionExpire, o.expireMs
	case o.topicID != [16]byte{}:
		v.Version = offsetValueVersionTopicID
	}
	return record.Record{Timestamp: nowMs, Key: offsetKey(group, topic, partition), Value: v.AppendTo(nil)}
}

func offsetTombstone(group, topic string, partition int32, nowMs int64) record.Record {
	return record.Record{Timestamp: nowMs, Key: offsetKey(group, topic, partition)}
}

func offsetKey(group, topic string, partition int32) []byte {
	k := kmsg.OffsetCommitKey{Version: offsetKeyVersionMax, Group: group, Topic: topic, Partition: partition}
	return k.AppendTo(nil)
}

func groupTombstone(group string, nowMs int64) record.Record {
	k := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: group}
	return record.Record{Timestamp: nowMs, Key: k.AppendTo(nil)}
}

// metadataRecords is the group as it is to be found after a restart. assigned replaces the members' assignments if not
// nil.
func (g *group) metadataRecords(nowMs int64, assigned map[string][]byte) []record.Record {
	v := kmsg.GroupMetadataValue{
		Version: groupValueVersion, ProtocolType: g.protocolType, Generation: g.generation, Protocol: g.protocol,
		CurrentStateTimestamp: g.sinceMs,
		Members:               make([]kmsg.GroupMetadataValueMember, len(g.members)),
	}
	if g.leader != "" {
		v.Leader = &g.leader
	}
	for i, m := range g.members {
		a := m.assignment
		if assigned != nil {
			a = assigned[m.id]
		}
		v.Members[i] = kmsg.GroupMetadataValueMember{
			MemberID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.clientHost,
			RebalanceTimeoutMillis: toMillis(m.rebalanceTimeout), SessionTimeoutMillis: toMillis(m.sessionTimeout),
			Subscription: m.metadata(g.protocol), Assignment: append([]byte{}, a...),
		}
	}
	k := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: g.id}
	return []record.Record{{Timestamp: nowMs, Key: k.AppendTo(nil), Value: v.AppendTo(nil)}}
}

func toMillis(d time.Duration) int32 { return int32(min(d.Milliseconds(), math.MaxInt32)) }

func keyVersion(key []byte) (int16, error) {
	if len(key) < 2 {
		return 0, fmt.Errorf("%w: key of %d bytes", ErrCorrupt, len(key))
	}
	return int16(binary.BigEndian.Uint16(key)), nil
}

func decodeOffsetKey(b []byte) (group, topic string, partition int32, err error) {
	d := reader{buf: b}
	d.int16("key version")
	group, topic, partition = d.string("group"), d.string("topic"), d.int32("partition")
	return group, topic, partition, d.finish()
}

func decodeGroupKey(b []byte) (string, error) {
	d := reader{buf: b}
	d.int16("key version")
	id := d.string("group")
	return id, d.finish()
}

func (d *reader) finish() error {
	if d.err == nil && len(d.buf) > 0 {
		d.fail("end", "%d bytes left over", len(d.buf))
	}
	return d.err
}

// decodeOffsetValue reads all versions of a committed offset.
func decodeOffsetValue(b []byte) (offset, error) {
	if err := checkVersion(b, "offset", 4); err != nil {
		return offset{}, err
	}
	v := kmsg.NewOffsetCommitValue()
	if err := v.ReadFrom(b); err != nil {
		return offset{}, fmt.Errorf("%w: offset value: %v", ErrCorrupt, err)
	}
	o := offset{
		offset: v.Offset, leaderEpoch: -1, metadata: v.Metadata, committedMs: v.CommitTimestamp, topicID: v.TopicID,
	}
	if v.Version >= 3 {
		o.leaderEpoch = v.LeaderEpoch
	}
	if v.Version == offsetValueVersionExpire && v.ExpireTimestamp > 0 {
		o.expireMs = v.ExpireTimestamp
	}
	return o, nil
}

// decodeGroupValue reads all versions of a group's metadata.
func decodeGroupValue(b []byte) (*kmsg.GroupMetadataValue, error) {
	if err := checkVersion(b, "group metadata", 4); err != nil {
		return nil, err
	}
	v := kmsg.NewGroupMetadataValue()
	if err := v.ReadFrom(b); err != nil {
		return nil, fmt.Errorf("%w: group metadata value: %v", ErrCorrupt, err)
	}
	return &v, nil
}

func checkVersion(b []byte, what string, most int16) error {
	if len(b) < 2 {
		return fmt.Errorf("%w: %s value of %d bytes", ErrCorrupt, what, len(b))
	}
	if v := int16(binary.BigEndian.Uint16(b)); v < 0 || v > most {
		return fmt.Errorf("%w: %s value of version %d, at most %d is known", ErrCorrupt, what, v, most)
	}
	return nil
}
