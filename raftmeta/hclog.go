package raftmeta

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"weir/internal/clock"
)

// raftLogger hands hashicorp/raft's log to slog, one level down each: what the library tells of its daily work is of
// interest to its debuggers, and what it warns of (an election at each start) is no operator's concern. Errors stay errors, but for those that only say that
// another node does not answer: the transport says that once, when it begins and when it is over.
//
// A node that is away makes the library say the same several times a second. Each message is logged once in repeatAfter, with how often it was
// left out since.
type raftLogger struct {
	log     *slog.Logger
	name    string
	implied []any
	repeats *repeats
}

func newRaftLogger(l *slog.Logger, clk clock.Clock) *raftLogger {
	return &raftLogger{log: l, name: "raft", repeats: &repeats{clk: clk}}
}

const (
	repeatAfter = 10 * time.Second
	repeatsMax  = 256 // different messages; the library's are constants
)

// repeats knows what was said lately.
type repeats struct {
	clk clock.Clock
	mu  struct {
		sync.Mutex
		said map[string]*repeat
	}
}

type repeat struct {
	at   time.Time
	left int // out since
}

// again says whether a message is due, and how often it was not since it last was.
func (r *repeats) again(msg string) (left int, due bool) {
	now := r.clk.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.mu.said[msg]
	if last != nil && now.Sub(last.at) < repeatAfter {
		last.left++
		return 0, false
	}
	if last == nil {
		if r.mu.said == nil || len(r.mu.said) >= repeatsMax {
			r.mu.said = make(map[string]*repeat)
		}
		last = &repeat{}
		r.mu.said[msg] = last
	}
	left = last.left
	last.at, last.left = now, 0
	return left, true
}

const levelTrace = slog.LevelDebug - 4

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelInfo
	case hclog.Info:
		return slog.LevelDebug
	}
	return levelTrace
}

// unreachable are the errors of hashicorp/raft v1.8 that say that a message was not answered.
var unreachable = map[string]bool{
	"failed to heartbeat to": true, "failed to appendEntries to": true, "failed to make requestVote RPC": true, "failed to make preVote RPC": true,
	"failed to pipeline appendEntries": true,
}

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	sl := slogLevel(level)
	if unreachable[msg] {
		sl = slog.LevelDebug
	}
	if !l.log.Enabled(context.Background(), sl) {
		return
	}
	attrs := make([]any, 0, len(args)+2)
	for _, a := range args {
		attrs = append(attrs, render(a))
	}
	if sl >= slog.LevelInfo {
		left, due := l.repeats.again(msg)
		if !due {
			return
		}
		if left > 0 {
			attrs = append(attrs, "repeated", left)
		}
	}
	l.log.Log(context.Background(), sl, l.name+": "+msg, attrs...)
}

// render turns what only hclog understands, and pointers into raft that change under a handler's eyes, into text.
func render(a any) any {
	switch v := a.(type) {
	case hclog.Format:
		if format, ok := v[0].(string); ok {
			return fmt.Sprintf(format, v[1:]...)
		}
	case error, time.Duration, time.Time:
		return a
	case fmt.Stringer:
		return v.String()
	}
	return a
}

func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) enabled(level hclog.Level) bool {
	return l.log.Enabled(context.Background(), slogLevel(level))
}

func (l *raftLogger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *raftLogger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *raftLogger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *raftLogger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *raftLogger) IsError() bool { return l.enabled(hclog.Error) }

func (l *raftLogger) ImpliedArgs() []any { return l.implied }

func (l *raftLogger) With(args ...any) hclog.Logger {
	implied := append(append([]any(nil), l.implied...), args...)
	return &raftLogger{log: l.log.With(args...), name: l.name, implied: implied, repeats: l.repeats}
}

func (l *raftLogger) Name() string { return l.name }

func (l *raftLogger) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	return &raftLogger{log: l.log, name: name, implied: l.implied, repeats: l.repeats}
}

// SetLevel does nothing: the slog handler decides.
func (l *raftLogger) SetLevel(hclog.Level) {}

func (l *raftLogger) GetLevel() hclog.Level {
	for level := hclog.Trace; level <= hclog.Error; level++ {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

func (l *raftLogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}

func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l} }

// lineWriter logs each Write as a line.
type lineWriter struct{ l *raftLogger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.l.Info(string(bytes.TrimSpace(p)))
	return len(p), nil
}
