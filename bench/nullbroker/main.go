// Command nullbroker speaks as much of Kafka's protocol as the load generator needs, acknowledges every record and stores
// none. What it reaches is the limit of the client, the loopback network and the protocol on a machine.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const frameMax = 128 << 20

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "listen on this `address`")
	flag.Parse()
	fmt.Fprintln(os.Stderr, "nullbroker:", run(*addr))
	os.Exit(1)
}

// run serves until it fails.
func run(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	host, portText, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	b := &broker{host: host, port: int32(port), topics: map[string]*topic{}}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go b.serve(conn)
	}
}

// broker is one node that leads every partition.
type broker struct {
	host string
	port int32
	pids atomic.Int64

	mu     sync.Mutex
	topics map[string]*topic
}

type topic struct {
	name string
	id   [16]byte
	ends []atomic.Int64 // next offset per partition
}

// apis are the keys and versions offered. Produce and Fetch stay below the versions that name topics by id.
var apis = map[int16][2]int16{
	int16(kmsg.Produce): {0, 12}, int16(kmsg.Fetch): {4, 12}, int16(kmsg.ListOffsets): {1, 6}, int16(kmsg.Metadata): {1, 12},
	int16(kmsg.ApiVersions): {0, 4}, int16(kmsg.CreateTopics): {2, 7}, int16(kmsg.InitProducerID): {0, 4},
}

func (b *broker) serve(conn net.Conn) {
	defer conn.Close()
	in, out := bufio.NewReaderSize(conn, 256<<10), bufio.NewWriterSize(conn, 64<<10)
	var frame, resp []byte
	for {
		var err error
		if frame, err = readFrame(in, frame); err != nil {
			return // the client left
		}
		if resp, err = b.answer(frame, resp[:0]); err != nil {
			fmt.Fprintln(os.Stderr, "nullbroker:", conn.RemoteAddr(), err)
			return
		}
		if _, err := out.Write(resp); err != nil {
			return
		}
		if in.Buffered() > 0 {
			continue // more requests have arrived: answer them with the same write
		}
		if err := out.Flush(); err != nil {
			return
		}
	}
}

func readFrame(in *bufio.Reader, frame []byte) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return frame, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n > frameMax {
		return frame, fmt.Errorf("frame of %d bytes", n)
	}
	if cap(frame) < n {
		frame = make([]byte, n)
	}
	frame = frame[:n]
	_, err := io.ReadFull(in, frame)
	return frame, err
}

var errHeader = errors.New("bad request header")

// answer appends the whole response frame to resp; nothing where none is due.
func (b *broker) answer(frame, resp []byte) ([]byte, error) {
	if len(frame) < 10 {
		return nil, errHeader
	}
	key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
	req := kmsg.RequestForKey(key)
	known, ok := apis[key]
	if req == nil || !ok {
		return nil, fmt.Errorf("api key %d is not offered", key)
	}
	if version < known[0] || version > known[1] {
		if key != int16(kmsg.ApiVersions) {
			return nil, fmt.Errorf("api key %d version %d is not offered", key, version)
		}
		return b.versionsFallback(frame, resp), nil
	}
	req.SetVersion(version)
	body := frame[8:]
	client := int(int16(binary.BigEndian.Uint16(body)))
	body = body[2:]
	if client > len(body) {
		return nil, errHeader
	}
	body = body[max(client, 0):]
	if req.IsFlexible() && key != int16(kmsg.ApiVersions) {
		if len(body) < 1 {
			return nil, errHeader
		}
		body = body[1:] // no client sends tags here
	}
	if key != int16(kmsg.ApiVersions) {
		if err := req.ReadFrom(body); err != nil {
			return nil, fmt.Errorf("api key %d version %d: %w", key, version, err)
		}
	}
	answer := b.handle(req)
	if answer == nil {
		return resp, nil
	}
	answer.SetVersion(version)
	resp = append(resp, 0, 0, 0, 0)
	resp = append(resp, frame[4:8]...)
	if answer.IsFlexible() && key != int16(kmsg.ApiVersions) {
		resp = append(resp, 0)
	}
	resp = answer.AppendTo(resp)
	binary.BigEndian.PutUint32(resp, uint32(len(resp)-4))
	return resp, nil
}

// versionsFallback answers a version of ApiVersions that is too new: in version 0, with UNSUPPORTED_VERSION (KIP-511).
func (b *broker) versionsFallback(frame, resp []byte) []byte {
	answer := apiVersions()
	answer.ErrorCode = 35
	resp = append(append(resp, 0, 0, 0, 0), frame[4:8]...)
	resp = answer.AppendTo(resp)
	binary.BigEndian.PutUint32(resp, uint32(len(resp)-4))
	return resp
}

func apiVersions() *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	for key, versions := range apis {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = key, versions[0], versions[1]
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}

func (b *broker) handle(req kmsg.Request) kmsg.Response {
	switch req := req.(type) {
	case *kmsg.ProduceRequest:
		return b.produce(req)
	case *kmsg.FetchRequest:
		time.Sleep(time.Duration(req.MaxWaitMillis) * time.Millisecond) // there is never anything
		return kmsg.NewPtrFetchResponse()
	case *kmsg.MetadataRequest:
		return b.metadata(req)
	case *kmsg.CreateTopicsRequest:
		return b.createTopics(req)
	case *kmsg.ListOffsetsRequest:
		return b.listOffsets(req)
	case *kmsg.InitProducerIDRequest:
		resp := kmsg.NewPtrInitProducerIDResponse()
		resp.ProducerID = b.pids.Add(1)
		return resp
	default:
		return apiVersions()
	}
}

func (b *broker) produce(req *kmsg.ProduceRequest) kmsg.Response {
	resp := kmsg.NewPtrProduceResponse()
	resp.Topics = make([]kmsg.ProduceResponseTopic, 0, len(req.Topics))
	for _, rt := range req.Topics {
		t := b.lookup(rt.Topic)
		answer := kmsg.NewProduceResponseTopic()
		answer.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.LogAppendTime = rp.Partition, -1
			switch {
			case t == nil || int(rp.Partition) >= len(t.ends) || rp.Partition < 0:
				p.ErrorCode = 3 // unknown topic or partition
			case len(rp.Records) < 61:
				p.ErrorCode = 2 // corrupt message
			default:
				n := int64(binary.BigEndian.Uint32(rp.Records[23:])) + 1
				p.BaseOffset = t.ends[rp.Partition].Add(n) - n
			}
			answer.Partitions = append(answer.Partitions, p)
		}
		resp.Topics = append(resp.Topics, answer)
	}
	if req.Acks == 0 {
		return nil
	}
	return resp
}

func (b *broker) lookup(name string) *topic {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.topics[name]
}

func (b *broker) createTopics(req *kmsg.CreateTopicsRequest) kmsg.Response {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := kmsg.NewPtrCreateTopicsResponse()
	for _, rt := range req.Topics {
		t := &topic{name: rt.Topic, ends: make([]atomic.Int64, max(1, rt.NumPartitions))}
		binary.BigEndian.PutUint64(t.id[8:], uint64(len(b.topics)+1))
		b.topics[rt.Topic] = t
		answer := kmsg.NewCreateTopicsResponseTopic()
		answer.Topic, answer.TopicID = t.name, t.id
		answer.NumPartitions, answer.ReplicationFactor = int32(len(t.ends)), 1
		resp.Topics = append(resp.Topics, answer)
	}
	return resp
}

func (b *broker) metadata(req *kmsg.MetadataRequest) kmsg.Response {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := kmsg.NewPtrMetadataResponse()
	node := kmsg.NewMetadataResponseBroker()
	node.NodeID, node.Host, node.Port = 1, b.host, b.port
	resp.Brokers = append(resp.Brokers, node)
	resp.ControllerID = 1
	wanted := func(name string) bool { return req.Topics == nil }
	if req.Topics != nil {
		names := map[string]bool{}
		for _, t := range req.Topics {
			if t.Topic != nil {
				names[*t.Topic] = true
			}
		}
		wanted = func(name string) bool { return names[name] }
	}
	for name, t := range b.topics {
		if !wanted(name) {
			continue
		}
		answer := kmsg.NewMetadataResponseTopic()
		answer.Topic, answer.TopicID = kmsg.StringPtr(name), t.id
		for i := range t.ends {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.Replicas, p.ISR = int32(i), 1, []int32{1}, []int32{1}
			answer.Partitions = append(answer.Partitions, p)
		}
		resp.Topics = append(resp.Topics, answer)
	}
	return resp
}

func (b *broker) listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := kmsg.NewPtrListOffsetsResponse()
	for _, rt := range req.Topics {
		t := b.lookup(rt.Topic)
		answer := kmsg.NewListOffsetsResponseTopic()
		answer.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition = rp.Partition
			if t != nil && int(rp.Partition) < len(t.ends) {
				p.Offset = t.ends[rp.Partition].Load()
			}
			answer.Partitions = append(answer.Partitions, p)
		}
		resp.Topics = append(resp.Topics, answer)
	}
	return resp
}
