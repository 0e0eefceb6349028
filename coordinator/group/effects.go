package group

import (
	"time"

	"weir/internal/record"
)

// effects collects what a transition wants from the world. The shard carries it out: timers and appends before it
// releases its lock, replies after.
type effects struct {
	now     time.Time
	replies []func()
	timers  []timerOp
	writes  []write
	removed []*group // that died and go out of the shard's map
}

// write is an append to the shard's partition. done is a transition that runs when the records are durable
// (OK) or not (the reason).
type write struct {
	records []record.Record
	done    func(fx *effects, code Code)
}

// timerOp arms a timer, or cancels it where at is zero.
type timerOp struct {
	t  *timer
	at time.Time
}

func (fx *effects) nowMs() int64 { return fx.now.UnixMilli() }

func (fx *effects) reply(f func()) { fx.replies = append(fx.replies, f) }

func (fx *effects) arm(t *timer, d time.Duration) {
	fx.timers = append(fx.timers, timerOp{t, fx.now.Add(max(d, 0))})
}

func (fx *effects) cancel(t *timer) { fx.timers = append(fx.timers, timerOp{t: t}) }

func (fx *effects) append(records []record.Record, done func(*effects, Code)) {
	fx.writes = append(fx.writes, write{records, done})
}

func (fx *effects) reset(now time.Time) {
	clear(fx.timers)
	clear(fx.writes)
	*fx = effects{now: now, timers: fx.timers[:0], writes: fx.writes[:0]}
}
