// Package wire speaks Kafka's protocol one frame at a time, for tests that must send what no client would send or see
// exactly what came back.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const ioLimit = 15 * time.Second

// Conn is a connection to a broker.
type Conn struct {
	net.Conn
	tb     testing.TB
	format *kmsg.RequestFormatter
	next   int32
}

// Dial connects; the connection is closed with the test.
func Dial(tb testing.TB, addr string) *Conn {
	tb.Helper()
	return DialFrom(tb, addr, "127.0.0.1")
}

// DialFrom connects from an address of 127.0.0.0/8: to a broker that limits something per peer, each is another peer.
func DialFrom(tb testing.TB, addr, local string) *Conn {
	tb.Helper()
	dialer := net.Dialer{Timeout: ioLimit, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	nc, err := dialer.Dial("tcp", addr)
	if err != nil {
		tb.Fatalf("dial %s: %v", addr, err)
	}
	tb.Cleanup(func() { _ = nc.Close() })
	return &Conn{Conn: nc, tb: tb, format: kmsg.NewRequestFormatter(kmsg.FormatterClientID("wire"))}
}

// On speaks on a connection that is there already. Its methods that fail the test must not be called, only those that return errors.
func On(nc net.Conn) *Conn {
	return &Conn{Conn: nc, format: kmsg.NewRequestFormatter(kmsg.FormatterClientID("wire"))}
}

// Encode makes a request's whole frame, with the length before it.
func (c *Conn) Encode(req kmsg.Request) []byte {
	c.next++
	return c.format.AppendRequest(nil, req, c.next)
}

// Send writes bytes as they are.
func (c *Conn) Send(p []byte) {
	c.tb.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(ioLimit))
	// A broker may close before it has read everything; what it does is seen by reading.
	if _, err := c.Write(p); err != nil && !closed(err) {
		c.tb.Fatalf("send %d bytes: %v", len(p), err)
	}
}

// Frame reads one response frame without its length. io.EOF means that the broker closed the connection.
func (c *Conn) Frame() ([]byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(ioLimit))
	return c.readFrame()
}

func (c *Conn) readFrame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		if closed(err) {
			return nil, io.EOF
		}
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, fmt.Errorf("response cut short: %w", err)
	}
	return body, nil
}

// Do sends a request with the version that it is set to and decodes the answer.
func (c *Conn) Do(req kmsg.Request) (kmsg.Response, error) {
	c.tb.Helper()
	c.Send(c.Encode(req))
	body, err := c.Frame()
	if err != nil {
		return nil, err
	}
	return Decode(req, body)
}

// Decode decodes a response frame.
func Decode(req kmsg.Request, body []byte) (kmsg.Response, error) {
	resp := req.ResponseKind()
	head := 4
	if resp.IsFlexible() && req.Key() != int16(kmsg.ApiVersions) {
		head = 5 // with no tags
	}
	if len(body) < head {
		return nil, fmt.Errorf("response of %d bytes", len(body))
	}
	if err := resp.ReadFrom(body[head:]); err != nil {
		return nil, fmt.Errorf("decode response: %w", err)
	}
	return resp, nil
}

func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Batch encodes values as one uncompressed record batch of a producer without id.
func Batch(values ...[]byte) []byte {
	var payload []byte
	for i, v := range values {
		r := kmsg.Record{OffsetDelta: int32(i), Value: v}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // a length of 0 takes one byte
		payload = r.AppendTo(payload)
	}
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(values) - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(values)), Records: payload,
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// Produce makes a produce request (acks=all) for one batch. Version 9 names topics.
func Produce(topic string, partition int32, batch []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks, req.TimeoutMillis = -1, 10_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, batch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// ProduceCode sends one batch and returns the partition's error code and base offset.
func (c *Conn) ProduceCode(topic string, partition int32, batch []byte) (code int16, base int64, err error) {
	c.tb.Helper()
	resp, err := c.Do(Produce(topic, partition, batch))
	if err != nil {
		return 0, 0, err
	}
	return produced(resp)
}

// Try is Do within a time of the caller's.
func (c *Conn) Try(req kmsg.Request, wait time.Duration) (kmsg.Response, error) {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write(c.Encode(req)); err != nil {
		return nil, err
	}
	body, err := c.readFrame()
	if err != nil {
		return nil, err
	}
	return Decode(req, body)
}

// TryProduce sends a produce request for one partition and returns its error code and base offset, within a time of the caller's.
func (c *Conn) TryProduce(req *kmsg.ProduceRequest, wait time.Duration) (code int16, base int64, err error) {
	resp, err := c.Try(req, wait)
	if err != nil {
		return 0, 0, err
	}
	return produced(resp)
}

func produced(resp kmsg.Response) (code int16, base int64, err error) {
	produced := resp.(*kmsg.ProduceResponse)
	if len(produced.Topics) != 1 || len(produced.Topics[0].Partitions) != 1 {
		return 0, 0, fmt.Errorf("produce response without its partition: %+v", produced)
	}
	p := produced.Topics[0].Partitions[0]
	return p.ErrorCode, p.BaseOffset, nil
}
