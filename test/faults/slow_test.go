package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

const (
	slowConsumers  = 200
	slowPartitions = 4
	slowRecord     = 8 << 10
	slowBatch      = 64 << 10
	slowBacklog    = 320 << 20
	slowBudget     = 32 << 20 // of each of the three memories
	// slowAllowance is for what has no budget of its own: the Go heap with its garbage, stacks of some 1,000 goroutines, idle buffers, the
	// binary. It does not depend on how far behind the consumers are.
	slowAllowance = 128 << 20
	slowDepth     = 6         // fetches that a slow consumer has open: the kernel's buffers take much of the first response
	slowWant      = 256 << 10 // bytes that it reads in the end, of each of as many stretches
	slowAsk       = 1 << 20   // and that it asks for at once
	slowPhase     = 15 * time.Second
)

// slowValue is the value of a record: anybody who knows partition and offset can tell whether it is the right one.
func slowValue(partition int32, offset int64) []byte {
	v := make([]byte, slowRecord)
	var seed [32]byte
	binary.BigEndian.PutUint32(seed[:], uint32(partition))
	binary.BigEndian.PutUint64(seed[8:], uint64(offset))
	_, _ = rand.NewChaCha8(seed).Read(v) // never fails
	return v
}

// TestSlowConsumers: consumers that take a few bytes a second, many of them and far behind, cost what their budget says and no more; others
// go on meanwhile; and when they make haste they get exactly what was written.
func TestSlowConsumers(t *testing.T) {
	skipOnReference(t)
	broker := weirproc.Start(t, weirproc.Options{Config: map[string]string{
		"fetch.memory.max.bytes": fmt.Sprint(slowBudget), "queued.max.request.bytes": fmt.Sprint(slowBudget),
		"log.tail.max.bytes": fmt.Sprint(slowBudget), "connection.write.timeout.ms": "600000",
	}})
	admin := newAdmin(t, broker.Addr)
	createTopics(t, admin, slowPartitions, "slow")
	createTopics(t, admin, 1, "live")
	ends := fillSlow(t, broker)
	t.Logf("backlog of %d MiB, RSS %d MiB, peak so far %d MiB", slowBacklog>>20, broker.Usage().RSS>>20, broker.Usage().PeakRSS>>20)

	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 9))
	hurry := make(chan struct{})
	var all sync.WaitGroup
	for i := range slowConsumers {
		partition := int32(i % slowPartitions)
		c := &slowConsumer{conn: dialSlow(t, broker.Addr), partition: partition, hurry: hurry}
		for k := range c.stretches {
			c.stretches[k].offset = rng.Int64N(ends[partition] - 2*slowWant/slowRecord)
		}
		all.Go(func() {
			if err := c.run(); err != nil {
				t.Errorf("slow consumer %d, partition %d: %v", i, c.partition, err)
			}
		})
	}
	watchSlow(t, broker)
	close(hurry)
	all.Wait()
	t.Logf("all have their data; RSS %d MiB", broker.Usage().RSS>>20)
	eventually(t, 10*time.Second, "the memory for reads is free again", func() bool {
		return broker.Metrics()["weir_segment_range_bytes"] == 0
	})
}

// fillSlow writes the backlog and returns the end offsets.
func fillSlow(t *testing.T, broker *weirproc.Broker) (ends [slowPartitions]int64) {
	t.Helper()
	cl := newClient(t, broker.Addr, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(slowBatch), kgo.DefaultProduceTopic("slow"), kgo.MaxBufferedRecords(2000))
	var failed atomic.Pointer[error]
	for n := range int64(slowBacklog / slowRecord) {
		p := int32(n % slowPartitions)
		want := ends[p]
		ends[p]++
		cl.Produce(limit(t, 5*time.Minute), &kgo.Record{Partition: p, Value: slowValue(p, want)}, func(r *kgo.Record, err error) {
			if err == nil && r.Offset != want {
				err = fmt.Errorf("record %d of partition %d is at offset %d", want, p, r.Offset)
			}
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := cl.Flush(limit(t, 5*time.Minute)); err != nil {
		t.Fatalf("write the backlog: %v", err)
	}
	if err := failed.Load(); err != nil {
		t.Fatalf("write the backlog: %v", *err)
	}
	return ends
}

// watchSlow lets a fast consumer and a producer run beside the slow consumers for a while, and watches the broker's memory.
func watchSlow(t *testing.T, broker *weirproc.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slowPhase)
	defer cancel()
	var consumed, produced atomic.Int64
	var beside sync.WaitGroup
	fast := newClient(t, broker.Addr, kgo.ConsumeTopics("slow"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second))
	beside.Go(func() {
		for ctx.Err() == nil {
			fetches := fast.PollFetches(ctx)
			fetches.EachError(func(_ string, _ int32, err error) {
				if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
					t.Errorf("fast consumer: %v", err)
				}
			})
			fetches.EachRecord(func(r *kgo.Record) {
				if !bytes.Equal(r.Value, slowValue(r.Partition, r.Offset)) {
					t.Errorf("fast consumer: wrong record at offset %d of partition %d", r.Offset, r.Partition)
				}
				consumed.Add(int64(len(r.Value)))
			})
		}
	})
	producer := newClient(t, broker.Addr, kgo.DefaultProduceTopic("live"))
	beside.Go(func() {
		value := make([]byte, 1000)
		for ctx.Err() == nil {
			if err := producer.ProduceSync(limit(t, time.Minute), &kgo.Record{Value: value}).FirstErr(); err != nil {
				t.Errorf("producer: %v", err)
				return
			}
			produced.Add(1)
		}
	})
	var peak int64
	var ranges, waits float64
	for ctx.Err() == nil {
		peak = max(peak, broker.Usage().RSS)
		m := broker.Metrics()
		ranges, waits = max(ranges, m["weir_segment_range_bytes"]), m["weir_segment_read_memory_waits_total"]
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	beside.Wait()
	const most = 3*slowBudget + slowAllowance
	t.Logf("%d slow consumers for %v: RSS at most %d MiB (allowed %d), ranges at most %.1f MiB (allowed %d), %v waits; beside them %d MiB consumed, %d records produced",
		slowConsumers, slowPhase, peak>>20, most>>20, ranges/(1<<20), slowBudget>>20, waits, consumed.Load()>>20, produced.Load())
	if peak > most {
		t.Errorf("RSS rose to %d MiB, budgets and allowance are %d MiB", peak>>20, most>>20)
	}
	if ranges > slowBudget {
		t.Errorf("ranges held %.1f MiB, fetch.memory.max.bytes is %d MiB", ranges/(1<<20), slowBudget>>20)
	}
	if ranges < slowBudget/4 {
		t.Errorf("ranges held %v bytes: nobody was slow", ranges)
	}
	if consumed.Load() < 8<<20 || produced.Load() < 20 {
		t.Errorf("beside the slow consumers %d bytes were consumed and %d records produced", consumed.Load(), produced.Load())
	}
}

// dialSlow connects with the smallest receive buffer there is, so that what is not read stays with the broker.
func dialSlow(t *testing.T, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 20 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) }); cerr != nil {
			return cerr
		}
		return err
	}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// slowConsumer reads some stretches of a partition at once, a few bytes a second until it is told to make haste.
type slowConsumer struct {
	conn      net.Conn
	partition int32
	hurry     <-chan struct{}
	stretches [slowDepth]stretch
	open      []*stretch // whose responses are due, in this order
}

// stretch is a part of a partition, from where it was read to.
type stretch struct {
	offset int64
	got    int
}

func (c *slowConsumer) run() error {
	w := wire.On(c.conn)
	for k := range c.stretches {
		if err := c.ask(w, &c.stretches[k]); err != nil {
			return err
		}
	}
	for len(c.open) > 0 {
		s := c.open[0]
		c.open = c.open[1:]
		if err := c.receive(s); err != nil {
			return fmt.Errorf("at offset %d: %w", s.offset, err)
		}
		if s.got >= slowWant {
			continue
		}
		if err := c.ask(w, s); err != nil {
			return err
		}
	}
	return nil
}

func slowFetch(partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.MinBytes, req.MaxWaitMillis, req.SessionEpoch = 12, slowAsk, 1, 500, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, slowAsk
	req.Topics = []kmsg.FetchRequestTopic{{Topic: "slow", Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return req
}

func (c *slowConsumer) ask(w *wire.Conn, s *stretch) error {
	c.open = append(c.open, s)
	_, err := c.conn.Write(w.Encode(slowFetch(c.partition, s.offset)))
	return err
}

func (c *slowConsumer) receive(s *stretch) error {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return fmt.Errorf("read a response: %w", err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		return fmt.Errorf("read a response of %d bytes: %w", len(body), err)
	}
	resp, err := wire.Decode(slowFetch(c.partition, s.offset), body)
	if err != nil {
		return err
	}
	return s.check(c.partition, resp.(*kmsg.FetchResponse).Topics[0].Partitions[0])
}

// Read reads from the connection: a little and then nothing for a second, or all there is when in a hurry.
func (c *slowConsumer) Read(p []byte) (int, error) {
	select {
	case <-c.hurry:
		_ = c.conn.SetReadDeadline(time.Now().Add(2 * time.Minute)) // fails on a closed connection, and then so does Read
	case <-time.After(time.Second):
		p = p[:min(len(p), 64)]
	}
	return c.conn.Read(p)
}

// check compares what came with what was written, batch by batch and record by record.
func (s *stretch) check(partition int32, p kmsg.FetchResponseTopicPartition) error {
	if p.ErrorCode != 0 {
		return fmt.Errorf("error code %d", p.ErrorCode)
	}
	for in := p.RecordBatches; len(in) > 0; {
		size := int(binary.BigEndian.Uint32(in[8:])) + 12
		raw := in[:size]
		in = in[size:]
		if got := crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)); got != binary.BigEndian.Uint32(raw[17:]) {
			return fmt.Errorf("batch with a wrong checksum")
		}
		var b kmsg.RecordBatch
		if err := b.ReadFrom(raw); err != nil {
			return err
		}
		rest := b.Records
		for i := range b.NumRecords {
			length, n := binary.Varint(rest)
			var r kmsg.Record
			if err := r.ReadFrom(rest[:n+int(length)]); err != nil {
				return err
			}
			rest = rest[n+int(length):]
			offset := b.FirstOffset + int64(i)
			if offset < s.offset {
				continue // the batch began before
			}
			if offset != s.offset || !bytes.Equal(r.Value, slowValue(partition, offset)) {
				return fmt.Errorf("record at offset %d is not what was written at %d", offset, s.offset)
			}
			s.offset++
			s.got += len(r.Value)
		}
	}
	return nil
}
