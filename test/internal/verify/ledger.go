// Package verify tells whether a broker kept what it acknowledged: producers whose every record follows from a seed, a ledger of
// acknowledgements, and a reader that compares the two.
package verify

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
)

// ID names a record: the stream it belongs to (one producer's records to one partition) and its place in it.
type ID struct {
	Stream int32
	Seq    int64
}

// Stream is one producer's records to one partition.
type Stream struct {
	Source *records.Source // for checking; the producer has its own
	// Gapless: the producer is idempotent and retries until acknowledged, so every record must be there exactly once.
	// Otherwise it sends each record at most once, and what was not acknowledged may be missing.
	Gapless bool
}

// Ledger remembers what a topic's broker acknowledged and checks that it is there: at the offset acknowledged, once, in
// the order sent, with the bytes sent, in epochs that do not fall, and that nobody has read anything else.
type Ledger struct {
	Topic   string
	Streams map[int32]Stream

	mu struct {
		sync.Mutex
		acked map[int32]map[int64]ID // by partition and offset
		seen  map[int32]map[int64]ID // what somebody has read, likewise
		count int
		err   error // the first acknowledgement that cannot be true
	}
}

// New makes a ledger of an empty topic. The streams are added before anything is sent.
func New(topic string, partitions int32) *Ledger {
	l := &Ledger{Topic: topic, Streams: map[int32]Stream{}}
	l.mu.acked, l.mu.seen = map[int32]map[int64]ID{}, map[int32]map[int64]ID{}
	for p := range partitions {
		l.mu.acked[p], l.mu.seen[p] = map[int64]ID{}, map[int64]ID{}
	}
	return l
}

// Ack notes an acknowledgement.
func (l *Ledger) Ack(partition int32, offset int64, which ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.mu.acked[partition][offset]; ok && l.mu.err == nil {
		l.mu.err = fmt.Errorf("partition %d, offset %d was acknowledged for %+v and for %+v", partition, offset, other, which)
	}
	l.mu.acked[partition][offset] = which
	l.mu.count++
}

// Saw notes that a consumer was given a record: what was read once was committed, so it stays, acknowledged or not.
func (l *Ledger) Saw(partition int32, offset int64, which ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.mu.seen[partition][offset]; ok && other != which && l.mu.err == nil {
		l.mu.err = fmt.Errorf("UNCOMMITTED: partition %d, offset %d was read as %+v and then as %+v", partition, offset, other, which)
	}
	l.mu.seen[partition][offset] = which
}

// Seen is how many records were.
func (l *Ledger) Seen() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, offsets := range l.mu.seen {
		n += len(offsets)
	}
	return n
}

// Forget drops what is known of offsets below one, of which the records are deleted.
func (l *Ledger) Forget(partition int32, before int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, offsets := range []map[int64]ID{l.mu.acked[partition], l.mu.seen[partition]} {
		for offset := range offsets {
			if offset < before {
				delete(offsets, offset)
			}
		}
	}
}

// Acknowledged is how many records were, and an error if acknowledgements contradict each other.
func (l *Ledger) Acknowledged() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.count, l.mu.err
}

// Scan is how far a reader of one partition has checked it.
type Scan struct {
	Next    int64
	Last    map[int32]int64 // stream to the sequence seen last
	Epoch   int32           // of the leader that wrote the record seen last
	Skipped bool            // what came before was deleted, so a stream's first record may have any sequence
}

// NewScan is a scan that has seen nothing.
func NewScan() *Scan { return &Scan{Last: map[int32]int64{}} }

// Verify reads every partition from where the scans stand to its end. With settle, ends may take that long to rise to what was
// acknowledged: a new leader learns from its followers what is committed. explain, if not nil, adds to an error what is around a record.
func (l *Ledger) Verify(tb testing.TB, opts []kgo.Opt, admin *kadm.Client, scans map[int32]*Scan, settle time.Duration, explain func(*kgo.Record) string) {
	tb.Helper()
	if _, err := l.Acknowledged(); err != nil {
		tb.Fatalf("topic %s: %v", l.Topic, err)
	}
	ends, err := l.ends(tb, admin, settle)
	if err != nil {
		tb.Fatal(err)
	}
	for partition, end := range ends {
		s := scans[partition]
		if s == nil {
			s = NewScan()
			scans[partition] = s
		}
		Each(tb, opts, l.Topic, partition, s.Next, end, func(r *kgo.Record) error {
			err := l.Check(s, r)
			if err != nil && explain != nil {
				tb.Logf("record batches around it:\n%s", explain(r))
			}
			return err
		})
		s.Next = max(s.Next, end)
	}
}

// ends are the end offsets, none of them before what was acknowledged.
func (l *Ledger) ends(tb testing.TB, admin *kadm.Client, settle time.Duration) (map[int32]int64, error) {
	tb.Helper()
	for deadline := time.Now().Add(settle); ; time.Sleep(50 * time.Millisecond) {
		ends, err := ListEnds(admin, l.Topic)
		for partition, end := range ends {
			if err == nil {
				err = l.LostBeyond(partition, end)
			}
		}
		if err == nil || time.Now().After(deadline) {
			return ends, err
		}
	}
}

// LostBeyond is an error if something was acknowledged at or beyond the end offset.
func (l *Ledger) LostBeyond(partition int32, end int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	beyond := func(offsets map[int64]ID) (n int) {
		for offset := range offsets {
			if offset >= end {
				n++
			}
		}
		return n
	}
	if lost := beyond(l.mu.acked[partition]); lost > 0 {
		return fmt.Errorf("LOST: topic %s partition %d ends at offset %d; %d acknowledged records lay beyond", l.Topic, partition, end, lost)
	}
	if gone := beyond(l.mu.seen[partition]); gone > 0 {
		return fmt.Errorf("UNCOMMITTED: topic %s partition %d ends at offset %d; %d records that were read lay beyond", l.Topic, partition, end, gone)
	}
	return nil
}

// Check compares a record with what was sent and acknowledged. Records of a partition come in the order of their offsets.
func (l *Ledger) Check(s *Scan, r *kgo.Record) error {
	which, err := ParseID(r.Key)
	if err != nil {
		return err
	}
	st, ok := l.Streams[which.Stream]
	if !ok {
		return fmt.Errorf("a record of stream %d, which nobody sends", which.Stream)
	}
	l.mu.Lock()
	acked, wasAcked := l.mu.acked[r.Partition][r.Offset]
	seen, wasSeen := l.mu.seen[r.Partition][r.Offset]
	l.mu.Unlock()
	switch {
	case wasAcked && acked != which:
		return fmt.Errorf("LOST: %+v was acknowledged here, but %+v is", acked, which)
	case wasSeen && seen != which:
		return fmt.Errorf("UNCOMMITTED: %+v was read here, but %+v is", seen, which)
	case r.LeaderEpoch < s.Epoch:
		return fmt.Errorf("EPOCH GOES BACK: %+v is of epoch %d, after one of epoch %d", which, r.LeaderEpoch, s.Epoch)
	}
	s.Epoch = r.LeaderEpoch
	last, known := s.Last[which.Stream]
	switch {
	case !known && s.Skipped:
		last = which.Seq - 1
	case !known:
		last = -1
	}
	if which.Seq <= last {
		return fmt.Errorf("DUPLICATE OR OUT OF ORDER: %+v comes after sequence %d of its stream", which, last)
	}
	if st.Gapless && which.Seq != last+1 {
		return fmt.Errorf("LOST: %+v comes after sequence %d of its stream, which leaves no gaps", which, last)
	}
	s.Last[which.Stream] = which.Seq
	want := st.Source.At(which.Stream, which.Seq)
	if !bytes.Equal(r.Value, want.Value) || r.Timestamp.UnixMilli() != want.Timestamp || !sameHeaders(r.Headers, want.Headers) {
		return fmt.Errorf("DAMAGED: %+v: value of %d bytes, timestamp %d, headers %v; sent %d, %d, %v (values equal: %v)", which, len(r.Value),
			r.Timestamp.UnixMilli(), r.Headers, len(want.Value), want.Timestamp, want.Headers, bytes.Equal(r.Value, want.Value))
	}
	return nil
}

func sameHeaders(got []kgo.RecordHeader, want []records.Header) bool {
	return slices.EqualFunc(got, want, func(g kgo.RecordHeader, w records.Header) bool {
		return g.Key == w.Key && bytes.Equal(g.Value, w.Value)
	})
}

// ParseID reads the key that records.Source gives a record: key-<stream>-<sequence>.
func ParseID(key []byte) (ID, error) {
	parts := bytes.SplitN(key, []byte("-"), 3)
	if len(parts) == 3 && string(parts[0]) == "key" {
		stream, err1 := strconv.ParseInt(string(parts[1]), 10, 32)
		seq, err2 := strconv.ParseInt(string(parts[2]), 10, 64)
		if err1 == nil && err2 == nil {
			return ID{Stream: int32(stream), Seq: seq}, nil
		}
	}
	return ID{}, fmt.Errorf("DAMAGED: key %q", key)
}

// ToRecord copies a record of a source.
func ToRecord(topic string, partition int32, r *records.Record) *kgo.Record {
	out := &kgo.Record{
		Topic: topic, Partition: partition, Timestamp: time.UnixMilli(r.Timestamp),
		Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value),
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	return out
}
