package netproto

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"weir/internal/clock"
)

const (
	// logEvery is how often the same cause from the same peer is logged.
	logEvery = 10 * time.Second
	// logKeysMax bounds what is remembered; further peers share one entry per cause.
	logKeysMax = 1024
)

// limitedLog logs a cause at most once per peer and logEvery, and says how often it happened in between.
type limitedLog struct {
	log *slog.Logger
	clk clock.Clock

	mu struct {
		sync.Mutex
		seen map[logKey]*logEntry
	}
}

type logKey struct{ cause, peer string }

type logEntry struct {
	last       time.Time
	suppressed int
}

func newLimitedLog(log *slog.Logger, clk clock.Clock) *limitedLog {
	l := &limitedLog{log: log, clk: clk}
	l.mu.seen = make(map[logKey]*logEntry)
	return l
}

// warn logs one line, unless the same cause from the same peer was logged less than logEvery ago.
func (l *limitedLog) warn(cause, peer string, attrs ...slog.Attr) {
	suppressed, ok := l.admit(cause, peer)
	if !ok {
		return
	}
	attrs = append(attrs, slog.String("peer", peer))
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	l.log.LogAttrs(context.Background(), slog.LevelWarn, cause, attrs...)
}

func (l *limitedLog) admit(cause, peer string) (suppressed int, ok bool) {
	now := l.clk.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	key := logKey{cause, peer}
	e := l.mu.seen[key]
	if e == nil {
		if len(l.mu.seen) >= logKeysMax {
			l.forgetLocked(now)
		}
		if len(l.mu.seen) >= logKeysMax {
			key.peer = "" // peers beyond the bound share an entry
			e = l.mu.seen[key]
		}
	}
	if e == nil {
		l.mu.seen[key] = &logEntry{last: now}
		return 0, true
	}
	if now.Sub(e.last) < logEvery {
		e.suppressed++
		return 0, false
	}
	suppressed = e.suppressed
	*e = logEntry{last: now}
	return suppressed, true
}

// forgetLocked drops the entries that no longer hold anything back.
func (l *limitedLog) forgetLocked(now time.Time) {
	for k, e := range l.mu.seen {
		if now.Sub(e.last) >= logEvery {
			delete(l.mu.seen, k)
		}
	}
}
