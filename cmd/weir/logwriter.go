package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// logWriter takes the log's lines and never blocks. Whoever logs may hold a lock, or be the write-ahead log's committer, and what takes the lines (a pipe, a
// terminal, a file on the disk that stalls) may stand still. A goroutine writes them; when too many wait, further ones are dropped and counted, which is
// said as soon as somebody takes lines again.
type logWriter struct {
	to      io.Writer
	onDrop  func(lines int64) // called on the goroutine that writes; may log
	lines   chan logLine
	bytes   atomic.Int64 // of the lines that wait
	dropped atomic.Int64
	once    sync.Once
	closing chan struct{}
	ended   chan struct{}
}

// logLine is a line; or, with written, the wish to hear that all before it were written.
type logLine struct {
	text    []byte
	written chan struct{}
}

const (
	logLinesMax = 4096
	logBytesMax = 4 << 20
)

// newLogWriter begins to write to w. Close it.
func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{
		to: w, onDrop: func(int64) {}, lines: make(chan logLine, logLinesMax),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	go l.run()
	return l
}

// Write implements io.Writer: b is one or more whole lines. It never fails; b is the caller's again when it returns.
func (l *logWriter) Write(b []byte) (int, error) {
	if l.bytes.Add(int64(len(b))) <= logBytesMax {
		select {
		case l.lines <- logLine{text: bytes.Clone(b)}:
			return len(b), nil
		default:
		}
	}
	l.bytes.Add(-int64(len(b)))
	l.dropped.Add(1)
	return len(b), nil
}

func (l *logWriter) run() {
	defer close(l.ended)
	for {
		select {
		case line := <-l.lines:
			l.write(line)
			continue
		case <-l.closing:
		}
		for {
			select {
			case line := <-l.lines:
				l.write(line)
			default:
				return
			}
		}
	}
}

func (l *logWriter) write(line logLine) {
	if line.written != nil {
		close(line.written)
		return
	}
	_, _ = l.to.Write(line.text) // there is nowhere to say that it failed
	l.bytes.Add(-int64(len(line.text)))
	if n := l.dropped.Swap(0); n > 0 {
		l.onDrop(n)
	}
}

// Flush waits until what was logged is written, at most for limit.
func (l *logWriter) Flush(limit time.Duration) {
	late := time.NewTimer(limit)
	defer late.Stop()
	written := make(chan struct{})
	select {
	case l.lines <- logLine{written: written}:
	case <-l.ended:
		return
	case <-late.C:
		return
	}
	select {
	case <-written:
	case <-l.ended:
	case <-late.C:
	}
}

// Close writes what was logged, for at most limit. What is logged from then on is lost.
func (l *logWriter) Close(limit time.Duration) {
	l.once.Do(func() { close(l.closing) })
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-l.ended:
	case <-late.C:
	}
}
