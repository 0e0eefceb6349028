package broker

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/vfs"
)

type offsetAt struct {
	topic     string
	partition int32
	offset    int64
}

func deleteRecordsRequest(version int16, timeoutMs int32, at ...offsetAt) *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = version, timeoutMs
	for _, a := range at {
		req.Topics = append(req.Topics, kmsg.DeleteRecordsRequestTopic{Topic: a.topic,
			Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: a.partition, Offset: a.offset}}})
	}
	return req
}

// deleteRow sends a request for one partition and returns its row.
func deleteRow(t *testing.T, w *wire, version int16, timeoutMs int32, at offsetAt) kmsg.DeleteRecordsResponseTopicPartition {
	t.Helper()
	resp := w.do(deleteRecordsRequest(version, timeoutMs, at)).(*kmsg.DeleteRecordsResponse)
	if len(resp.Topics) != 1 || resp.Topics[0].Topic != at.topic || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].Partitions[0].Partition != at.partition {
		t.Fatalf("%+v", resp.Topics)
	}
	return resp.Topics[0].Partitions[0]
}

func TestDeleteRecordsErrors(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 2)
	createTopic(t, w, "compacted", 1, [2]string{"cleanup.policy", "compact"})
	createTopic(t, w, "both", 1, [2]string{"cleanup.policy", "compact,delete"})
	createTopic(t, w, offsetsTopic, 4)
	produceAt(t, w, "t", 1000, 2000, 3000, 4000)
	for version := int16(0); version <= 2; version++ {
		for _, c := range []struct {
			what string
			at   offsetAt
			want *kerr.Error // nil: none
			low  int64
		}{
			{"unknown topic", offsetAt{"nope", 0, 0}, kerr.UnknownTopicOrPartition, -1},
			{"unknown partition", offsetAt{"t", 2, 0}, kerr.UnknownTopicOrPartition, -1},
			{"negative partition", offsetAt{"t", -1, 0}, kerr.UnknownTopicOrPartition, -1},
			{"beyond the end", offsetAt{"t", 0, 5}, kerr.OffsetOutOfRange, -1},
			{"far beyond", offsetAt{"t", 0, 1<<63 - 1}, kerr.OffsetOutOfRange, -1},
			{"negative offset", offsetAt{"t", 0, -2}, kerr.OffsetOutOfRange, -1},
			{"empty partition, beyond", offsetAt{"t", 1, 1}, kerr.OffsetOutOfRange, -1},
			{"internal topic", offsetAt{offsetsTopic, 0, -1}, kerr.InvalidTopicException, -1},
			{"compacted", offsetAt{"compacted", 0, -1}, kerr.PolicyViolation, -1},
			{"compacted and deleted", offsetAt{"both", 0, -1}, nil, 0},
			{"empty partition, all", offsetAt{"t", 1, -1}, nil, 0},
			{"a part", offsetAt{"t", 0, int64(version) + 1}, nil, int64(version) + 1},
			{"less than before", offsetAt{"t", 0, 0}, nil, int64(version) + 1},
		} {
			row := deleteRow(t, w, version, 10000, c.at)
			want := int16(0)
			if c.want != nil {
				want = c.want.Code
			}
			if row.ErrorCode != want || row.LowWatermark != c.low {
				t.Errorf("v%d %s: %v, low watermark %d; want %v, %d", version, c.what, kerr.ErrorForCode(row.ErrorCode), row.LowWatermark, c.want, c.low)
			}
		}
	}
	if row := deleteRow(t, w, 2, 10000, offsetAt{"t", 0, -1}); row.ErrorCode != 0 || row.LowWatermark != 4 {
		t.Errorf("all: code %d, low watermark %d", row.ErrorCode, row.LowWatermark)
	}
}

// TestDeleteRecordsRows: partitions come back grouped by topic; of one that is named twice the last offset counts.
func TestDeleteRecordsRows(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "t", 2)
	produceAt(t, w, "t", 1000, 2000, 3000, 4000)
	resp := w.do(deleteRecordsRequest(2, 10000, offsetAt{"t", 0, 3}, offsetAt{"nope", 0, 1}, offsetAt{"t", 1, 0}, offsetAt{"t", 0, 2})).(*kmsg.DeleteRecordsResponse)
	if len(resp.Topics) != 2 || resp.Topics[0].Topic != "t" || len(resp.Topics[0].Partitions) != 2 || len(resp.Topics[1].Partitions) != 1 {
		t.Fatalf("%+v", resp.Topics)
	}
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.LowWatermark != 2 {
		t.Errorf("named twice: %+v", p)
	}
	if resp := w.do(deleteRecordsRequest(2, 10000)).(*kmsg.DeleteRecordsResponse); len(resp.Topics) != 0 {
		t.Errorf("nothing asked for: %+v", resp.Topics)
	}
}

// TestDeleteRecordsIsSeen: the new log start shows everywhere at once, and a fetch below it is out of range.
func TestDeleteRecordsIsSeen(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	produceAt(t, w, "t", 1000, 2000, 3000)
	produceAt(t, w, "t", 4000, 5000, 6000)
	ctx := testContext(t)
	cl := newClient(t, r)
	offsets := kadm.Offsets{}
	offsets.AddOffset("t", 0, 4, -1)
	deleted, err := kadm.NewClient(cl).DeleteRecords(ctx, offsets)
	if err == nil {
		err = deleted.Error()
	}
	if d, ok := deleted.Lookup("t", 0); err != nil || !ok || d.LowWatermark != 4 {
		t.Fatalf("%+v, %v", d, err)
	}
	for _, timestamp := range []int64{earliestOffset, earliestLocalOffset, 0} {
		if row := listOffset(t, w, 9, "t", timestamp, -1); row.Offset != 4 {
			t.Errorf("ListOffsets %d: %d, want 4", timestamp, row.Offset)
		}
	}
	got := w.do(produceRequest("t", 0, -1, buildBatch(t, "x"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if got.LogStartOffset != 4 || got.BaseOffset != 6 {
		t.Errorf("produce: log start %d, offset %d", got.LogStartOffset, got.BaseOffset)
	}
	for _, c := range []struct {
		offset int64
		code   int16
	}{{3, kerr.OffsetOutOfRange.Code}, {4, 0}} {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 11, 0, 0, 1<<20, -1
		part := kmsg.NewFetchRequestTopicPartition()
		part.FetchOffset, part.PartitionMaxBytes, part.CurrentLeaderEpoch = c.offset, 1<<20, -1
		req.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{part}}}
		row := w.do(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if row.ErrorCode != c.code || row.LogStartOffset != 4 && c.code == 0 {
			t.Errorf("fetch at %d: code %d, log start %d", c.offset, row.ErrorCode, row.LogStartOffset)
		}
	}
}

// TestDeleteRecordsWaitsForTheDisk: no answer before the log start is durable, but for the one that the client's patience ends.
func TestDeleteRecordsWaitsForTheDisk(t *testing.T) {
	disk := vfs.NewMem()
	r := startNodeOn(t, disk, "/data", map[string]string{"io.engine": "portable"})
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	produceAt(t, w, "t", 1000, 2000, 3000)
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	disk.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "rename" && filepath.Base(name) == "recovery-points.tmp" {
			held <- struct{}{}
			<-hold
		}
		return nil
	})
	row := deleteRow(t, w, 2, 1, offsetAt{"t", 0, 1})
	if row.ErrorCode != kerr.RequestTimedOut.Code || row.LowWatermark != -1 {
		t.Errorf("after the client's timeout: %v, low watermark %d", kerr.ErrorForCode(row.ErrorCode), row.LowWatermark)
	}
	<-held
	req := deleteRecordsRequest(2, 30000, offsetAt{"t", 0, 2})
	w.send(req)
	// What another connection sees is the new start, although the first is not answered yet.
	other := dial(t, r)
	for listOffset(t, other, 9, "t", earliestOffset, -1).Offset != 2 {
		continue
	}
	disk.SetHook(nil)
	close(hold)
	resp := w.receive(req, w.next).(*kmsg.DeleteRecordsResponse)
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.LowWatermark != 2 {
		t.Errorf("%+v", p)
	}
}

// TestDeleteRecordsOnAFailingDisk: the deletion is not acknowledged if the disk does not take the log start.
func TestDeleteRecordsOnAFailingDisk(t *testing.T) {
	disk := vfs.NewMem()
	r := startNodeOn(t, disk, "/data", map[string]string{"io.engine": "portable"})
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	produceAt(t, w, "t", 1000)
	disk.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "rename" && filepath.Base(name) == "recovery-points.tmp" {
			return syscall.ENOSPC
		}
		return nil
	})
	if row := deleteRow(t, w, 2, 10000, offsetAt{"t", 0, -1}); row.ErrorCode != kerr.KafkaStorageError.Code || row.LowWatermark != -1 {
		t.Errorf("%v, low watermark %d", kerr.ErrorForCode(row.ErrorCode), row.LowWatermark)
	}
	disk.SetHook(nil)
	if row := deleteRow(t, w, 2, 10000, offsetAt{"t", 0, -1}); row.ErrorCode != 0 || row.LowWatermark != 1 {
		t.Errorf("again: %v, low watermark %d", kerr.ErrorForCode(row.ErrorCode), row.LowWatermark)
	}
}
