package clients

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

// The tests here send what no client sends, and ask for what Kafka answers: they pass with WEIR_TEST_REFERENCE=kafka, too.

// ruleRecord is a record of a hand-made batch.
type ruleRecord struct {
	at    int64 // timestamp
	key   string
	value []byte
	delta int // added to the offset delta that is due
}

// seal puts size and checksum into a batch.
func seal(raw []byte) []byte {
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func ruleBatch(list ...ruleRecord) []byte {
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(list) - 1), FirstTimestamp: list[0].at, MaxTimestamp: list[0].at,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(list)),
	}
	for i, r := range list {
		rec := kmsg.Record{OffsetDelta: int32(i + r.delta), TimestampDelta64: r.at - list[0].at, Value: r.value}
		if r.key != "" {
			rec.Key = []byte(r.key)
		}
		rec.Length = int32(len(rec.AppendTo(nil)) - 1) // a length of 0 takes one byte
		b.Records = rec.AppendTo(b.Records)
		b.MaxTimestamp = max(b.MaxTimestamp, r.at)
	}
	return seal(b.AppendTo(nil))
}

func createRuleTopic(t *testing.T, admin *kadm.Client, name string, configs map[string]string) {
	t.Helper()
	values := map[string]*string{}
	for k, v := range configs {
		values[k] = kadm.StringPtr(v)
	}
	if _, err := admin.CreateTopic(t.Context(), 1, 1, values, name); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

func TestProduceRules(t *testing.T) {
	broker := weirproc.Start(t, weirproc.Options{})
	admin := newAdmin(t, broker.Addr)
	createRuleTopic(t, admin, "plain", nil)
	createRuleTopic(t, admin, "compacted", map[string]string{"cleanup.policy": "compact"})
	createRuleTopic(t, admin, "strict", map[string]string{"message.timestamp.before.max.ms": "600000", "message.timestamp.after.max.ms": "300000"})
	createRuleTopic(t, admin, "appendtime", map[string]string{"message.timestamp.type": "LogAppendTime"})
	createRuleTopic(t, admin, "small", map[string]string{"segment.bytes": "1048576", "max.message.bytes": "4194304"})
	const hour = int64(time.Hour / time.Millisecond)
	now := time.Now().UnixMilli()
	good := func() []byte { return ruleBatch(ruleRecord{at: now}, ruleRecord{at: now}) }
	with := func(change func([]byte)) []byte {
		b := good()
		change(b)
		return seal(b)
	}
	conn := wire.Dial(t, broker.Addr)
	for _, c := range []struct {
		what, topic string
		batch       []byte
		want        *kerr.Error
		at          []int32 // record errors
	}{
		{"good", "plain", good(), nil, nil},
		{"old", "plain", ruleBatch(ruleRecord{at: now - 100_000*hour}), nil, nil},
		{"two hours ahead", "plain", ruleBatch(ruleRecord{at: now}, ruleRecord{at: now + 2*hour}), kerr.InvalidTimestamp, []int32{1}},
		{"too old", "strict", ruleBatch(ruleRecord{at: now - hour}, ruleRecord{at: now}, ruleRecord{at: now - hour}), kerr.InvalidTimestamp, []int32{0, 2}},
		{"too new", "strict", ruleBatch(ruleRecord{at: now + hour}), kerr.InvalidTimestamp, []int32{0}},
		{"without timestamps", "strict", ruleBatch(ruleRecord{at: -1}, ruleRecord{at: -1}), nil, nil},
		{"any time where the broker stamps", "appendtime", ruleBatch(ruleRecord{at: 5}, ruleRecord{at: now + 9000*hour}), nil, nil},
		{"a key missing", "compacted", ruleBatch(ruleRecord{at: now, key: "k"}, ruleRecord{at: now}), kerr.InvalidRecord, []int32{1}},
		{"keys", "compacted", ruleBatch(ruleRecord{at: now, key: "k"}), nil, nil},
		{"stamped by the producer where the broker stamps", "appendtime", with(func(b []byte) { b[22] |= 8 }), kerr.InvalidTimestamp, []int32{0, 1}},
		{"base offset", "plain", with(func(b []byte) { b[7] = 1 }), kerr.InvalidRecord, nil},
		{"control batch", "plain", with(func(b []byte) { b[22] |= 0x20 }), kerr.InvalidRecord, nil},
		{"count", "plain", with(func(b []byte) { b[60] = 1 }), kerr.InvalidRecord, nil},
		{"last offset", "plain", with(func(b []byte) { b[26] = 7 }), kerr.InvalidRecord, nil},
		{"bytes behind the records", "plain", seal(append(good(), 0)), kerr.InvalidRecord, nil},
		{"record without an end", "plain", with(func(b []byte) { b[61] += 2 }), kerr.InvalidRecord, nil},
		{"checksum", "plain", func() []byte { b := good(); b[17]++; return b }(), kerr.CorruptMessage, nil},
		{"too large", "plain", ruleBatch(ruleRecord{at: now, value: make([]byte, 1048588)}), kerr.MessageTooLarge, nil},
		{"larger than a segment", "small", ruleBatch(ruleRecord{at: now, value: make([]byte, 1048577)}), kerr.RecordListTooLarge, nil},
	} {
		resp, err := conn.Do(wire.Produce(c.topic, 0, c.batch))
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		row := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		want := int16(0)
		if c.want != nil {
			want = c.want.Code
		}
		var at []int32
		for _, e := range row.ErrorRecords {
			at = append(at, e.RelativeOffset)
		}
		if row.ErrorCode != want || !slices.Equal(at, c.at) {
			t.Errorf("%s: %v, records %v; want %v, %v", c.what, kerr.ErrorForCode(row.ErrorCode), at, c.want, c.at)
		}
	}
}

// listed asks for an offset by timestamp in partition 0.
func listed(t *testing.T, conn *wire.Conn, topic string, at int64) kmsg.ListOffsetsResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.SetVersion(9)
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = at
	req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
	resp, err := conn.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
}

// TestOffsetsAfterDeleteRecords: what every way to ask for an offset says before and after records are deleted.
func TestOffsetsAfterDeleteRecords(t *testing.T) {
	broker := weirproc.Start(t, weirproc.Options{})
	admin := newAdmin(t, broker.Addr)
	createRuleTopic(t, admin, "t", nil)
	createRuleTopic(t, admin, "compacted", map[string]string{"cleanup.policy": "compact"})
	createRuleTopic(t, admin, "both", map[string]string{"cleanup.policy": "compact,delete"})
	conn := wire.Dial(t, broker.Addr)
	now := time.Now().UnixMilli()
	lying := ruleBatch(ruleRecord{at: now - 5000}, ruleRecord{at: now - 1000}, ruleRecord{at: now - 2000})
	binary.BigEndian.PutUint64(lying[35:], 5) // the greatest timestamp, which the broker corrects
	size := int64(0)
	for _, b := range [][]byte{seal(lying), ruleBatch(ruleRecord{at: now - 1500}, ruleRecord{at: now - 3000}, ruleRecord{at: now - 500})} {
		if code, _, err := conn.ProduceCode("t", 0, b); code != 0 || err != nil {
			t.Fatal(code, err)
		}
		size += int64(len(b))
	}
	check := func(start, max int64, times map[int64]int64) {
		t.Helper()
		for at, want := range map[int64]int64{-1: 6, -2: start, -3: max, -4: start, -5: -1} {
			if row := listed(t, conn, "t", at); row.ErrorCode != 0 || row.Offset != want {
				t.Errorf("log start %d: ListOffsets %d: %v, offset %d, want %d", start, at, kerr.ErrorForCode(row.ErrorCode), row.Offset, want)
			}
		}
		for ago, want := range times {
			if row := listed(t, conn, "t", now-ago); row.ErrorCode != 0 || row.Offset != want {
				t.Errorf("log start %d: %d ms ago: %v, offset %d, want %d", start, ago, kerr.ErrorForCode(row.ErrorCode), row.Offset, want)
			}
		}
	}
	check(0, 5, map[int64]int64{9000: 0, 5000: 0, 4999: 1, 1000: 1, 999: 5, 500: 5, 499: -1})
	for _, c := range []struct {
		topic  string
		offset int64
		want   *kerr.Error
		low    int64
	}{
		{"t", 7, kerr.OffsetOutOfRange, -1},
		{"t", -2, kerr.OffsetOutOfRange, -1},
		{"compacted", -1, kerr.PolicyViolation, -1},
		{"both", -1, nil, 0},
		{"nope", 0, kerr.UnknownTopicOrPartition, -1},
		{"t", 4, nil, 4},
		{"t", 2, nil, 4},
	} {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.SetVersion(2)
		req.TimeoutMillis = 10_000
		req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: c.topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: c.offset}}}}
		resp, err := conn.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		row := resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]
		want := int16(0)
		if c.want != nil {
			want = c.want.Code
		}
		if row.ErrorCode != want || row.LowWatermark != c.low {
			t.Errorf("delete %s below %d: %v, low watermark %d; want %v, %d", c.topic, c.offset, kerr.ErrorForCode(row.ErrorCode), row.LowWatermark, c.want, c.low)
		}
	}
	check(4, 5, map[int64]int64{9000: 4, 3000: 4, 2999: 5, 500: 5, 499: -1})
	dirs, err := admin.DescribeAllLogDirs(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, d := range dirs.Sorted() {
		if p, ok := d.Topics.Lookup("t", 0); ok {
			found += fmt.Sprintf("%d bytes, lag %d, future %v, volume %v", p.Size, p.OffsetLag, p.IsFuture, d.TotalBytes > d.UsableBytes && d.UsableBytes > 0)
		}
	}
	if want := fmt.Sprintf("%d bytes, lag 0, future false, volume true", size); found != want {
		t.Errorf("log directory: %s; want %s", found, want)
	}
}
