package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// heldLog is what takes the lines: it stands still until the gate is opened.
type heldLog struct {
	gate chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (h *heldLog) Write(b []byte) (int, error) {
	<-h.gate
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.got.Write(b)
}

func (h *heldLog) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.got.String()
}

// TestLogNeverBlocks: nobody who logs waits for whoever reads the log, and what is lost by that is told.
func TestLogNeverBlocks(t *testing.T) {
	for _, tt := range []struct {
		name        string
		lines, size int
	}{{"many lines", 3 * logLinesMax, 10}, {"many bytes", 100, logBytesMax / 10}} {
		t.Run(tt.name, func(t *testing.T) {
			to := &heldLog{gate: make(chan struct{})}
			w := newLogWriter(to)
			log := slog.New(slog.NewTextHandler(w, nil))
			w.onDrop = func(n int64) { log.Warn("dropped", "lines", n) }
			filler := strings.Repeat("x", tt.size)
			for i := range tt.lines { // hangs if a line waits
				log.Info("line", "i", i, "filler", filler)
			}
			if waiting := w.bytes.Load(); waiting > logBytesMax {
				t.Errorf("%d bytes wait", waiting)
			}
			w.Flush(time.Millisecond) // returns although nothing is taken
			close(to.gate)
			w.Flush(time.Minute)
			w.Close(time.Minute)
			if got := to.text(); !strings.Contains(got, "i=0 ") || !strings.Contains(got, "msg=dropped") {
				t.Errorf("have %d bytes: %.200s", len(got), got)
			}
			if w.bytes.Load() != 0 {
				t.Errorf("%d bytes are counted as waiting", w.bytes.Load())
			}
			log.Info("after the end") // is lost, and harms nobody
			w.Flush(time.Minute)
		})
	}
}

// TestLogKeepsItsOrder: lines come out whole and in the order in which they were logged, all of them before Close returns.
func TestLogKeepsItsOrder(t *testing.T) {
	to := &heldLog{gate: make(chan struct{})}
	close(to.gate)
	w := newLogWriter(to)
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintf(w, "%d\n", i)
		fmt.Fprintf(&want, "%d\n", i)
	}
	w.Close(time.Minute)
	if got := to.text(); got != want.String() {
		t.Errorf("have %.100q, want %.100q", got, want.String())
	}
}
