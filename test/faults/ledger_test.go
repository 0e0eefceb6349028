package faults

import (
	"bytes"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
)

// id names a record: the stream it belongs to (one producer's records to one partition) and its place in it.
type id struct {
	stream int32
	seq    int64
}

// stream is one producer's records to one partition.
type stream struct {
	source *records.Source // for checking; the producer has its own
	// gapless: the producer is idempotent and retries until acknowledged, so every record must be there exactly once.
	// Otherwise it sends each record at most once, and what was not acknowledged may be missing.
	gapless bool
}

// ledger remembers what a topic's broker acknowledged and checks that it is there: at the offset acknowledged, once, in
// the order sent, with the bytes sent.
type ledger struct {
	topic   string
	streams map[int32]stream

	mu struct {
		sync.Mutex
		acked map[int32]map[int64]id // by partition and offset
		count int
		err   error // the first acknowledgement that cannot be true
	}
}

func newLedger(topic string, partitions int32) *ledger {
	l := &ledger{topic: topic, streams: map[int32]stream{}}
	l.mu.acked = map[int32]map[int64]id{}
	for p := range partitions {
		l.mu.acked[p] = map[int64]id{}
	}
	return l
}

// ack notes an acknowledgement.
func (l *ledger) ack(partition int32, offset int64, which id) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.mu.acked[partition][offset]; ok && l.mu.err == nil {
		l.mu.err = fmt.Errorf("partition %d, offset %d was acknowledged for %+v and for %+v", partition, offset, other, which)
	}
	l.mu.acked[partition][offset] = which
	l.mu.count++
}

func (l *ledger) acknowledged() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.count, l.mu.err
}

// scan is how far a reader of one partition has checked it.
type scan struct {
	next    int64
	last    map[int32]int64 // stream to the sequence seen last
	skipped bool            // what came before was deleted, so a stream's first record may have any sequence
}

// verify reads every partition from where the scans stand to its end.
func (l *ledger) verify(t *testing.T, addr string, admin *kadm.Client, scans map[int32]*scan) {
	t.Helper()
	if _, err := l.acknowledged(); err != nil {
		t.Fatalf("topic %s: %v", l.topic, err)
	}
	for partition, end := range endOffsets(t, admin, l.topic) {
		s := scans[partition]
		if s == nil {
			s = &scan{last: map[int32]int64{}}
			scans[partition] = s
		}
		if err := l.lostBeyond(partition, end); err != nil {
			t.Fatal(err)
		}
		each(t, addr, l.topic, partition, s.next, end, func(r *kgo.Record) error {
			err := l.check(s, r)
			if err != nil {
				t.Logf("record batches around it:\n%s", dumpBatches(t, addr, l.topic, partition, r.Offset))
			}
			return err
		})
		s.next = max(s.next, end)
	}
}

// lostBeyond is an error if something was acknowledged at or beyond the end offset.
func (l *ledger) lostBeyond(partition int32, end int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := 0
	for offset := range l.mu.acked[partition] {
		if offset >= end {
			lost++
		}
	}
	if lost > 0 {
		return fmt.Errorf("LOST: topic %s partition %d ends at offset %d; %d acknowledged records lay beyond", l.topic, partition, end, lost)
	}
	return nil
}

func (l *ledger) check(s *scan, r *kgo.Record) error {
	which, err := parseID(r.Key)
	if err != nil {
		return err
	}
	st, ok := l.streams[which.stream]
	if !ok {
		return fmt.Errorf("a record of stream %d, which nobody sends", which.stream)
	}
	l.mu.Lock()
	acked, wasAcked := l.mu.acked[r.Partition][r.Offset]
	l.mu.Unlock()
	if wasAcked && acked != which {
		return fmt.Errorf("LOST: %+v was acknowledged here, but %+v is", acked, which)
	}
	last, seen := s.last[which.stream]
	switch {
	case !seen && s.skipped:
		last = which.seq - 1
	case !seen:
		last = -1
	}
	if which.seq <= last {
		return fmt.Errorf("DUPLICATE OR OUT OF ORDER: %+v comes after sequence %d of its stream", which, last)
	}
	if st.gapless && which.seq != last+1 {
		return fmt.Errorf("LOST: %+v comes after sequence %d of its stream, which leaves no gaps", which, last)
	}
	s.last[which.stream] = which.seq
	want := st.source.At(which.stream, which.seq)
	if !bytes.Equal(r.Value, want.Value) || r.Timestamp.UnixMilli() != want.Timestamp || len(r.Headers) != len(want.Headers) {
		return fmt.Errorf("DAMAGED: %+v: value of %d bytes, timestamp %d, %d headers; sent %d, %d, %d (values equal: %v)", which, len(r.Value),
			r.Timestamp.UnixMilli(), len(r.Headers), len(want.Value), want.Timestamp, len(want.Headers), bytes.Equal(r.Value, want.Value))
	}
	return nil
}

// parseID reads the key that records.Source gives a record: key-<stream>-<sequence>.
func parseID(key []byte) (id, error) {
	parts := bytes.SplitN(key, []byte("-"), 3)
	if len(parts) == 3 && string(parts[0]) == "key" {
		stream, err1 := strconv.ParseInt(string(parts[1]), 10, 32)
		seq, err2 := strconv.ParseInt(string(parts[2]), 10, 64)
		if err1 == nil && err2 == nil {
			return id{int32(stream), seq}, nil
		}
	}
	return id{}, fmt.Errorf("DAMAGED: key %q", key)
}

// toRecord copies a record of a source.
func toRecord(topic string, partition int32, r *records.Record) *kgo.Record {
	out := &kgo.Record{
		Topic: topic, Partition: partition, Timestamp: time.UnixMilli(r.Timestamp),
		Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value),
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	return out
}
