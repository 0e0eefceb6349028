package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

func listRequest(version int16, topic string, partitions ...kmsg.ListOffsetsRequestTopicPartition) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = version
	req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: partitions}}
	return req
}

func listOffset(t *testing.T, w *wire, version int16, topic string, timestamp int64, epoch int32) kmsg.ListOffsetsResponseTopicPartition {
	t.Helper()
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp, p.CurrentLeaderEpoch = timestamp, epoch
	resp := w.do(listRequest(version, topic, p)).(*kmsg.ListOffsetsResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("%+v", resp.Topics)
	}
	return resp.Topics[0].Partitions[0]
}

// produceAt writes one batch with records of these timestamps.
func produceAt(t *testing.T, w *wire, topic string, timestamps ...int64) {
	t.Helper()
	var records []record.Record
	for _, ts := range timestamps {
		records = append(records, record.Record{Timestamp: ts, Value: []byte("v")})
	}
	b, err := record.Build(record.NewSpec(), records)
	if err != nil {
		t.Fatal(err)
	}
	resp := w.do(produceRequest(topic, 0, -1, b)).(*kmsg.ProduceResponse)
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("produce: error %d", code)
	}
}

func TestListOffsets(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "t", 1)
	createTopic(t, w, "empty", 1)
	produceAt(t, w, "t", 1000, 3000, 2000) // offsets 0 to 2
	produceAt(t, w, "t", 2500)             // offset 3
	unsupported := kerr.UnsupportedVersion.Code
	for name, tt := range map[string]struct {
		topic     string
		version   int16
		timestamp int64
		code      int16
		offset    int64
		found     int64
		epoch     int32
	}{
		"latest":                      {"t", 1, latestOffset, 0, 4, -1, -1},
		"latest with epoch":           {"t", 4, latestOffset, 0, 4, -1, 0},
		"earliest":                    {"t", 11, earliestOffset, 0, 0, -1, 0},
		"latest of nothing":           {"empty", 4, latestOffset, 0, 0, -1, 0},
		"before all":                  {"t", 4, 0, 0, 0, 1000, 0},
		"exactly":                     {"t", 4, 1000, 0, 0, 1000, 0},
		"between":                     {"t", 4, 1001, 0, 1, 3000, 0},
		"greatest":                    {"t", 4, 3000, 0, 1, 3000, 0},
		"after all":                   {"t", 4, 3001, 0, -1, -1, -1},
		"in nothing":                  {"empty", 4, 5, 0, -1, -1, -1},
		"max timestamp":               {"t", 7, maxTimestampOffset, 0, 1, 3000, 0},
		"max timestamp of nothing":    {"empty", 7, maxTimestampOffset, 0, -1, -1, -1},
		"max timestamp too early":     {"t", 6, maxTimestampOffset, unsupported, -1, -1, -1},
		"earliest local":              {"t", 8, earliestLocalOffset, 0, 0, -1, 0},
		"earliest local too early":    {"t", 7, earliestLocalOffset, unsupported, -1, -1, -1},
		"latest tiered":               {"t", 9, latestTieredOffset, 0, -1, -1, -1},
		"latest tiered too early":     {"t", 8, latestTieredOffset, unsupported, -1, -1, -1},
		"earliest pending":            {"t", 11, earliestPendingOffset, 0, -1, -1, -1},
		"earliest pending too early":  {"t", 10, earliestPendingOffset, unsupported, -1, -1, -1},
		"a timestamp nobody has made": {"t", 11, -7, unsupported, -1, -1, -1},
		"unknown topic":               {"u", 11, latestOffset, kerr.UnknownTopicOrPartition.Code, -1, -1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			row := listOffset(t, w, tt.version, tt.topic, tt.timestamp, -1)
			if row.ErrorCode != tt.code || row.Offset != tt.offset || row.Timestamp != tt.found || row.LeaderEpoch != tt.epoch {
				t.Errorf("%+v, want %+v", row, tt)
			}
		})
	}
}

func TestListOffsetsLeaderEpochs(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "t", 1)
	for epoch, want := range map[int32]int16{-1: 0, 0: 0, 1: kerr.UnknownLeaderEpoch.Code, -2: kerr.FencedLeaderEpoch.Code} {
		if row := listOffset(t, w, 5, "t", latestOffset, epoch); row.ErrorCode != want {
			t.Errorf("epoch %d: error %d, want %d", epoch, row.ErrorCode, want)
		}
	}
}

func TestListOffsetsOfManyPartitions(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "t", 2)
	var parts []kmsg.ListOffsetsRequestTopicPartition
	for _, index := range []int32{0, 1, 1, 2, -1} {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = index, latestOffset
		parts = append(parts, p)
	}
	resp := w.do(listRequest(6, "t", parts...)).(*kmsg.ListOffsetsResponse)
	want := map[int32]int16{0: 0, 1: kerr.InvalidRequest.Code, 2: kerr.UnknownTopicOrPartition.Code, -1: kerr.UnknownTopicOrPartition.Code}
	for _, row := range resp.Topics[0].Partitions {
		if row.ErrorCode != want[row.Partition] {
			t.Errorf("partition %d: error %d, want %d", row.Partition, row.ErrorCode, want[row.Partition])
		}
	}
}
