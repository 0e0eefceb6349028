package weirproc

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
)

const linesMax = 20000 // kept; a broker that floods must not take the test's memory

// Line is one line of output.
type Line struct {
	Stream string // stdout or stderr
	Text   string
}

// Lines collects what a broker's processes write. All methods may be called at any time.
type Lines struct {
	mu struct {
		sync.Mutex
		lines   []Line
		dropped int
		run     int // where the output of the process launched last begins
		changed chan struct{}
	}
}

func newLines() *Lines {
	l := &Lines{}
	l.mu.changed = make(chan struct{})
	return l
}

func (l *Lines) newRun() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.run = len(l.mu.lines) + l.mu.dropped
}

func (l *Lines) add(line Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.lines = append(l.mu.lines, line)
	if over := len(l.mu.lines) - linesMax; over > 0 {
		l.mu.lines = append([]Line{}, l.mu.lines[over:]...)
		l.mu.dropped += over
	}
	close(l.mu.changed)
	l.mu.changed = make(chan struct{})
}

// Mark is the current end, for Since.
func (l *Lines) Mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.lines) + l.mu.dropped
}

// Since returns the lines written after mark.
func (l *Lines) Since(mark int) []Line {
	lines, _ := l.since(mark)
	return lines
}

func (l *Lines) since(mark int) ([]Line, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := min(max(mark-l.mu.dropped, 0), len(l.mu.lines))
	return append([]Line{}, l.mu.lines[from:]...), l.mu.changed
}

// Tail is the last n lines as text.
func (l *Lines) Tail(n int) string {
	lines := l.Since(l.Mark() - n)
	var text strings.Builder
	for _, line := range lines {
		text.WriteString("  " + line.Stream + ": " + line.Text + "\n")
	}
	return text.String()
}

// await waits for a line of the run that began last.
func (l *Lines) await(ctx context.Context, match func(Line) bool) error {
	l.mu.Lock()
	run := l.mu.run
	l.mu.Unlock()
	for {
		lines, changed := l.since(run)
		for _, line := range lines {
			if match(line) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stream is a writer that splits what a process writes into lines. os/exec calls it from one goroutine.
func (l *Lines) stream(name string) io.Writer { return &splitter{lines: l, name: name} }

type splitter struct {
	lines *Lines
	name  string
	rest  []byte
}

func (s *splitter) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		s.lines.add(Line{Stream: s.name, Text: strings.TrimRight(string(s.rest[:i]), "\r")})
		s.rest = s.rest[i+1:]
	}
}
