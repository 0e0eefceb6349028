package netproto

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func randomProduce(rng *rand.Rand, version int16) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	fillRandom(rng, req)
	req.Version = version
	if rng.IntN(2) == 0 {
		req.TransactionID = nil
	}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			switch rng.IntN(3) {
			case 0:
				req.Topics[i].Partitions[j].Records = nil
			case 1:
				req.Topics[i].Partitions[j].Records = []byte{}
			}
		}
	}
	return req
}

func TestProduceRequestAgreesWithKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var got ProduceRequest // used again, as on a connection
	for version := int16(ProduceVersionMin); version <= ProduceVersionMax; version++ {
		for round := range 100 {
			req := randomProduce(rng, version)
			if round%2 == 1 && req.IsFlexible() {
				tagEverything(reflect.ValueOf(req))
			}
			body := req.AppendTo(nil)
			if err := got.Parse(version, body); err != nil {
				t.Fatalf("v%d: %v", version, err)
			}
			compareProduce(t, &got, req)
			checkCuts(t, body, func(b []byte) error { return got.Parse(version, b) })
		}
	}
}

func compareProduce(t *testing.T, got *ProduceRequest, want *kmsg.ProduceRequest) {
	t.Helper()
	version := want.Version
	if (got.TransactionalID == nil) != (want.TransactionID == nil) || got.Acks != want.Acks || got.TimeoutMs != want.TimeoutMillis || len(got.Topics) != len(want.Topics) {
		t.Fatalf("v%d: %+v, want %+v", version, got, want)
	}
	if want.TransactionID != nil && string(got.TransactionalID) != *want.TransactionID {
		t.Fatalf("v%d: transactional id %q, want %q", version, got.TransactionalID, *want.TransactionID)
	}
	for i, topic := range want.Topics {
		g := got.Topics[i]
		if version >= 13 && g.ID != topic.TopicID || version < 13 && string(g.Name) != topic.Topic || len(g.Partitions) != len(topic.Partitions) {
			t.Fatalf("v%d: topic %+v, want %+v", version, g, topic)
		}
		for j, part := range topic.Partitions {
			p := g.Partitions[j]
			if p.Index != part.Partition || !bytes.Equal(p.Records, part.Records) || (p.Records == nil) != (part.Records == nil) {
				t.Fatalf("v%d: partition %+v, want %+v", version, p, part)
			}
		}
	}
}

// checkCuts wants every proper prefix of a body, and the body with a byte more, refused.
func checkCuts(t *testing.T, body []byte, parse func([]byte) error) {
	t.Helper()
	for n := range body {
		if err := parse(body[:n:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d of %d bytes: error %v, want ErrMalformed", n, len(body), err)
		}
	}
	if err := parse(append(bytes.Clone(body), 0)); !errors.Is(err, ErrMalformed) {
		t.Fatalf("a byte too many: error %v, want ErrMalformed", err)
	}
}

func TestFetchRequestAgreesWithKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	var got FetchRequest
	for version := int16(FetchVersionMin); version <= FetchVersionMax; version++ {
		for round := range 100 {
			req := kmsg.NewPtrFetchRequest()
			fillRandom(rng, req)
			req.Version = version
			if rng.IntN(2) == 0 {
				req.ClusterID = nil
			}
			// kmsg writes tags in versions that do not have them; a reader takes them for unknown ones.
			if version < 15 {
				req.ReplicaState = kmsg.NewFetchRequestReplicaState()
			}
			for i := range req.Topics {
				for j := range req.Topics[i].Partitions {
					p := &req.Topics[i].Partitions[j]
					if version < 18 {
						p.HighWatermark = math.MaxInt64
					}
					if version < 17 {
						p.ReplicaDirectoryID = [16]byte{}
					}
				}
			}
			if round%2 == 1 && req.IsFlexible() {
				tagEverything(reflect.ValueOf(req))
			}
			body := req.AppendTo(nil)
			if err := got.Parse(version, body); err != nil {
				t.Fatalf("v%d: %v", version, err)
			}
			compareFetch(t, &got, body)
			checkCuts(t, body, func(b []byte) error { return got.Parse(version, b) })
		}
	}
}

// compareFetch compares with what kmsg reads, which has the defaults of absent fields.
func compareFetch(t *testing.T, got *FetchRequest, body []byte) {
	t.Helper()
	want := kmsg.NewPtrFetchRequest()
	want.Version = got.Version
	if err := want.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	v := got.Version
	replica, epoch := want.ReplicaID, int64(-1)
	if v >= 15 {
		replica, epoch = want.ReplicaState.ID, want.ReplicaState.Epoch
	}
	type head struct {
		Replica, Wait, Min, Max, Session, SessionEpoch int32
		Epoch                                          int64
		Isolation                                      int8
		Rack, Cluster                                  string
		HasCluster                                     bool
		Topics, Forgotten                              int
	}
	w := head{replica, want.MaxWaitMillis, want.MinBytes, want.MaxBytes, want.SessionID, want.SessionEpoch, epoch, want.IsolationLevel,
		want.Rack, "", want.ClusterID != nil, len(want.Topics), len(want.ForgottenTopics)}
	if want.ClusterID != nil {
		w.Cluster = *want.ClusterID
	}
	g := head{got.ReplicaID, got.MaxWaitMs, got.MinBytes, got.MaxBytes, got.SessionID, got.SessionEpoch, got.ReplicaEpoch, got.IsolationLevel,
		string(got.RackID), string(got.ClusterID), got.ClusterID != nil, len(got.Topics), len(got.Forgotten)}
	if g != w {
		t.Fatalf("v%d: %+v, want %+v", v, g, w)
	}
	for i, topic := range want.Topics {
		if gt := got.Topics[i]; gt.ID != topic.TopicID || string(gt.Name) != topic.Topic || len(gt.Partitions) != len(topic.Partitions) {
			t.Fatalf("v%d: topic %+v, want %+v", v, gt, topic)
		}
		for j, p := range topic.Partitions {
			wp := FetchPartition{p.Partition, p.CurrentLeaderEpoch, p.FetchOffset, p.LastFetchedEpoch, p.LogStartOffset, p.PartitionMaxBytes, p.ReplicaDirectoryID, p.HighWatermark}
			if gp := got.Topics[i].Partitions[j]; gp != wp {
				t.Fatalf("v%d: partition %+v, want %+v", v, gp, wp)
			}
		}
	}
	for i, topic := range want.ForgottenTopics {
		if gt := got.Forgotten[i]; gt.ID != topic.TopicID || string(gt.Name) != topic.Topic || !reflect.DeepEqual(gt.Partitions, topic.Partitions) {
			t.Fatalf("v%d: forgotten %+v, want %+v", v, gt, topic)
		}
	}
}

func TestFetchTagsOfOtherVersionsAreSkipped(t *testing.T) {
	req := kmsg.NewPtrFetchRequest()
	req.Version = 12
	req.ReplicaState.ID = 5 // tag 1, which exists from version 15 on
	got, err := ParseFetch(12, req.AppendTo(nil))
	if err != nil || got.ReplicaID != -1 {
		t.Fatalf("replica id %d, error %v", got.ReplicaID, err)
	}
}

func TestUnsupportedCodecVersions(t *testing.T) {
	for _, v := range []int16{-1, 0, 2, 14, 99} {
		if _, err := ParseProduce(v, nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("Produce v%d: %v", v, err)
		}
	}
	for _, v := range []int16{-1, 0, 3, 19} {
		if _, err := ParseFetch(v, nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("Fetch v%d: %v", v, err)
		}
	}
}

func TestProduceResponseAgreesWithKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for version := int16(ProduceVersionMin); version <= ProduceVersionMax; version++ {
		for range 50 {
			want := kmsg.NewPtrProduceResponse()
			fillRandom(rng, want)
			want.Version = version
			if version < 10 {
				want.Brokers = nil
			}
			for i := range want.Topics {
				for j := range want.Topics[i].Partitions {
					p := &want.Topics[i].Partitions[j]
					if version < 10 || rng.IntN(2) == 0 {
						p.CurrentLeader = kmsg.NewProduceResponseTopicPartitionCurrentLeader()
					}
					if rng.IntN(2) == 0 {
						p.ErrorRecords, p.ErrorMessage = nil, nil
					} else {
						nonEmpty(p.ErrorMessage)
						for k := range p.ErrorRecords {
							nonEmpty(p.ErrorRecords[k].ErrorMessage)
						}
					}
				}
			}
			for i := range want.Brokers {
				nonEmpty(want.Brokers[i].Rack)
			}
			if got := AppendProduceResponse(nil, version, produceResponseOf(want)); !bytes.Equal(got, want.AppendTo(nil)) {
				t.Fatalf("v%d:\n%x, want\n%x", version, got, want.AppendTo(nil))
			}
		}
	}
}

// nonEmpty makes a string one that our structs can tell from null.
func nonEmpty(s *string) {
	if s != nil && *s == "" {
		*s = "y"
	}
}

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func nodesOf[T any](brokers []T, conv func(T) NodeEndpoint) (nodes []NodeEndpoint) {
	for _, b := range brokers {
		nodes = append(nodes, conv(b))
	}
	return nodes
}

func produceResponseOf(k *kmsg.ProduceResponse) *ProduceResponse {
	resp := &ProduceResponse{ThrottleMs: k.ThrottleMillis}
	for _, t := range k.Topics {
		topic := ProduceTopicResult{Name: []byte(t.Topic), ID: t.TopicID}
		for _, p := range t.Partitions {
			part := ProducePartitionResult{Index: p.Partition, ErrorCode: p.ErrorCode, BaseOffset: p.BaseOffset,
				LogAppendTimeMs: p.LogAppendTime, LogStartOffset: p.LogStartOffset, ErrorMessage: str(p.ErrorMessage)}
			for _, e := range p.ErrorRecords {
				part.RecordErrors = append(part.RecordErrors, RecordError{e.RelativeOffset, str(e.ErrorMessage)})
			}
			if l := p.CurrentLeader; l.LeaderID != -1 || l.LeaderEpoch != -1 {
				part.CurrentLeader = &LeaderAndEpoch{l.LeaderID, l.LeaderEpoch}
			}
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	resp.Nodes = nodesOf(k.Brokers, func(b kmsg.ProduceResponseBroker) NodeEndpoint {
		return NodeEndpoint{b.NodeID, b.Host, b.Port, str(b.Rack)}
	})
	return resp
}

func TestFetchResponseAgreesWithKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for version := int16(FetchVersionMin); version <= FetchVersionMax; version++ {
		for range 50 {
			want := randomFetchResponse(rng, version)
			released := 0
			p := NewPayload()
			fetchResponseOf(want, rng, &released).AppendTo(p, version)
			size := p.Size()
			p.seal(1, false)
			got := bytes.Join(p.appendBuffers(nil), nil)[8:]
			if !bytes.Equal(got, want.AppendTo(nil)) {
				t.Fatalf("v%d:\n%x, want\n%x", version, got, want.AppendTo(nil))
			}
			if size != len(got) {
				t.Fatalf("v%d: size %d of %d bytes", version, size, len(got))
			}
			parts := 0
			for _, topic := range want.Topics {
				parts += len(topic.Partitions)
			}
			if p.Discard(); released != parts {
				t.Fatalf("v%d: %d owners released, want %d", version, released, parts)
			}
		}
	}
}

func randomFetchResponse(rng *rand.Rand, version int16) *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	fillRandom(rng, resp)
	resp.Version = version
	if version < 16 {
		resp.Brokers = nil
	}
	for i := range resp.Brokers {
		nonEmpty(resp.Brokers[i].Rack)
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			p.SnapshotID = kmsg.NewFetchResponseTopicPartitionSnapshotID()
			if rng.IntN(2) == 0 {
				p.DivergingEpoch = kmsg.NewFetchResponseTopicPartitionDivergingEpoch()
			}
			if rng.IntN(2) == 0 {
				p.CurrentLeader = kmsg.NewFetchResponseTopicPartitionCurrentLeader()
			}
			switch rng.IntN(3) {
			case 0:
				p.AbortedTransactions = nil
			case 1:
				p.RecordBatches = []byte{}
			}
		}
	}
	return resp
}

func fetchResponseOf(k *kmsg.FetchResponse, rng *rand.Rand, released *int) *FetchResponse {
	resp := &FetchResponse{ThrottleMs: k.ThrottleMillis, ErrorCode: k.ErrorCode, SessionID: k.SessionID}
	for _, t := range k.Topics {
		topic := FetchTopicResult{Name: []byte(t.Topic), ID: t.TopicID}
		for _, p := range t.Partitions {
			part := FetchPartitionResult{Index: p.Partition, ErrorCode: p.ErrorCode, HighWatermark: p.HighWatermark,
				LastStableOffset: p.LastStableOffset, LogStartOffset: p.LogStartOffset, PreferredReadReplica: p.PreferredReadReplica,
				Owner: releaseFunc(func() { *released++ })}
			for _, a := range p.AbortedTransactions {
				part.Aborted = append(part.Aborted, AbortedTransaction{a.ProducerID, a.FirstOffset})
			}
			for rest := p.RecordBatches; len(rest) > 0; {
				n := 1 + rng.IntN(len(rest))
				part.Records, rest = append(part.Records, rest[:n]), rest[n:]
			}
			if l := p.CurrentLeader; l.LeaderID != -1 || l.LeaderEpoch != -1 {
				part.CurrentLeader = &LeaderAndEpoch{l.LeaderID, l.LeaderEpoch}
			}
			if d := p.DivergingEpoch; d.Epoch != -1 || d.EndOffset != -1 {
				part.DivergingEpoch = &EpochEndOffset{d.Epoch, d.EndOffset}
			}
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	resp.Nodes = nodesOf(k.Brokers, func(b kmsg.FetchResponseBroker) NodeEndpoint {
		return NodeEndpoint{b.NodeID, b.Host, b.Port, str(b.Rack)}
	})
	return resp
}

func TestCodecsDoNotAllocate(t *testing.T) {
	produce := randomProduce(rand.New(rand.NewPCG(7, 7)), 12).AppendTo(nil)
	fetch := kmsg.NewPtrFetchRequest()
	fillRandom(rand.New(rand.NewPCG(8, 8)), fetch)
	fetch.Version = 17
	fetchBody := fetch.AppendTo(nil)
	var p ProduceRequest
	var f FetchRequest
	buf := make([]byte, 0, 4096)
	resp := ProduceResponse{Topics: []ProduceTopicResult{{Name: []byte("t"), Partitions: make([]ProducePartitionResult, 2)}}}
	if n := testing.AllocsPerRun(100, func() {
		if p.Parse(12, produce) != nil || f.Parse(17, fetchBody) != nil {
			t.Fatal("parse")
		}
		buf = AppendProduceResponse(buf[:0], 12, &resp)
	}); n > 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzParseProduce(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 9))
	for version := int16(ProduceVersionMin); version <= ProduceVersionMax; version++ {
		f.Add(version, randomProduce(rng, version).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		got, err := ParseProduce(version, body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		want := kmsg.NewPtrProduceRequest()
		want.Version = version
		if err := want.ReadFrom(body); err != nil {
			t.Fatalf("accepted what kmsg refuses: %v", err)
		}
		compareProduce(t, &got, want)
	})
}

func FuzzParseFetch(f *testing.F) {
	rng := rand.New(rand.NewPCG(10, 10))
	for version := int16(FetchVersionMin); version <= FetchVersionMax; version++ {
		req := kmsg.NewPtrFetchRequest()
		fillRandom(rng, req)
		req.Version = version
		f.Add(version, req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		got, err := ParseFetch(version, body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if n := len(got.Topics) + len(got.partitions) + len(got.forgotten); n > len(body) {
			t.Fatalf("%d elements from %d bytes", n, len(body))
		}
	})
}

func BenchmarkParseProduce(b *testing.B) {
	req := kmsg.NewPtrProduceRequest()
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic = "orders"
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = make([]byte, 200)
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	req.Version = 12
	body := req.AppendTo(nil)
	var p ProduceRequest
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := p.Parse(12, body); err != nil {
			b.Fatal(fmt.Sprint(err))
		}
	}
}
