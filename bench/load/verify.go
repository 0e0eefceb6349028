package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"weir/bench/wire"
)

// ErrLost is a record that was acknowledged and cannot be read.
var ErrLost = errors.New("acknowledged records are not there")

const verifyLimit = 5 * time.Minute

// Verify reads everything that the target's partitions have, checks it batch by batch, and holds it against what producers were told. It returns
// how many messages it read. More than were acknowledged is no error: the last requests of a load end without anybody waiting for their answers.
func Verify(ctx context.Context, t Target, acked []Acknowledged) (read int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, verifyLimit)
	defer cancel()
	ends, err := endOffsets(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("verify: %w", err)
	}
	addrs, err := leaders(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("verify: %w", err)
	}
	var total atomic.Int64
	g := newGroup(ctx)
	for p, a := range acked {
		p, end := int32(p), ends[int32(p)]
		if end < a.Next || end < a.Messages {
			return 0, errors.Join(g.stop(), fmt.Errorf("%w: partition %d ends at %d; %d messages were acknowledged, up to offset %d", ErrLost, p, end, a.Messages, a.Next-1))
		}
		g.run(func(ctx context.Context) error { return readBack(ctx, addrs[p], t.Topic, p, end, &total) })
	}
	if err := g.wait(); err != nil {
		return total.Load(), fmt.Errorf("verify: %w", err)
	}
	if ctx.Err() != nil {
		return total.Load(), fmt.Errorf("verify: %w after %d messages", ctx.Err(), total.Load())
	}
	return total.Load(), nil
}

// readBack reads a partition up to end.
func readBack(ctx context.Context, addr, topic string, partition int32, end int64, total *atomic.Int64) error {
	conn, err := dial(ctx, addr)
	if err != nil {
		return ended(ctx, err)
	}
	defer conn.Close()
	defer unblock(ctx, conn)()
	in := bufio.NewReaderSize(conn, readerBuffer)
	var resp []byte
	offsets := map[int32]int64{partition: 0}
	for offsets[partition] < end {
		at := offsets[partition]
		if resp, err = exchange(conn, in, wire.FetchFrame(topic, offsets, fetchBytes, fetchWait), resp); err != nil {
			return ended(ctx, err)
		}
		got, err := wire.CheckFetched(resp, offsets)
		if err != nil {
			return err
		}
		if got.Messages == 0 {
			return fmt.Errorf("%w: partition %d gives nothing at %d, it ends at %d", ErrLost, partition, at, end)
		}
		total.Add(got.Messages)
	}
	return nil
}
