package house

import (
	"go/ast"
	"testing"
)

// plainLocks are the locks that are not measured, and why: what a request waits for is (internal/lockmeter, docs/ARCHITECTURE.md "Locks"). A name is the package, the
// declaration and the fields down to the lock.
var plainLocks = []struct{ name, reason string }{
	{"broker.changes.mu", "held for a swap of a channel"},
	{"broker.slowLog.mu", "about log lines"},
	{"broker.officeRelay.mu", "taken when the office changes"},
	{"broker.peerHandler.mu", "guards one bool, for the shutdown"},
	{"broker.producerIDs.mu", "a block of ids is taken from it, once per producer"},
	{"broker.recordsDeletion.mu", "one DeleteRecords' own"},
	{"internal/clock.Running.mu", "one wait's own timer"},
	{"internal/faultlog.Log.mu", "about log lines"},
	{"internal/heartbeat.Heartbeat.mu", "the ticker's"},
	{"internal/iobuf.class.mu", "the pool is the process's, not a node's; memory is mapped without it"},
	{"internal/iobuf.invariantState.mu", "only with -tags invariants"},
	{"internal/lockmeter.Mutex.mu", "the lock that is measured"},
	{"internal/lockmeter.RWMutex.mu", "the lock that is measured"},
	{"internal/lockmeter.slowLog.mu", "taken once a minute"},
	{"internal/pace.Pace.mu", "writes in the background wait for it"},
	{"internal/vfs.MemFS.mu", "a file system for tests"},
	{"internal/vfs.memNode.mu", "a file system for tests"},
	{"internal/vfs.Watch.mu", "of changes of directories, which no request waits for"},
	{"raftmeta.Meta.reloading", "raft's settings, when they change"},
	{"raftmeta.Meta.vigil", "a follower's timer"},
	{"raftmeta.publisher.turn", "whose turn it is to deliver an image; requests wait for publisher.mu"},
	{"raftmeta.repeats.mu", "about log lines"},
	{"replica.background.mu", "counts goroutines that do background work"},
	{"replica.cleaner.mu", "which logs are to be compacted"},
	{"replica.throttle.mu", "the throttle of compaction"},
	{"replica.rollQueue.mu", "work after a roll, in the background"},
	{"replica.spaceGuard.mu", "whether the disk is full"},
	{"replica.stallWatch.mu", "whether the disk is stalled"},
	{"segment.Store.bg", "counts goroutines that do background work"},
	{"segment.checkpointer.mu", "the flushers'"},
	{"segment.damagedPlaces.mu", "damage that was told of"},
	{"segment.mu", "a flush of a group collects its results under it (group.go)"},
	{"segment.wholeSync.mu", "the flushers'"},
	{"segment.workQueue.mu", "deletions and closes, in the background"},
	{"uring.leaked", "taken when a ring cannot be closed"},
	{"wal.counters.mu", "the committer's, and the scrapes'"},
}

// locksOf calls fn with the name of each lock of package sync, or of lockmeter, that a file declares.
func locksOf(s *source, fn func(name, lib string, n ast.Node)) {
	var walk func(path string, typ ast.Expr)
	walk = func(path string, typ ast.Expr) {
		switch t := typ.(type) {
		case *ast.StructType:
			for _, f := range t.Fields.List {
				if len(f.Names) == 0 {
					walk(path, f.Type)
				}
				for _, name := range f.Names {
					walk(path+"."+name.Name, f.Type)
				}
			}
		case *ast.SelectorExpr:
			x, ok := t.X.(*ast.Ident)
			if ok && (x.Name == "sync" || x.Name == "lockmeter") && (t.Sel.Name == "Mutex" || t.Sel.Name == "RWMutex") {
				fn(path, x.Name, t)
			}
		case *ast.ArrayType:
			walk(path, t.Elt)
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch d := n.(type) {
		case *ast.TypeSpec:
			walk(s.pkg+"."+d.Name.Name, d.Type)
		case *ast.ValueSpec:
			walk(s.pkg+"."+d.Names[0].Name, d.Type)
		}
		return true
	})
}

// Every lock that requests wait for is measured; a new one that is not is a decision.
func TestLocksAreMeasured(t *testing.T) {
	found, measured := map[string]bool{}, 0
	for _, s := range sources(t) {
		if s.test || within(s.pkg, "bench") {
			continue
		}
		locksOf(s, func(name, lib string, n ast.Node) {
			if lib == "lockmeter" {
				measured++
				return
			}
			for _, p := range plainLocks {
				if p.name == name {
					found[name] = true
					return
				}
			}
			t.Errorf("%s:%d: the lock %s is not measured: use lockmeter's with a class, or say in plainLocks why no request waits for it", s.name, s.line(n), name)
		})
	}
	for _, p := range plainLocks {
		if !found[p.name] {
			t.Errorf("plainLocks: there is no %s", p.name)
		}
	}
	if measured < 30 {
		t.Errorf("%d measured locks found: the search is broken, or they are gone", measured)
	}
}

// Whoever measures a lock has to say of which class, or it is not in the metrics.
func TestMeasuredLocksHaveAClass(t *testing.T) {
	locks, classes := map[string]int{}, map[string]int{}
	for _, s := range sources(t) {
		if s.test || within(s.pkg, "internal/lockmeter") {
			continue
		}
		locksOf(s, func(_, lib string, _ ast.Node) {
			if lib == "lockmeter" {
				locks[s.pkg]++
			}
		})
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "MeterBy" {
					classes[s.pkg]++
				}
			}
			return true
		})
	}
	for pkg, n := range locks {
		if classes[pkg] < n {
			t.Errorf("%s has %d locks of lockmeter and %d calls of MeterBy: one is never given its class", pkg, n, classes[pkg])
		}
	}
	if len(locks) < 8 {
		t.Errorf("measured locks in %d packages only", len(locks))
	}
}
