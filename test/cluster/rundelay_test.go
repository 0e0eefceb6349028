package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// runDelay tells how long threads of a process were ready to run and had no CPU. A broker's heartbeat that came late by no more than that was held up
// by the machine, not by the broker.
type runDelay struct {
	pid   int
	ended chan struct{}
	wait  sync.WaitGroup

	worst  time.Duration // of one thread within one look
	at     time.Time
	thread string
}

// runDelayLook is how often it is looked at: a wait that is cut by a look counts on both sides of it.
const runDelayLook = 50 * time.Millisecond

func startRunDelay(pid int) *runDelay {
	d := &runDelay{pid: pid, ended: make(chan struct{})}
	d.wait.Go(func() {
		before := threadDelays(pid)
		for {
			select {
			case <-d.ended:
				return
			case <-time.After(runDelayLook):
			}
			now := threadDelays(pid)
			for thread, total := range now {
				if was, ok := before[thread]; ok && total-was > d.worst {
					d.worst, d.at, d.thread = total-was, time.Now(), thread
				}
			}
			before = now
		}
	})
	return d
}

// stop ends it and describes the worst.
func (d *runDelay) stop() string {
	close(d.ended)
	d.wait.Wait()
	if d.worst == 0 {
		return "none waited for a CPU"
	}
	return fmt.Sprintf("a thread waited %.1f ms for a CPU (%s, at %s)", d.worst.Seconds()*1000, d.thread, d.at.Format("15:04:05.000"))
}

// threadDelays are the times that a process's threads have been ready without a CPU so far.
func threadDelays(pid int) map[string]time.Duration {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return nil
	}
	out := map[string]time.Duration{}
	for _, name := range files {
		text, err := os.ReadFile(name) // fails where the thread has ended
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 2 {
			continue
		}
		if ns, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			out[filepath.Base(filepath.Dir(name))] = time.Duration(ns)
		}
	}
	return out
}
