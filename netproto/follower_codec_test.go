package netproto

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func randomID(rng *rand.Rand) (id [16]byte) {
	for i := range id {
		id[i] = byte(rng.IntN(256))
	}
	return id
}

// randomFollowerFetch makes a request with more of everything than one-byte lengths hold now and then.
func randomFollowerFetch(rng *rand.Rand, version int16) *FetchRequest {
	f := &FetchRequest{
		Version: version, ReplicaID: int32(rng.IntN(9)), ReplicaEpoch: rng.Int64N(1 << 40), MaxWaitMs: 500, MinBytes: 1, MaxBytes: 10 << 20,
		SessionID: rng.Int32(), SessionEpoch: int32(rng.IntN(5)) - 1,
	}
	for range rng.IntN(3) {
		t := FetchTopic{ID: randomID(rng)}
		for range rng.IntN(200) {
			p := FetchPartition{Index: rng.Int32N(900), CurrentLeaderEpoch: rng.Int32N(9) - 1, FetchOffset: rng.Int64(), LastFetchedEpoch: rng.Int32N(9) - 1,
				LogStartOffset: rng.Int64N(99), MaxBytes: 1 << 20, HighWatermark: math.MaxInt64}
			if version >= 18 && rng.IntN(2) == 0 {
				p.HighWatermark = rng.Int64()
			}
			t.Partitions = append(t.Partitions, p)
		}
		f.Topics = append(f.Topics, t)
	}
	for range rng.IntN(3) {
		f.Forgotten = append(f.Forgotten, ForgottenTopic{ID: randomID(rng), Partitions: []int32{rng.Int32(), 3}})
	}
	return f
}

// TestFollowerFetchRoundTrip: what a follower writes is what a leader, and kmsg, read.
func TestFollowerFetchRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	for version := int16(fetchFollowerMin); version <= FetchVersionMax; version++ {
		for range 100 {
			want := randomFollowerFetch(rng, version)
			body := want.AppendTo(nil)
			got, err := ParseFetch(version, body)
			if err != nil {
				t.Fatalf("v%d: %v", version, err)
			}
			if a, b := followerText(&got), followerText(want); a != b {
				t.Fatalf("v%d: read\n%s\nwritten\n%s", version, a, b)
			}
			other := kmsg.NewPtrFetchRequest()
			other.Version = version
			if err := other.ReadFrom(body); err != nil {
				t.Fatalf("v%d: kmsg: %v", version, err)
			}
			if again := other.AppendTo(nil); !bytes.Equal(again, body) {
				t.Fatalf("v%d: kmsg writes\n%x, not\n%x", version, again, body)
			}
		}
	}
}

func followerText(f *FetchRequest) string {
	s := fmt.Sprintln(f.ReplicaID, f.ReplicaEpoch, f.MaxWaitMs, f.MinBytes, f.MaxBytes, f.SessionID, f.SessionEpoch, len(f.RackID))
	for _, t := range f.Topics {
		s += fmt.Sprintln(t.ID, t.Partitions)
	}
	for _, t := range f.Forgotten {
		s += fmt.Sprintln(t.ID, t.Partitions)
	}
	return s
}

func randomLeaderAnswer(rng *rand.Rand) *FetchResponse {
	resp := &FetchResponse{ThrottleMs: 3, ErrorCode: int16(rng.IntN(3)), SessionID: rng.Int32()}
	for range rng.IntN(3) {
		topic := FetchTopicResult{ID: randomID(rng)}
		for range rng.IntN(1 + rng.IntN(150)) {
			p := FetchPartitionResult{Index: rng.Int32N(99), ErrorCode: int16(rng.IntN(9)), HighWatermark: rng.Int64(), LastStableOffset: 5,
				LogStartOffset: rng.Int64(), PreferredReadReplica: -1}
			if rng.IntN(3) == 0 {
				p.DivergingEpoch = &EpochEndOffset{Epoch: rng.Int32N(7) - 1, EndOffset: rng.Int64N(99) - 1}
			}
			if rng.IntN(3) == 0 {
				p.CurrentLeader = &LeaderAndEpoch{LeaderID: rng.Int32N(7), LeaderEpoch: rng.Int32N(99)}
			}
			if rng.IntN(4) == 0 {
				p.Aborted = []AbortedTransaction{{1, 2}, {3, 4}}
			}
			for range rng.IntN(3) {
				p.Records = append(p.Records, bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(300)))
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	if rng.IntN(2) == 0 {
		resp.Nodes = []NodeEndpoint{{ID: 2, Host: "h", Port: 9, Rack: "r"}}
	}
	return resp
}

func fetchBody(resp *FetchResponse, version int16) []byte {
	p := NewPayload()
	defer p.Discard()
	resp.AppendTo(p, version)
	p.seal(0, true)
	var frame []byte
	for _, b := range p.appendBuffers(nil) {
		frame = append(frame, b...)
	}
	return frame[headRoom:]
}

// TestFetchAnswer: a follower reads what the leader wrote, however it is cut.
func TestFetchAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 12))
	var got FetchAnswer // used again
	for version := int16(fetchFollowerMin); version <= FetchVersionMax; version++ {
		for round := range 60 {
			resp := randomLeaderAnswer(rng)
			body := fetchBody(resp, version)
			if err := got.Parse(version, body); err != nil {
				t.Fatalf("v%d: %v", version, err)
			}
			if got.ThrottleMs != resp.ThrottleMs || got.ErrorCode != resp.ErrorCode || got.SessionID != resp.SessionID {
				t.Fatalf("v%d: %+v, want %+v", version, got, resp)
			}
			n := 0
			for _, topic := range resp.Topics {
				for _, want := range topic.Partitions {
					compareAnswer(t, topic.ID, &got.Partitions[n], &want)
					n++
				}
			}
			if n != len(got.Partitions) {
				t.Fatalf("v%d: %d partitions, want %d", version, len(got.Partitions), n)
			}
			if cuts := len(body) < 4000; cuts && round < 20 {
				checkCuts(t, body, func(b []byte) error { return got.Parse(version, b) })
			}
		}
	}
	if err := got.Parse(fetchFollowerMin-1, nil); err == nil {
		t.Error("a version that followers do not use was read")
	}
}

func compareAnswer(t *testing.T, id [16]byte, got *FetchAnswerPartition, want *FetchPartitionResult) {
	t.Helper()
	diverging, leader := EpochEndOffset{-1, -1}, LeaderAndEpoch{-1, -1}
	if want.DivergingEpoch != nil {
		diverging = *want.DivergingEpoch
	}
	if want.CurrentLeader != nil {
		leader = *want.CurrentLeader
	}
	if got.TopicID != id || got.Index != want.Index || got.ErrorCode != want.ErrorCode || got.HighWatermark != want.HighWatermark ||
		got.LogStartOffset != want.LogStartOffset || got.Diverging != diverging || got.Diverges != (want.DivergingEpoch != nil) || got.CurrentLeader != leader || !bytes.Equal(got.Records, bytes.Join(want.Records, nil)) {
		t.Fatalf("read %+v\nwritten %+v", got, want)
	}
}

func FuzzFetchAnswer(f *testing.F) {
	rng := rand.New(rand.NewPCG(13, 13))
	for range 4 {
		f.Add(fetchBody(randomLeaderAnswer(rng), FetchVersionMax))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var a FetchAnswer
		if a.Parse(FetchVersionMax, body) != nil && len(a.Partitions) > 0 {
			t.Error("partitions of an answer that was refused")
		}
	})
}

// TestForwardedProduceRoundTrip: the pieces make a request that is read as any other.
func TestForwardedProduceRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 14))
	for range 200 {
		topics, partitions, size := rng.IntN(200), 0, 0
		b := AppendProduceHead(nil, -1, 30000, topics)
		want := kmsg.NewPtrProduceRequest()
		want.Version, want.Acks, want.TimeoutMillis = ProduceForwardVersion, -1, 30000
		for range topics {
			topic := kmsg.NewProduceRequestTopic()
			topic.TopicID = randomID(rng)
			n := 1 + rng.IntN(3)
			b = AppendProduceTopic(b, topic.TopicID, n)
			for i := range n {
				records := bytes.Repeat([]byte{1}, rng.IntN(300))
				b = AppendProduceEnd(append(AppendProducePartition(b, int32(i), len(records)), records...))
				topic.Partitions = append(topic.Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(i), Records: records})
				partitions, size = partitions+1, size+len(records)
			}
			b = AppendProduceEnd(b)
			want.Topics = append(want.Topics, topic)
		}
		b = AppendProduceEnd(b)
		if !bytes.Equal(b, want.AppendTo(nil)) {
			t.Fatalf("written %x, kmsg writes %x", b, want.AppendTo(nil))
		}
		if limit := ProduceOwnMax(topics, partitions) + size; len(b) > limit {
			t.Fatalf("%d bytes, at most %d were promised", len(b), limit)
		}
	}
}

func randomLeaderResult(rng *rand.Rand) *ProduceResponse {
	resp := &ProduceResponse{ThrottleMs: rng.Int32N(9)}
	for range rng.IntN(4) {
		topic := ProduceTopicResult{ID: randomID(rng)}
		for range rng.IntN(1 + rng.IntN(150)) {
			p := ProducePartitionResult{Index: rng.Int32N(99), ErrorCode: int16(rng.IntN(90)), BaseOffset: rng.Int64(), LogAppendTimeMs: -1, LogStartOffset: rng.Int64N(5)}
			if rng.IntN(3) == 0 {
				p.ErrorMessage = "why"
				p.RecordErrors = []RecordError{{1, "bad"}, {2, ""}}
			}
			if rng.IntN(3) == 0 {
				p.CurrentLeader = &LeaderAndEpoch{LeaderID: rng.Int32N(7), LeaderEpoch: rng.Int32N(99)}
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	if rng.IntN(2) == 0 {
		resp.Nodes = []NodeEndpoint{{ID: 2, Host: "h", Port: 9, Rack: "r"}, {ID: 3, Host: "", Port: 9}}
	}
	return resp
}

func TestForwardedProduceAnswer(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 15))
	for round := range 100 {
		want := randomLeaderResult(rng)
		body := AppendProduceResponse(nil, ProduceForwardVersion, want)
		var got ProduceResponse
		if err := got.Parse(body); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("read %+v\nwritten %+v", got, want)
		}
		if cuts := len(body) < 4000; cuts && round < 20 {
			checkCuts(t, body, func(b []byte) error { return got.Parse(b) })
		}
	}
}

func FuzzForwardedProduceAnswer(f *testing.F) {
	rng := rand.New(rand.NewPCG(16, 16))
	for range 4 {
		f.Add(AppendProduceResponse(nil, ProduceForwardVersion, randomLeaderResult(rng)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var resp ProduceResponse
		if resp.Parse(body) != nil && len(resp.Topics) > 0 {
			t.Error("topics of an answer that was refused")
		}
	})
}
