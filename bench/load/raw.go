package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"weir/bench/wire"
)

const (
	hangLimit    = time.Hour // no run is longer; the end of the window ends it
	fetchWait    = 500 * time.Millisecond
	fetchBytes   = 4 << 20 // per partition and request
	readerBuffer = 256 << 10
)

// Preencoded produces with requests encoded beforehand and sent as bytes, acks=all, so that the client costs next to nothing.
// Every connection keeps InFlight requests under way and writes to one partition.
type Preencoded struct {
	RecordBytes  int
	BatchRecords int // records per request
	Connections  int
	InFlight     int
}

// Run implements Load.
func (p Preencoded) Run(ctx context.Context, t Target, m *Meter) error {
	addrs, err := leaders(ctx, t)
	if err != nil {
		return ended(ctx, err)
	}
	g := newGroup(ctx)
	for n := range p.Connections {
		partition := int32(n) % t.Partitions
		frame := wire.ProduceFrame(t.Topic, partition, wire.Batch(p.BatchRecords, p.RecordBytes, newRand(uint64(n))))
		conn, err := dial(ctx, addrs[partition])
		if err != nil {
			return errors.Join(ended(ctx, err), g.stop())
		}
		defer conn.Close()
		a := answers{p, t.Topic, partition, m.Shard()}
		if p.InFlight == 1 {
			g.run(func(ctx context.Context) error { return a.lockstep(ctx, conn, frame) })
			continue
		}
		sent := make(chan time.Time, p.InFlight-1) // one more is held by the reader
		g.run(func(ctx context.Context) error { return p.write(ctx, conn, frame, sent) })
		g.run(func(ctx context.Context) error { return a.read(ctx, conn, sent) })
	}
	return g.wait()
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return conn, nil
}

// answers takes the answers of one connection.
type answers struct {
	Preencoded
	topic     string
	partition int32
	shard     *Shard
}

func (a *answers) take(resp []byte, sent time.Time) error {
	base, err := wire.CheckProduced(resp, a.topic)
	if err != nil {
		return err
	}
	a.shard.Acked(time.Since(sent), a.partition, base+int64(a.BatchRecords)-1, int64(a.BatchRecords), int64(a.BatchRecords*a.RecordBytes))
	return nil
}

// lockstep is a synchronous producer: one request, one answer.
func (a *answers) lockstep(ctx context.Context, conn net.Conn, frame []byte) error {
	defer unblock(ctx, conn)()
	in := bufio.NewReaderSize(conn, 4096)
	var resp []byte
	for ctx.Err() == nil {
		sent := time.Now()
		_, err := conn.Write(frame)
		if err == nil {
			resp, err = wire.ReadFrame(in, resp)
		}
		if err != nil {
			return ended(ctx, err)
		}
		if err := a.take(resp, sent); err != nil {
			return err
		}
	}
	return nil
}

func (p Preencoded) write(ctx context.Context, conn net.Conn, frame []byte, sent chan<- time.Time) error {
	defer unblock(ctx, conn)()
	for {
		select {
		case sent <- time.Now():
		case <-ctx.Done():
			return nil
		}
		if _, err := conn.Write(frame); err != nil {
			return ended(ctx, err)
		}
	}
}

func (a *answers) read(ctx context.Context, conn net.Conn, sent <-chan time.Time) error {
	in := bufio.NewReaderSize(conn, 4096)
	var resp []byte
	for {
		var at time.Time
		select {
		case at = <-sent:
		case <-ctx.Done():
			return nil
		}
		var err error
		if resp, err = wire.ReadFrame(in, resp); err != nil {
			return ended(ctx, err)
		}
		if err := a.take(resp, at); err != nil {
			return err
		}
	}
}

// unblock makes the connection's blocked calls fail when the context ends.
func unblock(ctx context.Context, conn net.Conn) (stop func()) {
	_ = conn.SetDeadline(time.Now().Add(hangLimit))
	release := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { release() }
}

// ended passes an error on unless it came from the end of the run.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("connection: %w", err)
}

// Fetch reads partitions with fetch requests over its own connections, from the beginning. The bytes are counted and thrown away.
type Fetch struct {
	Connections int
	Repeat      bool // begin again at the end; otherwise the load ends there
}

// Run implements Load.
func (f Fetch) Run(ctx context.Context, t Target, m *Meter) error {
	ends, err := endOffsets(ctx, t)
	if err != nil {
		return err
	}
	addrs, err := leaders(ctx, t)
	if err != nil {
		return ended(ctx, err)
	}
	g := newGroup(ctx)
	for n := range f.Connections {
		// A connection reads what one node leads.
		mine := map[string]map[int32]int64{}
		for p, end := range ends {
			if int(p)%f.Connections != n {
				continue
			}
			if mine[addrs[p]] == nil {
				mine[addrs[p]] = map[int32]int64{}
			}
			mine[addrs[p]][p] = end
		}
		for addr, parts := range mine {
			conn, err := dial(ctx, addr)
			if err != nil {
				return errors.Join(ended(ctx, err), g.stop())
			}
			defer conn.Close()
			shard := m.Shard()
			g.run(func(ctx context.Context) error { return f.read(ctx, conn, t.Topic, parts, shard) })
		}
	}
	return g.wait()
}

func (f Fetch) read(ctx context.Context, conn net.Conn, topic string, ends map[int32]int64, shard *Shard) error {
	defer unblock(ctx, conn)()
	in := bufio.NewReaderSize(conn, readerBuffer)
	var resp []byte
	for ctx.Err() == nil {
		offsets := map[int32]int64{}
		for p := range ends {
			offsets[p] = 0
		}
		for len(offsets) > 0 && ctx.Err() == nil {
			sent := time.Now()
			var err error
			if resp, err = exchange(conn, in, wire.FetchFrame(topic, offsets, fetchBytes, fetchWait), resp); err != nil {
				return ended(ctx, err)
			}
			got, err := wire.ParseFetched(resp, offsets)
			if err != nil {
				return err
			}
			shard.Record(time.Since(sent), got.Messages, got.Bytes)
			for p, next := range offsets {
				if next >= ends[p] {
					delete(offsets, p)
				}
			}
		}
		if !f.Repeat {
			return nil
		}
	}
	return nil
}

func exchange(conn net.Conn, in io.Reader, frame, resp []byte) ([]byte, error) {
	if _, err := conn.Write(frame); err != nil {
		return resp, err
	}
	return wire.ReadFrame(in, resp)
}
