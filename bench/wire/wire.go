// Package wire encodes produce and fetch requests once and sends them as bytes, so that the load generator costs next to
// nothing beside the broker that it measures.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// produceVersion names topics and is flexible, as today's clients speak it.
const produceVersion = 9

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrShort is a response that ends before its fields do.
var ErrShort = errors.New("response is too short")

// Batch encodes an uncompressed record batch of count records with values of size bytes that do not compress, from a
// producer without an id.
func Batch(count, size int, rng *rand.ChaCha8) []byte {
	value := make([]byte, size)
	var payload []byte
	for i := range count {
		_, _ = rng.Read(value) // never fails
		r := kmsg.Record{OffsetDelta: int32(i), Value: value}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // the length field itself, 0 here, takes one byte
		payload = r.AppendTo(payload)
	}
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(count - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(count), Records: payload,
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
	return raw
}

// ProduceFrame encodes a whole produce request (acks=all) for one batch.
func ProduceFrame(topic string, partition int32, batch []byte) []byte {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(produceVersion)
	req.Acks, req.TimeoutMillis = -1, 30_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, batch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return formatter.AppendRequest(nil, req, 1)
}

var formatter = kmsg.NewRequestFormatter(kmsg.FormatterClientID("weir-bench"))

// CheckProduced reads the error code and the base offset out of the response to a ProduceFrame. It finds them by position: correlation id,
// tags, one topic, its name, one partition, its index, the code, the offset.
func CheckProduced(frame []byte, topic string) (base int64, err error) {
	at := 4 + 1 + 1 + 1 + len(topic) + 1 + 4 // a name of up to 126 bytes has a length of one byte
	if len(frame) < at+2+8 {
		return 0, fmt.Errorf("%w: produce response of %d bytes", ErrShort, len(frame))
	}
	if code := int16(binary.BigEndian.Uint16(frame[at:])); code != 0 {
		return 0, fmt.Errorf("produce to %s: %w", topic, kerr.ErrorForCode(code))
	}
	return int64(binary.BigEndian.Uint64(frame[at+2:])), nil
}

// ReadFrame reads a frame without its length into buf, which it grows.
func ReadFrame(r io.Reader, buf []byte) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return buf, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n > 1<<30 {
		return buf, fmt.Errorf("response of %d bytes", n)
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}

// FetchFrame encodes a fetch request outside any session.
func FetchFrame(topic string, offsets map[int32]int64, partitionBytes int32, wait time.Duration) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(12)
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = int32(wait.Milliseconds()), 1, 64<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	for partition, offset := range offsets {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, partitionBytes
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return formatter.AppendRequest(nil, req, 1)
}

// Fetched is what a fetch response brought.
type Fetched struct {
	Messages int64
	Bytes    int64 // of record batches
}

// ParseFetched decodes the response to a FetchFrame and moves the offsets behind what it brought. Record batches are
// counted by their headers and not decoded.
func ParseFetched(frame []byte, offsets map[int32]int64) (Fetched, error) {
	return parseFetched(frame, offsets, func(b []byte, from int64) (messages, size, next int64, err error) {
		messages, size, next = walk(b, from)
		return messages, size, next, nil
	})
}

// CheckFetched is ParseFetched with proof: every batch must have its checksum and begin where the one before it ended.
func CheckFetched(frame []byte, offsets map[int32]int64) (Fetched, error) {
	return parseFetched(frame, offsets, check)
}

func parseFetched(frame []byte, offsets map[int32]int64, take func(batches []byte, from int64) (messages, size, next int64, err error)) (Fetched, error) {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(12)
	if len(frame) < 5 {
		return Fetched{}, fmt.Errorf("%w: fetch response of %d bytes", ErrShort, len(frame))
	}
	if err := resp.ReadFrom(frame[5:]); err != nil {
		return Fetched{}, fmt.Errorf("fetch response: %w", err)
	}
	if resp.ErrorCode != 0 {
		return Fetched{}, fmt.Errorf("fetch: %w", kerr.ErrorForCode(resp.ErrorCode))
	}
	var got Fetched
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return got, fmt.Errorf("fetch %s-%d at %d: %w", t.Topic, p.Partition, offsets[p.Partition], kerr.ErrorForCode(p.ErrorCode))
			}
			messages, size, next, err := take(p.RecordBatches, offsets[p.Partition])
			if err != nil {
				return got, fmt.Errorf("fetch %s-%d at %d: %w", t.Topic, p.Partition, offsets[p.Partition], err)
			}
			got.Messages, got.Bytes = got.Messages+messages, got.Bytes+size
			offsets[p.Partition] = next
		}
	}
	return got, nil
}

// walk counts whole batches; the last may be cut.
func walk(b []byte, next int64) (messages, size, after int64) {
	for len(b) >= 61 {
		n := int(binary.BigEndian.Uint32(b[8:])) + 12
		if n > len(b) {
			break
		}
		next = int64(binary.BigEndian.Uint64(b)) + int64(binary.BigEndian.Uint32(b[23:])) + 1
		messages += int64(binary.BigEndian.Uint32(b[57:]))
		size += int64(n)
		b = b[n:]
	}
	return messages, size, next
}

// ErrWrong is a batch that is not what was written, or not where it should be.
var ErrWrong = errors.New("what was read back is wrong")

// check is walk with proof.
func check(b []byte, next int64) (messages, size, after int64, err error) {
	for len(b) >= 61 {
		n := int(binary.BigEndian.Uint32(b[8:])) + 12
		if n > len(b) {
			break
		}
		if n < 61 {
			return 0, 0, 0, fmt.Errorf("%w: a batch of %d bytes", ErrWrong, n)
		}
		base, last, count := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint32(b[23:])), int64(binary.BigEndian.Uint32(b[57:]))
		if base != next || count != last+1 {
			return 0, 0, 0, fmt.Errorf("%w: a batch of %d records has offsets %d to %d, expected from %d", ErrWrong, count, base, base+last, next)
		}
		if got, want := crc32.Checksum(b[21:n], castagnoli), binary.BigEndian.Uint32(b[17:]); got != want {
			return 0, 0, 0, fmt.Errorf("%w: the batch at %d has checksum %08x, its header says %08x", ErrWrong, base, got, want)
		}
		messages, size, next = messages+count, size+int64(n), next+last+1
		b = b[n:]
	}
	return messages, size, next, nil
}
