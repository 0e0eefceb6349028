package faults

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
)

// cutLog is a topic with producers, and what they were told.
type cutLog struct {
	ledger    *verify.Ledger
	producers []*verify.Producer
	scans     map[int32]*verify.Scan
	retention int64 // bytes; 0: everything stays
}

func newCutLog(t *testing.T, admin *kadm.Client, addr, topic string, partitions int32, kinds []int, retention int64) *cutLog {
	t.Helper()
	configs := map[string]*string{}
	if retention > 0 {
		text := strconv.FormatInt(retention, 10)
		configs["retention.bytes"] = &text
	}
	resp, err := admin.CreateTopic(limit(t, time.Minute), partitions, 1, configs, topic)
	if err == nil {
		err = resp.Err
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	l := &cutLog{ledger: verify.New(topic, partitions), scans: map[int32]*verify.Scan{}, retention: retention}
	for i, kind := range kinds {
		l.producers = append(l.producers, verify.NewProducer(i, verify.Profiles[kind], l.ledger, partitions, quick(addr)))
	}
	return l
}

func (l *cutLog) verify(t *testing.T, addr string, admin *kadm.Client) {
	t.Helper()
	if l.retention == 0 {
		verifyLedger(t, l.ledger, addr, admin, l.scans)
		return
	}
	if _, err := l.ledger.Acknowledged(); err != nil {
		t.Fatalf("topic %s: %v", l.ledger.Topic, err)
	}
	for partition, end := range endOffsets(t, admin, l.ledger.Topic) {
		if err := l.ledger.LostBeyond(partition, end); err != nil {
			t.Fatal(err)
		}
		if l.scans[partition] == nil {
			l.scans[partition] = verify.NewScan()
		}
		if err := l.readTrimmed(limit(t, time.Minute), addr, admin, partition, end); err != nil {
			t.Fatalf("topic %s: %v", l.ledger.Topic, err)
		}
	}
}

// readTrimmed reads a partition from where its scan stands, or from where retention has let it begin since, to its end.
func (l *cutLog) readTrimmed(ctx context.Context, addr string, admin *kadm.Client, partition int32, end int64) error {
	s := l.scans[partition]
	whole := s.Next == 0
	cl, err := kgo.NewClient(quick(addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		l.ledger.Topic: {partition: kgo.NewOffset().At(s.Next)},
	}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	var size int64 // of what is there, at least
	for s.Next < end {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read partition %d at offset %d of %d: %w", partition, s.Next, end, err)
		}
		for iter := fetches.RecordIter(); !iter.Done() && s.Next < end; s.Next++ {
			r := iter.Next()
			if r.Offset != s.Next {
				if err := l.skip(ctx, admin, s, r); err != nil {
					return err
				}
				size = 0
			}
			if err := l.ledger.Check(s, r); err != nil {
				return fmt.Errorf("read partition %d at offset %d: %w", partition, r.Offset, err)
			}
			size += sizeAtMost(r)
		}
	}
	if whole && s.Skipped && size < l.retention {
		return fmt.Errorf("LOST: partition %d: retention left less than %d bytes up to offset %d, of %d that are kept", partition, size, end, l.retention)
	}
	return nil
}

// skip moves a scan to a record that is not the next one, which is right only if the log begins there now or later.
func (l *cutLog) skip(ctx context.Context, admin *kadm.Client, s *verify.Scan, r *kgo.Record) error {
	listed, err := admin.ListStartOffsets(ctx, l.ledger.Topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return fmt.Errorf("start offsets: %w", err)
	}
	start, _ := listed.Lookup(l.ledger.Topic, r.Partition)
	if r.Offset < s.Next || r.Offset > start.Offset {
		return fmt.Errorf("LOST: partition %d: offset %d where %d is next, and the log begins at %d", r.Partition, r.Offset, s.Next, start.Offset)
	}
	*s = verify.Scan{Next: r.Offset, Last: map[int32]int64{}, Skipped: true}
	return nil
}

// sizeAtMost is a bound on what a record takes in its log.
func sizeAtMost(r *kgo.Record) int64 {
	size := 200 + len(r.Key) + len(r.Value) // a batch's header and a record's lengths
	for _, h := range r.Headers {
		size += 10 + len(h.Key) + len(h.Value)
	}
	return int64(size)
}
