package load

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Preload fills the target's topic with so many bytes of 1 KiB records in 64 KiB batches and returns how many messages it
// wrote.
func Preload(ctx context.Context, t Target, bytes int64) (messages int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &Meter{}
	done := make(chan error, 1)
	p := Preencoded{RecordBytes: 1024, BatchRecords: 64, Connections: int(t.Partitions), InFlight: 4}
	go func() { done <- p.Run(ctx, t, m) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for m.Total()*int64(p.RecordBytes) < bytes {
		select {
		case <-tick.C:
		case err := <-done:
			if err == nil {
				err = ctx.Err()
			}
			return m.Total(), fmt.Errorf("preload: %w", err)
		}
	}
	cancel()
	return m.Total(), <-done
}

// endOffsets asks where the target's partitions end.
func endOffsets(ctx context.Context, t Target) (map[int32]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.Addrs...))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, t.Topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end offsets of %s: %w", t.Topic, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			ends[o.Partition] = o.Offset
		}
	})
	return ends, nil
}
