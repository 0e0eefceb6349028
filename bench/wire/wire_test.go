package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

func TestBatchIsWhatABrokerAccepts(t *testing.T) {
	for _, count := range []int{1, 64} {
		raw := Batch(count, 100, rand.NewChaCha8([32]byte{1}))
		b, rest, err := record.Next(raw)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%d records: %v, %d bytes left", count, err, len(rest))
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		n := 0
		err = b.Each(func(r *record.Record) bool {
			if len(r.Value) != 100 || r.Offset != int64(n) {
				t.Errorf("record %d: offset %d, value of %d bytes", n, r.Offset, len(r.Value))
			}
			n++
			return true
		})
		if err != nil || n != count {
			t.Fatalf("%d of %d records, %v", n, count, err)
		}
	}
}

// produceResponse encodes what a broker answers to a ProduceFrame.
func produceResponse(topic string, code int16) []byte {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(produceVersion)
	rt := kmsg.NewProduceResponseTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceResponseTopicPartition()
	rp.Partition, rp.ErrorCode, rp.BaseOffset = 7, code, 42
	rt.Partitions = append(rt.Partitions, rp)
	resp.Topics = append(resp.Topics, rt)
	return resp.AppendTo([]byte{0, 0, 0, 1, 0})
}

func TestCheckProducedFindsTheCode(t *testing.T) {
	for _, topic := range []string{"t", "a-longer-topic"} {
		if base, err := CheckProduced(produceResponse(topic, 0), topic); err != nil || base != 42 {
			t.Errorf("%s: base offset %d, %v", topic, base, err)
		}
		if _, err := CheckProduced(produceResponse(topic, 56), topic); !errors.Is(err, kerr.KafkaStorageError) {
			t.Errorf("%s: %v, want KAFKA_STORAGE_ERROR", topic, err)
		}
	}
	if _, err := CheckProduced([]byte{0, 0, 0, 1, 0}, "t"); !errors.Is(err, ErrShort) {
		t.Errorf("a short response: %v", err)
	}
}

func TestProduceFrameIsARequest(t *testing.T) {
	batch := Batch(2, 10, rand.NewChaCha8([32]byte{}))
	frame := ProduceFrame("topic", 3, batch)
	if n := binary.BigEndian.Uint32(frame); int(n) != len(frame)-4 {
		t.Fatalf("length %d of a frame of %d bytes", n, len(frame))
	}
	head := 4 + 8 + 2 + len("weir-bench") + 1
	var req kmsg.ProduceRequest
	req.SetVersion(produceVersion)
	if err := req.ReadFrom(frame[head:]); err != nil {
		t.Fatal(err)
	}
	if p := req.Topics[0].Partitions[0]; req.Acks != -1 || req.Topics[0].Topic != "topic" || p.Partition != 3 || !bytes.Equal(p.Records, batch) {
		t.Fatalf("got %+v", req)
	}
}

func TestParseFetchedMovesOffsets(t *testing.T) {
	batch := Batch(5, 10, rand.NewChaCha8([32]byte{}))
	record.Batch(batch).SetBaseOffset(100)
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(12)
	rt := kmsg.NewFetchResponseTopic()
	rt.Topic = "t"
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.Partition, rp.RecordBatches = 2, append(bytes.Clone(batch), batch[:70]...) // the second is cut
	rt.Partitions = append(rt.Partitions, rp)
	resp.Topics = append(resp.Topics, rt)
	offsets := map[int32]int64{2: 98}
	got, err := ParseFetched(resp.AppendTo([]byte{0, 0, 0, 1, 0}), offsets)
	if err != nil || got.Messages != 5 || got.Bytes != int64(len(batch)) || offsets[2] != 105 {
		t.Fatalf("got %+v, %v, next offset %d; want 5 messages, %d bytes, 105", got, err, offsets[2], len(batch))
	}
	resp.Topics[0].Partitions[0].ErrorCode = kerr.OffsetOutOfRange.Code
	if _, err := ParseFetched(resp.AppendTo([]byte{0, 0, 0, 1, 0}), offsets); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Fatalf("a partition's error: %v", err)
	}
	if frame := FetchFrame("t", offsets, 1<<20, time.Second); int(binary.BigEndian.Uint32(frame)) != len(frame)-4 {
		t.Fatalf("fetch frame of %d bytes has a wrong length", len(frame))
	}
}

// fetchResponse encodes what a broker answers to a FetchFrame for partition 0 of a topic.
func fetchResponse(batches []byte) []byte {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(12)
	rt := kmsg.NewFetchResponseTopic()
	rt.Topic = "t"
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.RecordBatches = batches
	rt.Partitions = append(rt.Partitions, rp)
	resp.Topics = append(resp.Topics, rt)
	return resp.AppendTo([]byte{0, 0, 0, 1, 0})
}

func TestCheckFetchedProvesWhatItCounts(t *testing.T) {
	batch := func(base int64, count int) []byte {
		b := Batch(count, 10, rand.NewChaCha8([32]byte{}))
		record.Batch(b).SetBaseOffset(base)
		return b
	}
	good := append(batch(7, 3), batch(10, 2)...)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, tt := range []struct {
		name    string
		batches []byte
		from    int64
		want    int64 // messages; -1: wrong
	}{
		{"all there", good, 7, 5},
		{"the last is cut", good[:len(good)-1], 7, 3},
		{"nothing", nil, 7, 0},
		{"a bit has flipped", flipped, 7, -1},
		{"a hole before it", good, 6, -1},
		{"a hole within", append(batch(7, 3), batch(11, 2)...), 7, -1},
		{"again", append(batch(7, 3), batch(7, 3)...), 7, -1},
		{"a size of nothing", append(bytes.Repeat([]byte{0}, 11), bytes.Repeat([]byte{1}, 60)...), 0, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			offsets := map[int32]int64{0: tt.from}
			got, err := CheckFetched(fetchResponse(tt.batches), offsets)
			if wrong := errors.Is(err, ErrWrong); wrong != (tt.want < 0) || !wrong && (err != nil || got.Messages != tt.want || offsets[0] != tt.from+tt.want) {
				t.Fatalf("%+v, %v, next %d; want %d messages", got, err, offsets[0], tt.want)
			}
		})
	}
}

func FuzzResponses(f *testing.F) {
	f.Add(produceResponse("t", 0), []byte{0, 0, 0, 1, 0})
	f.Add([]byte{}, bytes.Repeat([]byte{0xff}, 100))
	f.Fuzz(func(t *testing.T, produced, fetched []byte) {
		_, _ = CheckProduced(produced, "topic")
		offsets := map[int32]int64{0: 0}
		if got, err := ParseFetched(fetched, offsets); err == nil && got.Bytes > int64(len(fetched)) {
			t.Fatalf("%d bytes of batches in a response of %d", got.Bytes, len(fetched))
		}
		offsets = map[int32]int64{0: 0}
		if got, err := CheckFetched(fetched, offsets); err == nil && got.Bytes > int64(len(fetched)) {
			t.Fatalf("%d bytes of checked batches in a response of %d", got.Bytes, len(fetched))
		}
		_, _ = ReadFrame(bytes.NewReader(fetched), nil)
	})
}
