package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"weir/bench/load"
)

// serveTest runs a null broker until the test ends.
func serveTest(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{host: host, port: int32(n), topics: map[string]*topic{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				wg.Go(func() { b.serve(conn) })
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// TestEveryProducerLoad runs the load generator's producers against the null broker: it is their test, too.
func TestEveryProducerLoad(t *testing.T) {
	loads := map[string]load.Load{
		"batched":              load.Batched{RecordBytes: 100, Clients: 2, BufferedBytes: 1 << 20},
		"paced":                load.Batched{RecordBytes: 100, Clients: 1, BufferedBytes: 1 << 20, Rate: 1000},
		"paced by share":       load.Batched{RecordBytes: 100, Clients: 1, BufferedBytes: 1 << 20, RateShare: 0.1},
		"sync":                 load.Sync{RecordBytes: 100, Clients: 3},
		"preencoded, lockstep": load.Preencoded{RecordBytes: 100, BatchRecords: 1, Connections: 3, InFlight: 1},
		"preencoded, in depth": load.Preencoded{RecordBytes: 100, BatchRecords: 10, Connections: 3, InFlight: 4},
	}
	for name, l := range loads {
		t.Run(name, func(t *testing.T) {
			target := load.Target{Addrs: []string{serveTest(t)}, Topic: "t", Partitions: 4, MaxRate: 10_000}
			if err := load.CreateTopic(context.Background(), target); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			m := &load.Meter{}
			m.Begin()
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx, target, m) }()
			for m.Total() < 100 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			m.End()
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			o := m.Outcome()
			if o.Messages < 100 || o.Bytes != o.Messages*100 || o.Latency.TotalCount() == 0 {
				t.Fatalf("%d messages, %d bytes, %d latencies; want at least 100 of 100 bytes each", o.Messages, o.Bytes, o.Latency.TotalCount())
			}
			acked, sum := m.Acknowledged(target.Partitions), int64(0)
			for _, a := range acked {
				if a.Next < a.Messages {
					t.Errorf("%d messages have offsets below %d", a.Messages, a.Next)
				}
				sum += a.Messages
			}
			if sum != m.Total() {
				t.Errorf("by partition %d messages were acknowledged, together %d", sum, m.Total())
			}
			// This broker keeps nothing of what it acknowledges.
			if read, err := load.Verify(context.Background(), target, acked); !errors.Is(err, load.ErrLost) || read != 0 {
				t.Errorf("read back: %d messages, %v; want %v", read, err, load.ErrLost)
			}
		})
	}
}

func TestLoadReportsARefusal(t *testing.T) {
	target := load.Target{Addrs: []string{serveTest(t)}, Topic: "t", Partitions: 4}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The topic does not exist.
	err := load.Preencoded{RecordBytes: 100, BatchRecords: 1, Connections: 1, InFlight: 2}.Run(ctx, target, &load.Meter{})
	if err == nil {
		t.Fatal("a produce to an unknown topic was no error")
	}
}

func TestUnknownRequestsEndTheConnection(t *testing.T) {
	b := &broker{topics: map[string]*topic{}}
	for name, frame := range map[string][]byte{
		"short":             {0, 3},
		"unknown key":       {0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff},
		"unknown version":   {0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff},
		"client id too big": {0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff},
	} {
		if _, err := b.answer(frame, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
