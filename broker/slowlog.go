package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"weir/internal/clock"
)

// slowLog says which requests were slow, a line each, as long as there are few. From the sixth within ten seconds on they are only counted, and
// at the end of those one more line says how many there were, with the slowest of them in full. So a disk that makes every request slow costs
// six lines in ten seconds, however many requests there are.
type slowLog struct {
	clk clock.Clock
	log *slog.Logger

	mu struct {
		sync.Mutex
		until   time.Time // end of the ten seconds; zero: there was no slow request yet
		lines   int       // said within them
		more    int       // not said
		slowest time.Duration
		attrs   []slog.Attr // of the slowest of those
		timer   clock.Timer // runs while more > 0
		closed  bool
	}
}

const (
	slowLogEvery = 10 * time.Second
	slowLinesMax = 5
)

// add is called for each slow request. It keeps attrs.
func (l *slowLog) add(took time.Duration, attrs []slog.Attr) {
	now := l.clk.Now()
	l.mu.Lock()
	m := &l.mu
	if m.more == 0 && !now.Before(m.until) {
		m.until, m.lines = now.Add(slowLogEvery), 0
	}
	say := m.lines < slowLinesMax || m.closed
	if say {
		m.lines++
	} else {
		if m.more++; m.more == 1 {
			m.timer = l.clk.AfterFunc(m.until.Sub(now), l.sum)
		}
		if took > m.slowest {
			m.slowest, m.attrs = took, attrs
		}
	}
	l.mu.Unlock()
	if say {
		l.log.LogAttrs(context.Background(), slog.LevelWarn, "slow request", attrs...)
	}
}

// sum says what was only counted. The next ten seconds begin.
func (l *slowLog) sum() {
	now := l.clk.Now()
	l.mu.Lock()
	m := &l.mu
	more, slowest, attrs := m.more, m.slowest, m.attrs
	m.more, m.slowest, m.attrs, m.timer = 0, 0, nil, nil
	m.until, m.lines = now.Add(slowLogEvery), 0
	l.mu.Unlock()
	if more == 0 {
		return
	}
	attrs = append([]slog.Attr{slog.Int("more", more), slog.Duration("within", slowLogEvery), slog.Duration("slowest", slowest)}, attrs...)
	l.log.LogAttrs(context.Background(), slog.LevelWarn, "slow requests, the slowest of those that had no line", attrs...)
}

// close says what there is to say.
func (l *slowLog) close() {
	l.mu.Lock()
	l.mu.closed = true
	timer := l.mu.timer
	l.mu.Unlock()
	if timer != nil && timer.Stop() {
		l.sum()
	}
}
