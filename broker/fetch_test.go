package broker

import (
	"math"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

// fetchRequest asks for partition 0 of a topic from an offset on.
func fetchRequest(topic string, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.MinBytes, req.MaxWaitMillis, req.SessionEpoch = 12, 1<<20, 1, 0, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes = offset, 1<<20
	req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return req
}

func fetchOne(t *testing.T, w *wire, req *kmsg.FetchRequest) kmsg.FetchResponseTopicPartition {
	t.Helper()
	resp := w.do(req).(*kmsg.FetchResponse)
	if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("fetch: code %d, topics %+v", resp.ErrorCode, resp.Topics)
	}
	return resp.Topics[0].Partitions[0]
}

func mustProduce(t *testing.T, w *wire, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		got := w.do(produceRequest(topic, 0, -1, buildBatch(t, v))).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if got.ErrorCode != 0 {
			t.Fatalf("produce: %v", kerr.ErrorForCode(got.ErrorCode))
		}
	}
}

// countBatches checks that records are whole batches with consecutive offsets from first on, and counts them.
func countBatches(t *testing.T, records []byte, first int64) (n int) {
	t.Helper()
	for len(records) > 0 {
		b, rest, err := record.Next(records)
		if err != nil {
			t.Fatalf("batch %d: %v", n, err)
		}
		if err := b.Check(); err != nil || b.BaseOffset() != first+int64(n) {
			t.Fatalf("batch %d at offset %d, err %v", n, b.BaseOffset(), err)
		}
		records = rest
		n++
	}
	return n
}

func TestFetchOffsets(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	mustProduce(t, w, "t", "a", "b", "c")
	for _, c := range []struct {
		what   string
		topic  string
		offset int64
		epoch  int32
		want   *kerr.Error
		count  int
	}{
		{"from the start", "t", 0, -1, nil, 3},
		{"from the middle", "t", 1, 0, nil, 2},
		{"at the end", "t", 3, -1, nil, 0},
		{"beyond the end", "t", 4, -1, kerr.OffsetOutOfRange, 0},
		{"before the start", "t", -1, -1, kerr.OffsetOutOfRange, 0},
		{"far beyond", "t", math.MaxInt64, -1, kerr.OffsetOutOfRange, 0},
		{"unknown topic", "nope", 0, -1, kerr.UnknownTopicOrPartition, 0},
		{"epoch of the future", "t", 0, 5, kerr.UnknownLeaderEpoch, 0},
	} {
		req := fetchRequest(c.topic, c.offset)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = c.epoch
		got := fetchOne(t, w, req)
		code := int16(0)
		if c.want != nil {
			code = c.want.Code
		}
		if got.ErrorCode != code {
			t.Errorf("%s: %v, want %v", c.what, kerr.ErrorForCode(got.ErrorCode), c.want)
		}
		if n := countBatches(t, got.RecordBatches, c.offset); n != c.count {
			t.Errorf("%s: %d batches, want %d", c.what, n, c.count)
		}
		if c.want == nil && (got.HighWatermark != 3 || got.LastStableOffset != 3 || got.LogStartOffset != 0) {
			t.Errorf("%s: high watermark %d, last stable %d, log start %d", c.what, got.HighWatermark, got.LastStableOffset, got.LogStartOffset)
		}
	}
}

// TestFetchLimits: max bytes bound the response, but one batch always comes, so that a large one cannot block a consumer.
func TestFetchLimits(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	size := len(buildBatch(t, "0123456789"))
	mustProduce(t, w, "t", "0123456789", "0123456789", "0123456789", "0123456789")
	for _, c := range []struct {
		max, partitionMax int32
		want              int
	}{
		{1 << 20, 1 << 20, 4},
		{int32(2 * size), 1 << 20, 2},
		{1 << 20, int32(3*size + 1), 3},
		{1, 1 << 20, 1},
		{1 << 20, 1, 1},
		{0, 0, 1},
	} {
		req := fetchRequest("t", 0)
		req.MaxBytes, req.Topics[0].Partitions[0].PartitionMaxBytes = c.max, c.partitionMax
		if n := countBatches(t, fetchOne(t, w, req).RecordBatches, 0); n != c.want {
			t.Errorf("max %d, partition max %d: %d batches, want %d", c.max, c.partitionMax, n, c.want)
		}
	}
}

// TestFetchVersions reads the same record in every version that is served.
func TestFetchVersions(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	id := createTopic(t, w, "t", 1)
	mustProduce(t, w, "t", "a")
	for v := int16(4); v <= 18; v++ {
		for _, isolation := range []int8{0, 1} {
			req := fetchRequest("t", 0)
			req.Version, req.IsolationLevel, req.Topics[0].TopicID = v, isolation, id
			got := fetchOne(t, w, req)
			if got.ErrorCode != 0 || countBatches(t, got.RecordBatches, 0) != 1 {
				t.Errorf("v%d: code %d, %d bytes", v, got.ErrorCode, len(got.RecordBatches))
			}
			if (got.AbortedTransactions != nil) != (isolation == 1) {
				t.Errorf("v%d isolation %d: aborted transactions %v", v, isolation, got.AbortedTransactions)
			}
		}
	}
}

// TestFetchWaits: a fetch that waits ends when there is enough data, when its topic goes, or at its deadline.
func TestFetchWaits(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w, other := dial(t, r), dial(t, r)
	createTopic(t, other, "t", 1)
	waiting := func() {
		t.Helper()
		for !hasParked(r) {
			time.Sleep(time.Millisecond)
		}
	}
	const forEver = math.MaxInt32

	req := fetchRequest("t", 0)
	req.MaxWaitMillis = forEver
	w.send(req)
	waiting()
	mustProduce(t, other, "t", "a")
	got := w.receive(req, w.next).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if n := countBatches(t, got.RecordBatches, 0); n != 1 {
		t.Errorf("woken by data: %d batches, want 1", n)
	}

	size := int32(len(buildBatch(t, "b")))
	req = fetchRequest("t", 0)
	req.MaxWaitMillis, req.MinBytes = forEver, 3*size
	w.send(req)
	waiting()
	mustProduce(t, other, "t", "b", "c")
	got = w.receive(req, w.next).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if n := countBatches(t, got.RecordBatches, 0); n != 3 {
		t.Errorf("min bytes of three batches: %d batches", n)
	}

	req = fetchRequest("t", 3)
	req.MaxWaitMillis = 30
	if got := fetchOne(t, w, req); got.ErrorCode != 0 || len(got.RecordBatches) != 0 {
		t.Errorf("deadline: code %d, %d bytes, want an empty answer", got.ErrorCode, len(got.RecordBatches))
	}

	req = fetchRequest("t", 3)
	req.MaxWaitMillis = forEver
	w.send(req)
	waiting()
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Version, del.TimeoutMillis, del.TopicNames = 5, 10000, []string{"t"}
	if code := other.do(del).(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode; code != 0 {
		t.Fatalf("delete: code %d", code)
	}
	got = w.receive(req, w.next).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if got.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("topic deleted while waiting: %v", kerr.ErrorForCode(got.ErrorCode))
	}
}

// TestFetchConnectionGone: nothing is left waiting for a client that has gone.
func TestFetchConnectionGone(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	req := fetchRequest("t", 0)
	req.MaxWaitMillis = math.MaxInt32
	w.send(req)
	for !hasParked(r) {
		time.Sleep(time.Millisecond)
	}
	w.conn.Close()
	for hasParked(r) {
		time.Sleep(time.Millisecond)
	}
}

// TestFetchSession walks an incremental session: what is told, what is left out, what is refused.
func TestFetchSession(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	createTopic(t, w, "u", 1)
	mustProduce(t, w, "t", "a")
	full := fetchRequest("t", 0)
	full.SessionEpoch = 0
	full.Topics = append(full.Topics, fetchRequest("u", 0).Topics...)
	resp := w.do(full).(*kmsg.FetchResponse)
	if resp.SessionID == 0 || len(resp.Topics) != 2 {
		t.Fatalf("full fetch: session %d, %d topics", resp.SessionID, len(resp.Topics))
	}
	step := func(epoch int32, topics []kmsg.FetchRequestTopic, forget ...string) *kmsg.FetchResponse {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.MaxBytes, req.SessionID, req.SessionEpoch, req.Topics = 12, 1<<20, resp.SessionID, epoch, topics
		for _, name := range forget {
			req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{Topic: name, Partitions: []int32{0}})
		}
		return w.do(req).(*kmsg.FetchResponse)
	}
	if got := step(1, fetchRequest("t", 1).Topics); got.ErrorCode != 0 || len(got.Topics) != 0 || got.SessionID != resp.SessionID {
		t.Errorf("nothing new: code %d, %d topics, session %d", got.ErrorCode, len(got.Topics), got.SessionID)
	}
	mustProduce(t, w, "u", "b")
	if got := step(2, nil); len(got.Topics) != 1 || got.Topics[0].Topic != "u" || countBatches(t, got.Topics[0].Partitions[0].RecordBatches, 0) != 1 {
		t.Errorf("one partition with data: %+v", got.Topics)
	}
	if got := step(2, nil); got.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
		t.Errorf("epoch used twice: code %d", got.ErrorCode)
	}
	if got := step(3, nil, "u"); got.ErrorCode != 0 || len(got.Topics) != 0 {
		t.Errorf("forgotten partition: code %d, %d topics", got.ErrorCode, len(got.Topics))
	}
	if got := step(4, nil, "t"); got.SessionID != 0 || r.b.sessions.count() != 0 {
		t.Errorf("session without partitions: id %d, %d sessions left", got.SessionID, r.b.sessions.count())
	}
	if got := step(5, nil); got.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("unknown session: code %d", got.ErrorCode)
	}
	full.SessionID = w.do(full).(*kmsg.FetchResponse).SessionID
	full.SessionEpoch = -1
	if got := w.do(full).(*kmsg.FetchResponse); got.SessionID != 0 || len(got.Topics) != 2 || r.b.sessions.count() != 0 {
		t.Errorf("final epoch: session %d, %d topics, %d sessions left", got.SessionID, len(got.Topics), r.b.sessions.count())
	}
}
