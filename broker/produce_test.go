package broker

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

// TestProduceErrors: what a partition's records can be wrong in, and Kafka's error for each. Nothing of it is stored.
func TestProduceErrors(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1, [2]string{"max.message.bytes", "1000"})
	good := buildBatch(t, "a", "b")
	with := func(change func(record.Batch)) record.Batch {
		b := slices.Clone(good)
		change(b)
		b.StampCRC()
		return b
	}
	control, err := record.Build(record.Spec{Attributes: record.ControlFlag, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []record.Record{{Timestamp: 1}})
	if err != nil {
		t.Fatal(err)
	}
	zstd, err := record.Build(record.Spec{Codec: record.Zstd, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []record.Record{{Timestamp: 1}})
	if err != nil {
		t.Fatal(err)
	}
	corrupt := slices.Clone(good)
	corrupt[len(corrupt)-1] ^= 1
	old := slices.Clone(good)
	old[16] = 1
	for _, c := range []struct {
		what      string
		version   int16
		topic     string
		partition int32
		acks      int16
		records   []byte
		want      *kerr.Error
	}{
		{"unknown topic", 9, "nope", 0, -1, good, kerr.UnknownTopicOrPartition},
		{"unknown partition", 9, "t", 1, -1, good, kerr.UnknownTopicOrPartition},
		{"negative partition", 9, "t", -1, -1, good, kerr.UnknownTopicOrPartition},
		{"acks 2", 9, "t", 0, 2, good, kerr.InvalidRequiredAcks},
		{"null records", 9, "t", 0, -1, nil, kerr.InvalidRecord},
		{"empty records", 9, "t", 0, -1, []byte{}, kerr.InvalidRecord},
		{"bad checksum", 9, "t", 0, -1, corrupt, kerr.CorruptMessage},
		{"cut short", 9, "t", 0, -1, good[:len(good)-1], kerr.InvalidRecord},
		{"only a length", 9, "t", 0, -1, good[:12], kerr.InvalidRecord},
		{"magic 1", 9, "t", 0, -1, old, kerr.InvalidRecord},
		{"two batches", 9, "t", 0, -1, append(slices.Clone(good), good...), kerr.InvalidRecord},
		{"control batch", 9, "t", 0, -1, control, kerr.InvalidRecord},
		{"count 1, two offsets", 9, "t", 0, -1, with(func(b record.Batch) { b[60] = 1 }), kerr.InvalidRecord},
		{"base offset", 9, "t", 0, -1, with(func(b record.Batch) { b.SetBaseOffset(1) }), kerr.InvalidRecord},
		{"LogAppendTime from a producer", 9, "t", 0, -1, with(func(b record.Batch) { b[22] |= record.TimestampTypeFlag }), kerr.InvalidTimestamp},
		{"record cut short", 9, "t", 0, -1, with(func(b record.Batch) { b[record.HeaderSize]++ }), kerr.InvalidRecord},
		{"transactional", 9, "t", 0, -1, with(func(b record.Batch) { b[22] |= record.TransactionalFlag }), kerr.InvalidTxnState},
		{"codec 7", 9, "t", 0, -1, with(func(b record.Batch) { b[22] |= 7 }), kerr.InvalidRecord},
		{"zstd from an old client", 6, "t", 0, -1, zstd, kerr.UnsupportedCompressionType},
		{"too large", 9, "t", 0, -1, buildBatch(t, string(make([]byte, 1000))), kerr.MessageTooLarge},
		{"internal topic", 9, offsetsTopic, 0, -1, good, kerr.UnknownTopicOrPartition},
	} {
		req := produceRequest(c.topic, c.partition, c.acks, c.records)
		req.Version = c.version
		got := w.do(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if got.ErrorCode != c.want.Code || got.BaseOffset != -1 {
			t.Errorf("%s: %v at offset %d, want %v", c.what, kerr.ErrorForCode(got.ErrorCode), got.BaseOffset, c.want)
		}
		if c.version >= 8 && got.ErrorMessage == nil {
			t.Errorf("%s: no error message", c.what)
		}
	}
	if p := r.b.parts.ByName("t", 0); p.End() != 0 {
		t.Errorf("end %d: something refused was stored", p.End())
	}
}

// TestProduceVersions produces in every version that is served and checks offsets.
func TestProduceVersions(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	id := createTopic(t, w, "t", 1)
	for v := int16(3); v <= 13; v++ {
		for i, acks := range []int16{1, -1} {
			req := produceRequest("t", 0, acks, buildBatch(t, "x"))
			req.Version, req.Topics[0].TopicID = v, id
			resp := w.do(req).(*kmsg.ProduceResponse)
			got, want := resp.Topics[0].Partitions[0], int64(v-3)*2+int64(i)
			if got.ErrorCode != 0 || got.BaseOffset != want || got.LogAppendTime != -1 {
				t.Errorf("v%d acks %d: code %d, offset %d (want %d), append time %d", v, acks, got.ErrorCode, got.BaseOffset, want, got.LogAppendTime)
			}
			if v >= 13 && resp.Topics[0].TopicID != id {
				t.Errorf("v%d: topic id %x, want %x", v, resp.Topics[0].TopicID, id)
			}
		}
	}
	req := produceRequest("", 0, -1, buildBatch(t, "x"))
	req.Version, req.Topics[0].TopicID = 13, [16]byte{1}
	if got := w.do(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; got != kerr.UnknownTopicID.Code {
		t.Errorf("unknown topic id: code %d, want UNKNOWN_TOPIC_ID", got)
	}
}

// TestProducePipelined sends many requests without waiting, good ones and bad ones mixed: answers come in the order of the requests.
func TestProducePipelined(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	const n = 200
	first := w.next + 1
	go func() {
		for i := range n {
			topic := "t"
			if i%3 == 2 {
				topic = "nope"
			}
			w.send(produceRequest(topic, 0, -1, buildBatch(t, fmt.Sprint(i))))
		}
	}()
	want := int64(0)
	for i := range n {
		got := w.receive(produceRequest("", 0, 0, nil), first+int32(i)).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if i%3 == 2 {
			if got.ErrorCode != kerr.UnknownTopicOrPartition.Code {
				t.Fatalf("request %d: code %d", i, got.ErrorCode)
			}
			continue
		}
		if got.ErrorCode != 0 || got.BaseOffset != want {
			t.Fatalf("request %d: code %d, offset %d, want %d", i, got.ErrorCode, got.BaseOffset, want)
		}
		want++
	}
}

// TestProduceNoAck: acks=0 is not answered, and closes the connection if it fails.
func TestProduceNoAck(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	w.send(produceRequest("t", 0, 0, buildBatch(t, "a")))
	got := w.do(produceRequest("t", 0, 1, buildBatch(t, "b"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if got.BaseOffset != 1 {
		t.Errorf("offset %d behind the record without acknowledgement, want 1", got.BaseOffset)
	}
	w.send(produceRequest("nope", 0, 0, buildBatch(t, "c")))
	w.closed("failed acks=0")
}

// TestProduceConsumeClient sends records of all sizes and codecs through franz-go and reads them back.
func TestProduceConsumeClient(t *testing.T) {
	dir := t.TempDir()
	r := startNode(t, dir, map[string]string{"log.writeback.ms": "50"})
	ctx := testContext(t)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	want := map[string][]byte{}
	for c, codec := range codecs {
		cl := newClient(t, r, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("all"))
		var records []*kgo.Record
		for i := range 300 {
			key, value := fmt.Sprintf("%d-%d", c, i), bytes.Repeat([]byte{byte(i)}, i*i)
			want[key] = value
			records = append(records, &kgo.Record{Key: []byte(key), Value: value, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte(key)}}})
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	consumeAll(t, r, want)
	stopNode(t, r)
	consumeAll(t, startNode(t, dir, nil), want)
}

func consumeAll(t *testing.T, r *Running, want map[string][]byte) {
	t.Helper()
	ctx := testContext(t)
	cl := newClient(t, r, kgo.ConsumeTopics("all"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for seen := 0; seen < len(want); {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", seen, len(want), err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			seen++
			value, ok := want[string(rec.Key)]
			if !ok || !bytes.Equal(value, rec.Value) || len(rec.Headers) != 1 || string(rec.Headers[0].Value) != string(rec.Key) {
				t.Errorf("record %s at %d is not what was sent", rec.Key, rec.Offset)
			}
		})
	}
	cl.Close()
}
