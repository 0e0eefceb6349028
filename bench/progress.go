package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"weir/bench/load"
	"weir/bench/result"
)

// progress tells on standard error what runs: one line that is rewritten on a terminal, a line per run elsewhere.
type progress struct {
	terminal bool
	what     string
}

func newProgress() *progress {
	info, err := os.Stderr.Stat()
	return &progress{terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) begin(what string) {
	p.what = what
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s  starting", what)
	}
}

// follow shows the rate until stopped.
func (p *progress) follow(m *load.Meter) (stop func()) {
	if !p.terminal {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		start, last, lastTotal := time.Now(), time.Now(), int64(0)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				total := m.Total()
				rate := float64(total-lastTotal) / now.Sub(last).Seconds()
				fmt.Fprintf(os.Stderr, "\r\x1b[K%s  %4.1f s  %10.0f msg/s  %d messages", p.what, now.Sub(start).Seconds(), rate, total)
				last, lastTotal = now, total
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
}

func (p *progress) failed(err error) {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	fmt.Fprintf(os.Stderr, "%s  FAILED: %v\n", p.what, err)
}

func (p *progress) end(run *result.Run) {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	line := fmt.Sprintf("%s  %10.0f msg/s  %8.1f MB/s", p.what, run.MessagesPerSecond, run.MBPerSecond)
	if l := run.LatencyUs; l != nil {
		line += fmt.Sprintf("  p50 %.2f  p99 %.2f  p99.9 %.2f ms", l.P50/1000, l.P99/1000, l.P999/1000)
	}
	line += fmt.Sprintf("  CPU %.2f s/GB  RSS %.0f MB", run.CPUSecondsPerGB, float64(run.PeakRSSBytes)/1e6)
	fmt.Fprintln(os.Stderr, line)
}
