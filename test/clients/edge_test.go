package clients

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
	"weir/test/internal/weirproc"
)

// edgeRecords are the ones that are easily mangled. All have partition 0; the index is the offset.
func edgeRecords() []records.Record {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	edges := []records.Record{
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: nil, Value: []byte("a tombstone's opposite")},
		{Key: []byte("a tombstone"), Value: nil},
		{Key: every, Value: every},
		{Key: []byte("headers"), Value: []byte("v"), Headers: []records.Header{
			{Key: "b", Value: []byte("2")}, {Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("3")},
			{Key: "", Value: []byte("empty name")}, {Key: "null", Value: nil}, {Key: "empty", Value: []byte{}}, {Key: "ключ", Value: every},
		}},
		{Key: []byte("large"), Value: bytes.Repeat([]byte("0123456789abcdef"), 900<<10/16)},
		{Key: []byte("epoch"), Value: []byte("v"), Timestamp: -time.Now().UnixMilli()}, // made 1970 below
	}
	now := time.Now().UnixMilli()
	for i := range edges {
		edges[i].Offset = int64(i)
		edges[i].Timestamp += now
	}
	return edges
}

// TestEdgeRecords sends records with nulls, empties, all byte values and odd headers through each client that can
// express them, and reads them with each.
func TestEdgeRecords(t *testing.T) {
	all := clients(t)
	broker := weirproc.Start(t, weirproc.Options{Config: map[string]string{"group.initial.rebalance.delay.ms": "0"}})
	admin := newAdmin(t, broker.Addr)
	edges := edgeRecords()
	for _, producer := range all {
		if !producer.setsTimestamps() {
			continue // kcat cannot send these
		}
		topic := "edge-" + producer.name()
		createTopic(t, admin, topic, 1)
		timed(t, "produce with "+producer.name(), func(ctx context.Context) error {
			return produceEdges(ctx, producer, broker.Addr, topic, edges)
		})
		for _, consumer := range all {
			if consumer.name() == "kcat" {
				continue // its text cannot tell these headers apart
			}
			next := 0
			timed(t, "consume with "+consumer.name(), func(ctx context.Context) error {
				return consumer.consume(ctx, broker.Addr, topic, "edge-"+topic+consumer.name(), int64(len(edges)), func(got *records.Record) error {
					if next == len(edges) {
						return fmt.Errorf("more than the %d records sent", next)
					}
					want := &edges[next]
					next++
					if diff := records.Diff(got, want); diff != "" {
						return fmt.Errorf("record %d written by %s: %s", next-1, producer.name(), diff)
					}
					return nil
				})
			})
			if next != len(edges) {
				t.Fatalf("%s read %d of %d records that %s wrote", consumer.name(), next, len(edges), producer.name())
			}
		}
	}
}

func produceEdges(ctx context.Context, producer client, addr, topic string, edges []records.Record) error {
	switch p := producer.(type) {
	case java:
		return pipe(p.command(ctx, "produce", "topic="+topic, "bootstrap.servers="+addr), func(in *bufio.Writer) error {
			for i := range edges {
				if err := writeBridge(in, &edges[i]); err != nil {
					return err
				}
			}
			return nil
		}, nil)
	default:
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			return err
		}
		defer cl.Close()
		var batch []*kgo.Record
		for i := range edges {
			batch = append(batch, toFranz(&edges[i]))
		}
		return cl.ProduceSync(ctx, batch...).FirstErr()
	}
}
