package scale

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/wire"
)

// ioLimit bounds a hang.
const ioLimit = time.Minute

// client is a connection on which one goroutine sends and another one receives.
type client struct {
	net.Conn
	format *kmsg.RequestFormatter
	next   int32
	buf    []byte
}

func dial(addr string) (*client, error) {
	nc, err := net.DialTimeout("tcp", addr, ioLimit)
	if err != nil {
		return nil, err
	}
	return &client{Conn: nc, format: kmsg.NewRequestFormatter(kmsg.FormatterClientID("scale"))}, nil
}

func (c *client) send(req kmsg.Request) error {
	c.next++
	c.buf = c.format.AppendRequest(c.buf[:0], req, c.next)
	_ = c.SetWriteDeadline(time.Now().Add(ioLimit))
	_, err := c.Write(c.buf)
	return err
}

func (c *client) receive(req kmsg.Request) (kmsg.Response, error) {
	_ = c.SetReadDeadline(time.Now().Add(ioLimit))
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, fmt.Errorf("response cut short: %w", err)
	}
	return wire.Decode(req, body)
}

func (c *client) do(req kmsg.Request) (kmsg.Response, error) {
	if err := c.send(req); err != nil {
		return nil, err
	}
	return c.receive(req)
}

// offsets asks a broker where logs end.
type offsets struct{ conn *client }

// ends returns the end offset of each partition of a topic.
func (o offsets) ends(topic int) ([]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.SetVersion(4)
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topicName(topic)
	for p := range perTopic {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = int32(p), -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := o.conn.do(req)
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", rt.Topic, err)
	}
	out := make([]int64, perTopic)
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, fmt.Errorf("list offsets of %s-%d: error code %d", t.Topic, p.Partition, p.ErrorCode)
			}
			out[p.Partition] = p.Offset
		}
	}
	return out, nil
}

// createTopics makes all topics in one request.
func createTopics(c *client, names []string, partitions int32, configs map[string]string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.SetVersion(5)
	req.TimeoutMillis = 60_000
	for _, name := range names {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 1
		for key, value := range configs {
			rc := kmsg.NewCreateTopicsRequestTopicConfig()
			rc.Name, rc.Value = key, kmsg.StringPtr(value)
			rt.Configs = append(rt.Configs, rc)
		}
		req.Topics = append(req.Topics, rt)
	}
	resp, err := c.do(req)
	if err != nil {
		return fmt.Errorf("create %d topics: %w", len(names), err)
	}
	for _, t := range resp.(*kmsg.CreateTopicsResponse).Topics {
		if t.ErrorCode != 0 {
			return fmt.Errorf("create topic %s: error code %d", t.Topic, t.ErrorCode)
		}
	}
	return nil
}

// deleteTopics deletes topics in one request.
func deleteTopics(c *client, names ...string) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.SetVersion(5)
	req.TimeoutMillis = 60_000
	req.TopicNames = names
	resp, err := c.do(req)
	if err != nil {
		return fmt.Errorf("delete %d topics: %w", len(names), err)
	}
	for _, t := range resp.(*kmsg.DeleteTopicsResponse).Topics {
		if t.ErrorCode != 0 {
			return fmt.Errorf("delete topic: error code %d", t.ErrorCode)
		}
	}
	return nil
}
