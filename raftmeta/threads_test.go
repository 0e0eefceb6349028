package raftmeta

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestThreads: raft's goroutines run on threads of their own, on the core that they were told.
func TestThreads(t *testing.T) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	core := 0
	for !allowed.IsSet(core) {
		core++
	}
	var mu sync.Mutex
	tids := map[string]int{}
	pin := func(name string) func() {
		return func() {
			var set unix.CPUSet
			set.Set(core)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if tids[name] != 0 {
				t.Errorf("%s has a second thread", name)
			}
			tids[name] = unix.Gettid()
		}
	}
	o := testOptions(t.TempDir())
	o.Threads = Threads{Main: pin("main"), Apply: pin("apply"), Snapshots: pin("snapshots")}
	o.OnLogThread = pin("log")
	m := open(t, o)
	for i := range 3 {
		propose(t, m, CreateTopic{Name: fmt.Sprint("t", i), Partitions: 1})
		if err := m.takeSnapshot(); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	seen := map[int]bool{}
	for _, name := range []string{"main", "apply", "snapshots", "log"} {
		tid := tids[name]
		if tid == 0 || seen[tid] {
			t.Errorf("%s has thread %d, of all: %v", name, tid, tids)
			continue
		}
		seen[tid] = true
		status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("Cpus_allowed_list:\t%d\n", core)) {
			t.Errorf("%s does not run on core %d alone: %v\n%s", name, core, err, status)
		}
	}
	shut(t, m)
}
