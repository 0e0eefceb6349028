package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

// batchOf builds a batch of records.
func batchOf(t testing.TB, codec record.Codec, records ...record.Record) record.Batch {
	t.Helper()
	s := record.NewSpec()
	s.Codec = codec
	b, err := record.Build(s, records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// producedRow produces one batch to partition 0 and returns its row.
func producedRow(w *wire, version int16, topic string, id [16]byte, b []byte) kmsg.ProduceResponseTopicPartition {
	req := produceRequest(topic, 0, -1, b)
	req.Version, req.Topics[0].TopicID = version, id
	return w.do(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
}

// garble replaces what stands behind a batch's header and makes the rest of the header fit.
func garble(b record.Batch, payload string) record.Batch {
	out := append(b[:record.HeaderSize:record.HeaderSize], payload...)
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-record.LengthSize))
	out.StampCRC()
	return out
}

var everyCodec = []record.Codec{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd}

// TestProduceValidation: records are held against their topic's rules, and the answer says which of them were at fault.
func TestProduceValidation(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	now := time.Now().UnixMilli()
	ids := map[string][16]byte{
		"plain":     createTopic(t, w, "plain", 1),
		"compacted": createTopic(t, w, "compacted", 1, [2]string{"cleanup.policy", "compact"}),
		"strict": createTopic(t, w, "strict", 1, [2]string{"message.timestamp.before.max.ms", "600000"},
			[2]string{"message.timestamp.after.max.ms", "300000"}),
		"appendtime": createTopic(t, w, "appendtime", 1, [2]string{"message.timestamp.type", "LogAppendTime"},
			[2]string{"message.timestamp.before.max.ms", "1000"}, [2]string{"message.timestamp.after.max.ms", "1000"}),
		"small": createTopic(t, w, "small", 1, [2]string{"internal.segment.bytes", "1024"}),
	}
	rec := func(ts int64, key string) record.Record {
		out := record.Record{Timestamp: ts, Value: []byte("v")}
		if key != "" {
			out.Key = []byte(key)
		}
		return out
	}
	hour := time.Hour.Milliseconds()
	for _, codec := range everyCodec {
		for _, c := range []struct {
			what, topic string
			records     []record.Record
			want        *kerr.Error
			at          string // indexes of record errors
			says        string
		}{
			{"good", "plain", []record.Record{rec(now, ""), rec(now-1000*hour, "")}, nil, "", ""},
			{"without timestamps", "strict", []record.Record{rec(-1, ""), rec(-1, "")}, nil, "", ""},
			{"two hours ahead", "plain", []record.Record{rec(now, ""), rec(now+2*hour, "")}, kerr.InvalidTimestamp, "1", "out of range"},
			{"too old", "strict", []record.Record{rec(now, ""), rec(now-hour, ""), rec(now-hour, "")}, kerr.InvalidTimestamp, "1 2", "out of range"},
			{"too new", "strict", []record.Record{rec(now+hour, "")}, kerr.InvalidTimestamp, "0", "out of range"},
			{"whatever time", "appendtime", []record.Record{rec(5, ""), rec(now+1000*hour, "")}, nil, "", ""},
			{"a key missing", "compacted", []record.Record{rec(now, "k"), rec(now, ""), rec(now, "k")}, kerr.InvalidRecord, "1", "without key"},
			{"keys", "compacted", []record.Record{rec(now, "k")}, nil, "", ""},
		} {
			for _, version := range []int16{7, 9, 13} {
				row := producedRow(w, version, c.topic, ids[c.topic], batchOf(t, codec, c.records...))
				want := int16(0)
				if c.want != nil {
					want = c.want.Code
				}
				if row.ErrorCode != want {
					t.Errorf("%s %s v%d: %v, want %v (%s)", c.what, codec, version, kerr.ErrorForCode(row.ErrorCode), c.want, str(row.ErrorMessage))
					continue
				}
				if version < 8 || c.want == nil {
					continue
				}
				var at []string
				for _, e := range row.ErrorRecords {
					at = append(at, fmt.Sprint(e.RelativeOffset))
					if !strings.Contains(str(e.ErrorMessage), c.says) {
						t.Errorf("%s %s: record %d: %q", c.what, codec, e.RelativeOffset, str(e.ErrorMessage))
					}
				}
				if strings.Join(at, " ") != c.at || row.ErrorMessage == nil {
					t.Errorf("%s %s: records %v, want %s; message %q", c.what, codec, at, c.at, str(row.ErrorMessage))
				}
			}
		}
	}
	big := batchOf(t, record.None, record.Record{Timestamp: now, Value: make([]byte, 1024)})
	if row := producedRow(w, 9, "small", ids["small"], big); row.ErrorCode != kerr.RecordListTooLarge.Code {
		t.Errorf("larger than a segment: %v", kerr.ErrorForCode(row.ErrorCode))
	}
}

// TestProduceOfDamagedRecords: a batch whose header is fine and whose records are not is refused where its records are looked at. Where they
// are not, nothing in the broker stumbles over it.
func TestProduceOfDamagedRecords(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"log.writeback.ms": "20"})
	w := dial(t, r)
	id := createTopic(t, w, "t", 1)
	now := time.Now().UnixMilli()
	stored := 0
	for _, codec := range everyCodec {
		good := batchOf(t, codec, record.Record{Timestamp: now, Value: []byte("v")}, record.Record{Timestamp: now, Value: []byte("v")})
		for _, payload := range []string{"", "x", strings.Repeat("\x00", 40), strings.Repeat("\xff", 40), string(good.Payload()) + "x",
			"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff"} {
			row := producedRow(w, 9, "t", id, garble(good, payload))
			if codec == record.None && row.ErrorCode != kerr.InvalidRecord.Code {
				t.Errorf("%q, uncompressed: %v", payload, kerr.ErrorForCode(row.ErrorCode))
			}
			if row.ErrorCode == 0 {
				stored++
			}
		}
	}
	if stored == 0 {
		t.Fatal("nothing was stored: the test shows nothing")
	}
	if row := producedRow(w, 9, "t", id, batchOf(t, record.None, record.Record{Timestamp: now + 1000, Value: []byte("good")})); row.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(row.ErrorCode))
	}
	// Searches by time decode batches.
	last := int64(2 * stored)
	for at, want := range map[int64]int64{0: 1, now: 1, now + 1: last, maxTimestampOffset: last} {
		if row := listOffset(t, w, 9, "t", at, -1); row.ErrorCode != 0 || row.Offset != want {
			t.Errorf("ListOffsets at %d: %v, offset %d, want %d", at, kerr.ErrorForCode(row.ErrorCode), row.Offset, want)
		}
	}
	// A fetch may end where the files end and memory begins.
	var seen []byte
	for next := int64(0); next <= last; {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.MinBytes, req.MaxBytes, req.MaxWaitMillis, req.SessionEpoch = 11, 1, 1<<20, 1000, -1
		part := kmsg.NewFetchRequestTopicPartition()
		part.PartitionMaxBytes, part.CurrentLeaderEpoch, part.FetchOffset = 1<<20, -1, next
		req.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{part}}}
		row := w.do(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if row.ErrorCode != 0 {
			t.Fatalf("fetch at %d: %v", next, kerr.ErrorForCode(row.ErrorCode))
		}
		seen = append(seen, row.RecordBatches...)
		for rest := row.RecordBatches; len(rest) > 0; {
			b, more, err := record.Next(rest)
			if err != nil {
				t.Fatal(err)
			}
			next, rest = b.NextOffset(), more
		}
	}
	if !bytes.Contains(seen, []byte("good")) {
		t.Errorf("%d bytes were fetched, without the last record", len(seen))
	}
}

// TestProduceValidateCompressed: message.validate.compressed has every batch looked into.
func TestProduceValidateCompressed(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"message.validate.compressed": "true"})
	w := dial(t, r)
	id := createTopic(t, w, "t", 1)
	for _, codec := range everyCodec {
		good := batchOf(t, codec, record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte("v")})
		if row := producedRow(w, 9, "t", id, garble(good, "damaged")); row.ErrorCode != kerr.InvalidRecord.Code {
			t.Errorf("%s damaged: %v", codec, kerr.ErrorForCode(row.ErrorCode))
		}
		if row := producedRow(w, 9, "t", id, good); row.ErrorCode != 0 {
			t.Errorf("%s: %v", codec, kerr.ErrorForCode(row.ErrorCode))
		}
	}
}

// TestLogAppendTimeEndToEnd: the broker's time is in the answer, in what consumers get, whatever the codec, and in what searches find.
func TestLogAppendTimeEndToEnd(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	id := createTopic(t, w, "t", 1, [2]string{"message.timestamp.type", "LogAppendTime"})
	before := time.Now().UnixMilli()
	stamps := map[int64]int64{} // by offset
	for i, codec := range everyCodec {
		sent := batchOf(t, codec, record.Record{Timestamp: 77, Value: []byte("a")}, record.Record{Timestamp: 99, Value: []byte("b")})
		row := producedRow(w, 9, "t", id, sent)
		if row.ErrorCode != 0 || row.LogAppendTime < before || row.BaseOffset != int64(2*i) {
			t.Fatalf("%s: %+v", codec, row)
		}
		stamps[row.BaseOffset], stamps[row.BaseOffset+1] = row.LogAppendTime, row.LogAppendTime
		for time.Now().UnixMilli() == row.LogAppendTime { // so that the next batch has another time
			continue
		}
	}
	cl := newClient(t, r, kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for seen := 0; seen < len(stamps); {
		fetches := cl.PollFetches(testContext(t))
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			seen++
			if rec.Timestamp.UnixMilli() != stamps[rec.Offset] || rec.Attrs.TimestampType() != 1 {
				t.Errorf("offset %d: timestamp %d of type %d, answered was %d", rec.Offset, rec.Timestamp.UnixMilli(), rec.Attrs.TimestampType(), stamps[rec.Offset])
			}
		})
	}
	for offset := int64(0); offset < int64(len(stamps)); offset += 2 {
		if row := listOffset(t, w, 9, "t", stamps[offset], -1); row.Offset != offset || row.Timestamp != stamps[offset] {
			t.Errorf("search for %d: offset %d, timestamp %d; want %d", stamps[offset], row.Offset, row.Timestamp, offset)
		}
	}
	last := int64(len(stamps)) - 2 // the first record of those with the greatest timestamp
	if row := listOffset(t, w, 9, "t", maxTimestampOffset, -1); row.Offset != last || row.Timestamp != stamps[last] {
		t.Errorf("greatest timestamp: %+v, want offset %d", row, last)
	}
	if row := listOffset(t, w, 9, "t", 0, -1); row.Offset != 0 {
		t.Errorf("from the beginning of time: %+v", row)
	}
}

// TestMaxTimestampOfALyingProducer: searches and retention go by the greatest timestamp in the header; one that the records contradict is corrected.
func TestMaxTimestampOfALyingProducer(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	id := createTopic(t, w, "t", 1)
	b := batchOf(t, record.None, record.Record{Timestamp: 1000}, record.Record{Timestamp: 3000}, record.Record{Timestamp: 2000})
	binary.BigEndian.PutUint64(b[35:], 1)
	b.StampCRC()
	if row := producedRow(w, 9, "t", id, b); row.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(row.ErrorCode))
	}
	for at, want := range map[int64]int64{2500: 1, maxTimestampOffset: 1, 500: 0} {
		if row := listOffset(t, w, 9, "t", at, -1); row.Offset != want {
			t.Errorf("search for %d: %+v, want offset %d", at, row, want)
		}
	}
}
