package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/wire"
)

// Replica is one node's copy of a partition, as a consumer that asks that node reads it.
type Replica struct {
	Name string
	// Fetch returns whole record batches from the one that holds an offset on, none at the high watermark.
	Fetch func(offset int64) (Fetched, error)
}

// Fetched is what a fetch returned.
type Fetched struct {
	Batches       []byte
	LogStart      int64
	HighWatermark int64
}

const (
	batchHead   = 12 // base offset and length
	batchMin    = 61 // a whole header
	atEpoch     = 12 // the partition leader's epoch
	atLastDelta = 23
)

// NodeReplica asks one node for its copy of a partition. The nodes need replica.selector.class.
func NodeReplica(addr, topic string, partition int32) Replica {
	return Replica{Name: addr, Fetch: func(offset int64) (Fetched, error) {
		nc, err := net.DialTimeout("tcp", addr, readLimit)
		if err != nil {
			return Fetched{}, err
		}
		defer nc.Close()
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(12)
		req.Rack = "verify" // a follower answers who says where it is (KIP-392); no node is there
		req.MaxWaitMillis, req.MaxBytes, req.SessionEpoch = 0, 16<<20, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, offset, 8<<20
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := wire.On(nc).Try(req, readLimit)
		if err != nil {
			return Fetched{}, fmt.Errorf("fetch %s-%d from %s: %w", topic, partition, addr, err)
		}
		fetched := resp.(*kmsg.FetchResponse)
		if len(fetched.Topics) != 1 || len(fetched.Topics[0].Partitions) != 1 {
			return Fetched{}, fmt.Errorf("fetch %s-%d from %s: the response lacks the partition: %+v", topic, partition, addr, fetched)
		}
		p := fetched.Topics[0].Partitions[0]
		got := Fetched{Batches: p.RecordBatches, LogStart: p.LogStartOffset, HighWatermark: p.HighWatermark}
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return got, fmt.Errorf("fetch %s-%d at offset %d from %s: %w", topic, partition, offset, addr, err)
		}
		return got, nil
	}}
}

// Bounds are the log starts and high watermarks of replicas.
func Bounds(replicas []Replica) (starts, ends []int64, err error) {
	for _, r := range replicas {
		// Beyond any end: what matters is what the answer says about the log.
		got, err := r.Fetch(1 << 60)
		if err != nil && got.HighWatermark < 0 {
			return nil, nil, err
		}
		starts, ends = append(starts, got.LogStart), append(ends, got.HighWatermark)
	}
	return starts, ends, nil
}

// SameLogs is nil if the replicas hold the same batches, byte for byte, from an offset up to another, at the same offsets without gaps, in epochs
// that do not fall. Nothing may be written meanwhile.
func SameLogs(replicas []Replica, from, to int64) error {
	epoch := int32(-1)
	rest := make([][]byte, len(replicas))
	for at := from; at < to; {
		var first []byte
		for i, r := range replicas {
			b, err := nextBatch(r, &rest[i], at)
			if err != nil {
				return err
			}
			if i == 0 {
				first = b
				continue
			}
			if !bytes.Equal(first, b) {
				return fmt.Errorf("REPLICAS DIFFER at offset %d: %s has %s, %s has %s", at, replicas[0].Name, describeBatch(first), r.Name, describeBatch(b))
			}
		}
		base, last := offsetsOf(first)
		if base > at || base < at && at != from {
			return fmt.Errorf("GAP OR OVERLAP: %s has %s where offset %d is next", replicas[0].Name, describeBatch(first), at)
		}
		if e := epochOf(first); e < epoch {
			return fmt.Errorf("EPOCH GOES BACK at offset %d: %s after epoch %d", at, describeBatch(first), epoch)
		} else {
			epoch = e
		}
		at = last + 1
	}
	return nil
}

// nextBatch takes the batch that holds an offset from what was fetched last, or fetches more.
func nextBatch(r Replica, rest *[]byte, at int64) ([]byte, error) {
	for fetched := false; ; fetched = true {
		for b := *rest; len(b) >= batchMin; b = *rest {
			n := int(binary.BigEndian.Uint32(b[8:])) + batchHead
			if n < batchMin || n > len(b) {
				break // the end of an answer may be cut
			}
			*rest = b[n:]
			if _, last := offsetsOf(b[:n]); last >= at {
				return b[:n], nil
			}
		}
		if fetched {
			return nil, fmt.Errorf("MISSING: %s returns no batch for offset %d", r.Name, at)
		}
		got, err := r.Fetch(at)
		if err != nil {
			return nil, err
		}
		*rest = slices.Clone(got.Batches)
	}
}

func offsetsOf(b []byte) (base, last int64) {
	base = int64(binary.BigEndian.Uint64(b))
	return base, base + int64(binary.BigEndian.Uint32(b[atLastDelta:]))
}

func epochOf(b []byte) int32 { return int32(binary.BigEndian.Uint32(b[atEpoch:])) }

func describeBatch(b []byte) string {
	base, last := offsetsOf(b)
	return fmt.Sprintf("offsets %d-%d of epoch %d in %d bytes", base, last, epochOf(b), len(b))
}

// SameLeaders is nil if every node tells the same leaders, epochs and in-sync replicas of a topic's partitions.
func SameLeaders(addrs []string, topic string) error {
	views := make([][]kmsg.MetadataResponseTopicPartition, len(addrs))
	for i, addr := range addrs {
		partitions, err := Describe(addr, topic)
		if err != nil {
			return err
		}
		slices.SortFunc(partitions, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
		views[i] = partitions
	}
	return sameViews(addrs, views)
}

func sameViews(addrs []string, views [][]kmsg.MetadataResponseTopicPartition) error {
	for i, view := range views[1:] {
		if len(view) != len(views[0]) {
			return fmt.Errorf("NODES DISAGREE: %s knows %d partitions, %s %d", addrs[0], len(views[0]), addrs[i+1], len(view))
		}
		for k, p := range view {
			q := views[0][k]
			isr, other := slices.Sorted(slices.Values(p.ISR)), slices.Sorted(slices.Values(q.ISR))
			if p.Partition != q.Partition || p.Leader != q.Leader || p.LeaderEpoch != q.LeaderEpoch || !slices.Equal(isr, other) {
				return fmt.Errorf("NODES DISAGREE about partition %d: %s says leader %d, epoch %d, in sync %v; %s says %d, %d, %v", p.Partition,
					addrs[0], q.Leader, q.LeaderEpoch, other, addrs[i+1], p.Leader, p.LeaderEpoch, isr)
			}
		}
	}
	return nil
}
