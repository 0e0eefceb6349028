package clients

import (
	"fmt"
	"hash/fnv"
	"time"

	"weir/test/internal/records"
)

// kcatHeaders are what kcat puts on every record: it cannot set them per record.
var kcatHeaders = []records.Header{{Key: "client", Value: []byte("kcat")}, {Key: "höhe", Value: []byte("1000 m")}}

// checker knows what a topic must hold.
type checker struct {
	producer     client
	seed         uint64
	perPartition int64
	begun        time.Time
	ended        time.Time
	// seen are the timestamps that the first reader saw, where the producer's own clock made them: the others must see the same.
	seen [partitions][]int64
}

func newChecker(producer client, codec string, perPartition int64) *checker {
	h := fnv.New64a()
	_, _ = h.Write([]byte(producer.name() + codec))
	return &checker{producer: producer, seed: h.Sum64(), perPartition: perPartition, begun: time.Now()}
}

func (c *checker) source() *records.Source {
	return &records.Source{
		Seed: c.seed, Text: !c.producer.setsTimestamps(), ValueMin: 20, ValueMax: 180, Timestamp: c.begun.Add(-24 * time.Hour).UnixMilli(),
	}
}

// stamped ends the time in which the producer stamped records.
func (c *checker) stamped(at time.Time) { c.ended = at }

// pass is one reader's way through the topic.
type pass struct {
	*checker
	expected *records.Source
	next     [partitions]int64
}

func (c *checker) pass() *pass { return &pass{checker: c, expected: c.source()} }

// record checks the next record of its partition.
func (p *pass) record(got *records.Record) error {
	if got.Partition < 0 || got.Partition >= partitions {
		return fmt.Errorf("a record of partition %d, the topic has %d", got.Partition, partitions)
	}
	offset := p.next[got.Partition]
	p.next[got.Partition]++
	if got.Offset != offset {
		return fmt.Errorf("partition %d: a record with offset %d where %d is next", got.Partition, got.Offset, offset)
	}
	if offset >= p.perPartition {
		return fmt.Errorf("partition %d: a record at offset %d, only %d were sent", got.Partition, offset, p.perPartition)
	}
	want := p.expected.At(got.Partition, offset)
	if !p.producer.setsTimestamps() {
		want.Headers = append(want.Headers[:0], kcatHeaders...)
		if err := p.clockTimestamp(got, want); err != nil {
			return err
		}
	}
	if diff := records.Diff(got, want); diff != "" {
		return fmt.Errorf("partition %d, offset %d: %s", got.Partition, offset, diff)
	}
	return nil
}

// clockTimestamp fills in the timestamp that the record must have where the producer's clock made it.
func (p *pass) clockTimestamp(got, want *records.Record) error {
	seen := p.seen[got.Partition]
	if got.Offset < int64(len(seen)) {
		want.Timestamp = seen[got.Offset]
		return nil
	}
	if got.Timestamp < p.begun.UnixMilli() || got.Timestamp > p.ended.UnixMilli() {
		return fmt.Errorf("partition %d, offset %d: timestamp %d is outside the time of sending, %d to %d",
			got.Partition, got.Offset, got.Timestamp, p.begun.UnixMilli(), p.ended.UnixMilli())
	}
	p.seen[got.Partition] = append(seen, got.Timestamp)
	want.Timestamp = got.Timestamp
	return nil
}

// complete checks that nothing was missing.
func (p *pass) complete() error {
	for partition, n := range p.next {
		if n != p.perPartition {
			return fmt.Errorf("partition %d: %d records, %d were sent", partition, n, p.perPartition)
		}
	}
	return nil
}
