package scale

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	stampBytes = 16 // topic u32, partition u32, batch number u64
	wireWindow = 4  // requests in flight on a connection
)

// filler is what values are made of behind their stamp.
var filler = func() []byte {
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(i*7 + i>>9)
	}
	return b
}()

// template is a batch of one record of valueBytes. stamp makes it that of a partition: the value's first bytes say whose it is.
type template struct {
	raw []byte
	at  int // of the stamp
}

func newTemplate(valueBytes int) *template {
	marker := bytes.Repeat([]byte{0xa5}, stampBytes)
	value := append(slices.Clone(marker), filler[:valueBytes-stampBytes]...)
	raw := wire.Batch(value)
	return &template{raw: raw, at: bytes.Index(raw, marker)}
}

// stamp makes the batch number n of a partition. The result is a copy.
func (t *template) stamp(topic, partition int, n uint64) []byte {
	b := slices.Clone(t.raw)
	binary.BigEndian.PutUint32(b[t.at:], uint32(topic))
	binary.BigEndian.PutUint32(b[t.at+4:], uint32(partition))
	binary.BigEndian.PutUint64(b[t.at+8:], n)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// checkValue says what is wrong with the value of record n (a batch has one) of a partition.
func checkValue(value []byte, topic, partition int, n int64) error {
	if len(value) < stampBytes {
		return fmt.Errorf("value of %d bytes", len(value))
	}
	var want [stampBytes]byte
	binary.BigEndian.PutUint32(want[0:], uint32(topic))
	binary.BigEndian.PutUint32(want[4:], uint32(partition))
	binary.BigEndian.PutUint64(want[8:], uint64(n))
	if !bytes.Equal(value[:stampBytes], want[:]) {
		return fmt.Errorf("stamp %x, want %x", value[:stampBytes], want)
	}
	if !bytes.Equal(value[stampBytes:], filler[:len(value)-stampBytes]) {
		return fmt.Errorf("the %d bytes behind the stamp are not what was sent", len(value)-stampBytes)
	}
	return nil
}

// fleet produces to all partitions of all topics and remembers what was acknowledged.
type fleet struct {
	addr  string
	sent  [][]atomic.Int64 // by topic, partition: batches sent
	acked [][]atomic.Int64 // batches acknowledged
	times struct {
		sync.Mutex
		all []time.Duration // of each request
	}
}

func newFleet(addr string, topics int) *fleet {
	f := &fleet{addr: addr, sent: make([][]atomic.Int64, topics), acked: make([][]atomic.Int64, topics)}
	for i := range topics {
		f.sent[i], f.acked[i] = make([]atomic.Int64, perTopic), make([]atomic.Int64, perTopic)
	}
	return f
}

// sweep is a way to go over all partitions.
type sweep struct {
	connections int // each has its share of the topics
	valueBytes  int // of the one record of a batch
	perRequest  int // partitions in a request, of one topic
	rounds      int // batches for each partition; 0: until stop
	stop        <-chan struct{}
	pace        time.Duration // between requests of a connection; 0: as fast as it goes
}

// run sweeps. A broker that goes away ends it without an error if stop is closed.
func (f *fleet) run(s sweep) error {
	errs := make(chan error, s.connections)
	for c := range s.connections {
		go func() { errs <- f.connection(c, s) }()
	}
	var first error
	for range s.connections {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (s *sweep) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// request is one produce request on its way.
type request struct {
	topic, first, n int
	req             *kmsg.ProduceRequest
	sent            time.Time
}

func (f *fleet) connection(c int, s sweep) error {
	conn, err := dial(f.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	inFlight := make(chan request, wireWindow)
	done := make(chan error, 1)
	go func() { done <- f.answers(conn, inFlight) }()
	batch := newTemplate(s.valueBytes)
	err = func() error {
		for round := 0; s.rounds == 0 || round < s.rounds; round++ {
			for topic := c; topic < len(f.sent); topic += s.connections {
				for first := 0; first < perTopic; first += s.perRequest {
					if s.stopped() {
						return nil
					}
					r := f.request(batch, topic, first, min(s.perRequest, perTopic-first))
					r.sent = time.Now()
					select {
					case inFlight <- r:
					case err := <-done:
						done <- nil
						return err
					}
					if err := conn.send(r.req); err != nil {
						return err
					}
					if s.pace > 0 {
						time.Sleep(s.pace)
					}
				}
			}
		}
		return nil
	}()
	close(inFlight)
	if answered := <-done; err == nil {
		err = answered
	}
	if err != nil && s.stopped() {
		return nil
	}
	return err
}

func (f *fleet) request(batch *template, topic, first, n int) request {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks, req.TimeoutMillis = -1, 30_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topicName(topic)
	for p := first; p < first+n; p++ {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition = int32(p)
		rp.Records = batch.stamp(topic, p, uint64(f.sent[topic][p].Add(1)-1))
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return request{topic: topic, first: first, n: n, req: req}
}

// answers takes the responses, which come in order.
func (f *fleet) answers(conn *client, inFlight <-chan request) (err error) {
	var times []time.Duration
	defer func() {
		f.times.Lock()
		f.times.all = append(f.times.all, times...)
		f.times.Unlock()
	}()
	for r := range inFlight {
		resp, err := conn.receive(r.req)
		if err != nil {
			return err
		}
		times = append(times, time.Since(r.sent))
		for _, t := range resp.(*kmsg.ProduceResponse).Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					return fmt.Errorf("produce to %s-%d: error code %d", t.Topic, p.Partition, p.ErrorCode)
				}
				if n := f.acked[r.topic][p.Partition].Add(1); p.BaseOffset != n-1 {
					return fmt.Errorf("produce to %s-%d: batch %d got offset %d", t.Topic, p.Partition, n-1, p.BaseOffset)
				}
			}
		}
	}
	return nil
}

// percentiles takes the times of the requests since the last call.
func (f *fleet) percentiles() (n int, p50, p99, worst time.Duration) {
	f.times.Lock()
	all := f.times.all
	f.times.all = nil
	f.times.Unlock()
	if len(all) == 0 {
		return 0, 0, 0, 0
	}
	slices.Sort(all)
	return len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
}

// totalAcked is the number of batches acknowledged.
func (f *fleet) totalAcked() (n int64) {
	for t := range f.acked {
		for p := range f.acked[t] {
			n += f.acked[t][p].Load()
		}
	}
	return n
}

// requireAll: every acknowledged batch is there, and nothing that was not sent. Offsets are batch numbers.
func (f *fleet) requireAll(t *testing.T, b offsets) {
	t.Helper()
	missing := 0
	for topic := range f.acked {
		ends, err := b.ends(topic)
		if err != nil {
			t.Fatal(err)
		}
		for p := range f.acked[topic] {
			acked, sent, end := f.acked[topic][p].Load(), f.sent[topic][p].Load(), ends[p]
			if end < acked || end > sent {
				missing++
				t.Errorf("%s-%d ends at %d, acknowledged %d, sent %d", topicName(topic), p, end, acked, sent)
			}
			// What was written but not acknowledged counts from here on.
			f.acked[topic][p].Store(end)
			f.sent[topic][p].Store(end)
		}
		if missing > 10 {
			t.FailNow()
		}
	}
}
