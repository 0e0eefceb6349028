package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/internal/record"
)

// crashOp is what happens to a partition that is truncated now and then: a batch is appended, or the log is cut. They are submitted in order;
// acked counts those that were acknowledged. After a crash what is there is what follows from the acknowledged ones and none, some or
// all of those behind them, in order.
type crashOp struct {
	batch record.Batch // as it is to be stored; nil: a cut
	end   int64        // where the log ends after a cut
	reset bool         // it begins there, too
}

// cutLog is what follows from ops.
type cutLog struct {
	batches    []record.Batch
	start, end int64
}

func (c *cutLog) do(op crashOp) {
	switch {
	case op.batch != nil:
		c.batches, c.end = append(c.batches, op.batch), op.batch.NextOffset()
	case op.reset:
		*c = cutLog{start: op.end, end: op.end}
	default:
		i := slices.IndexFunc(c.batches, func(b record.Batch) bool { return b.NextOffset() > op.end })
		if i >= 0 {
			c.batches = c.batches[:i:i]
		}
		c.end = op.end
	}
}

// cutAt is the op for a truncation to offset.
func (c *cutLog) cutAt(offset int64) crashOp {
	if offset <= c.start {
		return crashOp{end: offset, reset: true}
	}
	op := crashOp{end: c.start}
	for _, b := range c.batches {
		if b.NextOffset() <= offset {
			op.end = b.NextOffset()
		}
	}
	op.reset = op.end <= c.start
	return op
}

// produceAndCut writes to one partition, and truncates it when nothing is in flight, as a follower does.
func (m *crashModel) produceAndCut(t *testing.T, b *crashed, topic *crashTopic, index int32, rng *rand.Rand) {
	p, mine := b.ByName(topic.name, index), topic.partitions[index]
	var state cutLog
	m.mu.Lock()
	for _, op := range mine.ops {
		state.do(op)
	}
	m.mu.Unlock()
	inFlight := make(chan error, 3)
	running := 0
	wait := func(limit int) {
		for ; running > limit; running-- {
			if err := <-inFlight; err != nil {
				t.Errorf("append to %s: %v", p.name, err)
			}
		}
	}
	for range 2 * crashBatches {
		if rng.IntN(5) == 0 {
			wait(0)
			m.cut(t, p, mine, &state, rng)
			continue
		}
		batch := m.nextOp(t, mine, &state, int64(index), rng)
		if err := b.Reserve(len(batch), time.Minute); err != nil {
			t.Error(err)
			return
		}
		running++
		p.Append(&Append{Batch: batch, Done: func(a *Append) {
			if a.Err == nil {
				m.mu.Lock()
				mine.acked++
				m.mu.Unlock()
			}
			inFlight <- a.Err
		}})
		wait(rng.IntN(3))
	}
	wait(0)
}

// cut truncates a partition, mostly near its end.
func (m *crashModel) cut(t *testing.T, p *Partition, mine *crashPartition, state *cutLog, rng *rand.Rand) {
	offset := max(state.end-int64(rng.IntN(8)), 0)
	if rng.IntN(3) == 0 {
		offset = rng.Int64N(state.end + 1)
	}
	op, reset := state.cutAt(offset), rng.IntN(8) == 0
	if reset {
		offset = rng.Int64N(state.end + 100)
		op = crashOp{end: offset, reset: true}
	}
	if !op.reset && offset >= state.end {
		return
	}
	m.mu.Lock()
	mine.ops = append(mine.ops, op)
	state.do(op)
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.truncateTo(ctx, offset, reset); err != nil {
		t.Errorf("truncate %s to %d: %v", p.name, offset, err)
		return
	}
	m.mu.Lock()
	mine.acked++
	m.mu.Unlock()
	if p.End() != state.end || p.HighWatermark() > state.end || p.LogStart() != state.start {
		t.Errorf("%s after a truncation to %d: %d to %d, high watermark %d, want %d to %d", p.name, offset, p.LogStart(), p.End(), p.HighWatermark(), state.start, state.end)
	}
}

// nextOp makes the next batch of an idempotent producer whose sequence numbers are the offsets.
func (m *crashModel) nextOp(t *testing.T, p *crashPartition, state *cutLog, producer int64, rng *rand.Rand) record.Batch {
	recs := make([]record.Record, 1+rng.IntN(3))
	for i := range recs {
		v := make([]byte, rng.IntN(700))
		for j := range v {
			v[j] = byte(rng.Uint32())
		}
		recs[i] = record.Record{Timestamp: time.Now().UnixMilli(), Key: []byte{byte(rng.IntN(5))}, Value: v}
	}
	spec := record.NewSpec()
	spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = 1000+producer, 0, int32(state.end)
	b, err := record.Build(spec, recs)
	if err != nil {
		t.Error(err)
	}
	stored := slices.Clone(b)
	stored.SetBaseOffset(state.end)
	stored.SetLeaderEpoch(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	p.ops = append(p.ops, crashOp{batch: stored})
	state.do(crashOp{batch: stored})
	return b
}

// checkCuts compares a partition with what its ops have made of it.
func (acked *crashPartition) checkCuts(b *crashed, p *Partition, all *crashPartition) (read int, err error) {
	start, end := p.LogStart(), p.End()
	var got []record.Batch
	if err := p.ReadAll(func(b record.Batch) error {
		got = append(got, b)
		return nil
	}); err != nil {
		return 0, err
	}
	var state cutLog
	for n := 0; ; n++ {
		if n >= acked.acked && state.start == start && state.end == end && slices.EqualFunc(state.batches, got, func(a, b record.Batch) bool { return string(a) == string(b) }) {
			return len(got), checkCutRetry(b, p, &state)
		}
		if n == len(all.ops) {
			return len(got), fmt.Errorf("offsets %d to %d in %d batches are not what follows from the first %d of %d appends and truncations, or more", start, end, len(got), acked.acked, n)
		}
		state.do(all.ops[n])
	}
}

// checkCutRetry: the producers' state is that of what is there.
func checkCutRetry(b *crashed, p *Partition, state *cutLog) error {
	if len(state.batches) == 0 {
		return nil
	}
	last := state.batches[len(state.batches)-1]
	again := slices.Clone(last)
	if err := b.Reserve(len(again), time.Minute); err != nil {
		return err
	}
	done := make(chan struct{})
	a := &Append{Batch: again, Done: func(*Append) { close(done) }}
	p.Append(a)
	<-done
	if a.Err != nil || a.BaseOffset != last.BaseOffset() || p.End() != state.end {
		return fmt.Errorf("the last batch, of offset %d, sent again got offset %d, the log ends at %d: %w", last.BaseOffset(), a.BaseOffset, p.End(), errors.Join(a.Err))
	}
	return nil
}
