package raftmeta

import (
	"runtime"

	"github.com/hashicorp/raft"
)

// Threads gives raft's goroutines OS threads of their own, apart from those that serve clients. The goroutines are hashicorp/raft's; they are locked from
// the inside, when they first come by here. A function is called on the thread then, to bind it to a core; nil leaves the goroutine to Go's scheduler,
// which is cheaper (decision 0018). The threads end with raft; one that is opened anew has new ones.
type Threads struct {
	Main      func() // stores entries and counts votes and acknowledgements
	Apply     func() // applies what is committed and calls the subscribers
	Snapshots func() // encodes and writes snapshots
}

// thread locks one goroutine to an OS thread. Only that goroutine calls enter.
type thread struct {
	on      func() // nil: never
	entered bool
}

func (t *thread) enter() {
	if t == nil || t.entered || t.on == nil {
		return
	}
	t.entered = true
	runtime.LockOSThread() // for the life of the goroutine, so that the thread ends with it
	t.on()
}

// raftLog is the store as one raft sees it: entries are stored on raft's main goroutine.
type raftLog struct {
	*store
	main thread
}

// StoreLogs is store's.
func (l *raftLog) StoreLogs(logs []*raft.Log) error {
	l.main.enter()
	return l.store.StoreLogs(logs)
}

// StoreLog is StoreLogs of one entry.
func (l *raftLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }
