package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"weir/internal/config"
	"weir/internal/record"
	"weir/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startNode starts a node on a free port; extra is added to its configuration. It is shut down with the test.
func startNode(t testing.TB, dir string, extra map[string]string) *Running {
	t.Helper()
	return startNodeOn(t, nil, dir, extra)
}

// startNodeOn is startNode on a file system of the test.
func startNodeOn(t testing.TB, disk vfs.FS, dir string, extra map[string]string) *Running {
	t.Helper()
	values := map[string]string{
		"data-dir": dir, "kafka-addr": "127.0.0.1:0", "group.initial.rebalance.delay.ms": "0", "log.dir.stall.ms": "20000", "offsets.topic.num.partitions": "4",
		"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "wal.group.max.bytes": "262144",
	}
	for k, v := range extra {
		values[k] = v
	}
	cfg, err := config.LoadBroker(values)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := Start(ctx, Options{Config: cfg, FS: disk, Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, r) })
	return r
}

func stopNode(t testing.TB, r *Running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func newClient(t testing.TB, r *Running, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(r.KafkaAddr().String())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// wire is a bare connection that speaks the protocol one request at a time.
type wire struct {
	t    testing.TB
	conn net.Conn
	next int32
}

func dial(t testing.TB, r *Running) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", r.KafkaAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &wire{t: t, conn: conn}
}

// send writes a request in the version it carries.
func (w *wire) send(req kmsg.Request) {
	w.t.Helper()
	w.next++
	if _, err := w.conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, w.next)); err != nil {
		w.t.Fatal(err)
	}
}

// frame reads one response frame; io.EOF (or a reset) if the broker closed the connection.
func (w *wire) frame() (correlationID int32, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(w.conn, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(w.conn, body); err != nil {
		return 0, nil, err
	}
	return int32(binary.BigEndian.Uint32(body)), body[4:], nil
}

// receive reads the response to the request sent with this correlation id.
func (w *wire) receive(req kmsg.Request, correlationID int32) kmsg.Response {
	w.t.Helper()
	id, body, err := w.frame()
	if err != nil {
		w.t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	if id != correlationID {
		w.t.Fatalf("response to %d where %d is due", id, correlationID)
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if resp.IsFlexible() && req.Key() != apiVersionsKey {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		w.t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	return resp
}

func (w *wire) do(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	w.send(req)
	return w.receive(req, w.next)
}

// closed fails unless the broker closes the connection without another byte.
func (w *wire) closed(what string) {
	w.t.Helper()
	n, err := w.conn.Read(make([]byte, 1))
	var timeout net.Error
	if n != 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		w.t.Errorf("%s: read %d bytes, err %v; want a closed connection", what, n, err)
	}
}

// createTopic makes a topic over the wire.
func createTopic(t testing.TB, w *wire, name string, partitions int32, configs ...[2]string) [16]byte {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 10000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
	for _, c := range configs {
		topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: c[0], Value: &c[1]})
	}
	req.Topics = append(req.Topics, topic)
	resp := w.do(req).(*kmsg.CreateTopicsResponse)
	if code := resp.Topics[0].ErrorCode; code != 0 {
		t.Fatalf("create %s: error code %d", name, code)
	}
	return resp.Topics[0].TopicID
}

// produceRequest makes a v9 request with one batch for one partition.
func produceRequest(topic string, partition int32, acks int16, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, acks, 10000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: partition, Records: records}}}}
	return req
}

func buildBatch(t testing.TB, values ...string) record.Batch {
	t.Helper()
	var records []record.Record
	for _, v := range values {
		records = append(records, record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte(v)})
	}
	b, err := record.Build(record.NewSpec(), records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
