// Package faultlog keeps failures that repeat from filling the log: a dead peer, a slow disk or a broken partition fails every request that meets it. A
// line says what failed and where; the same at the same place is said again after Every at the earliest, with how many lines were left
// out in between. What is remembered is bounded.
package faultlog

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"weir/internal/clock"
)

const (
	// Every is how often the same is said of the same place.
	Every = 10 * time.Second
	// PlacesMax bounds what is remembered; further places share one entry for each kind of failure.
	PlacesMax = 1024
)

// Log writes such lines. Its methods may be called from any goroutine.
type Log struct {
	log *slog.Logger
	clk clock.Clock

	mu struct {
		sync.Mutex
		said map[key]*entry
	}
}

type key struct{ what, where string }

type entry struct {
	last    time.Time
	leftOut int
}

// New returns a log that has said nothing.
func New(log *slog.Logger, clk clock.Clock) *Log {
	l := &Log{log: log, clk: clk}
	l.mu.said = map[key]*entry{}
	return l
}

// Warn says that something failed: what is the message, a constant; where tells places apart (a peer, a partition) and is not logged by itself.
func (l *Log) Warn(what, where string, args ...any) { l.At(slog.LevelWarn, what, where, args...) }

// At is Warn at another level. Below the level that is logged nothing is remembered.
func (l *Log) At(level slog.Level, what, where string, args ...any) {
	ctx := context.Background()
	if !l.log.Enabled(ctx, level) {
		return
	}
	leftOut, due := l.due(what, where)
	if !due {
		return
	}
	if leftOut > 0 {
		args = append(args[:len(args):len(args)], "suppressed", leftOut)
	}
	l.log.Log(ctx, level, what, args...)
}

func (l *Log) due(what, where string) (leftOut int, due bool) {
	now := l.clk.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := key{what, where}
	e := l.mu.said[k]
	if e == nil && len(l.mu.said) >= PlacesMax {
		l.forgetLocked(now)
		if len(l.mu.said) >= PlacesMax {
			k.where = "" // places beyond the bound share an entry
			e = l.mu.said[k]
		}
	}
	if e == nil {
		l.mu.said[k] = &entry{last: now}
		return 0, true
	}
	if now.Sub(e.last) < Every {
		e.leftOut++
		return 0, false
	}
	leftOut = e.leftOut
	*e = entry{last: now}
	return leftOut, true
}

// forgetLocked drops the entries that no longer hold anything back.
func (l *Log) forgetLocked(now time.Time) {
	for k, e := range l.mu.said {
		if now.Sub(e.last) >= Every {
			delete(l.mu.said, k)
		}
	}
}
