package house

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// The wall clock jumps: NTP sets it, a machine comes up with a dead battery, somebody mistypes. What may jump with it is known, in two lists.

// ownTime are the files and packages that read the time themselves, not through internal/clock, and why no step of the wall clock touches them.
var ownTime = []struct{ where, reason string }{
	{"internal/clock/", "it is the seam"},
	{"bench/", "a load generator, not the product"},
	{"cmd/weir/consume.go", "the wall clock of the user's own machine, to read what he types"},
	{"cmd/weir/topic_records.go", "the wall clock of the user's own machine, to read what he types"},
	{"cmd/weir/serving.go", "how long starting and stopping take"},
	{"console/", "a write deadline, and for how long the process has run"},
	{"internal/heartbeat/", "how late a timer comes"},
	{"internal/lockmeter/", "how long a lock is held"},
	{"internal/vfs/", "how long an operation takes"},
	{"raftmeta/gone.go", "for how long a leader is silent; the raft library reads the clock itself"},
	{"tuning/", "how long a flush takes"},
	{"uring/", "how old an operation is"},
	{"wal/", "how long a write takes"},
}

// wallTime are the files that make a number of the wall clock. Such a number is for other machines and later processes; a duration, a deadline or an
// order that is kept as one jumps with the clock (clock.Ticks does not).
var wallTime = []struct{ where, reason string }{
	{"bench/", "a load generator, not the product"},
	{"cmd/weir/consume.go", "timestamps of records that the user asks for"},
	{"broker/describe_quorum.go", "shown to the user"},
	{"coordinator/group/effects.go", "timestamps of commits, which offsets expire by, also after a restart"},
	{"coordinator/group/load.go", "since when a group is in its state, shown to the user"},
	{"internal/otlp/span.go", "times of spans, for the collector"},
	{"raftmeta/metrics.go", "shown to the user"},
	{"raftmeta/records.go", "when an entry was appended: kept for the raft library, which shows it"},
	{"raftmeta/rpc_codec.go", "when an entry was appended: kept for the raft library, which shows it"},
	{"replica/append.go", "LogAppendTime"},
	{"replica/cleanermetrics.go", "shown to the user"},
	{"replica/following.go", "when a producer last wrote: kept in snapshots, across restarts"},
	{"replica/partition.go", "which timestamps of records are too far in the past or future"},
	{"replica/recovery.go", "producers expire by their snapshot's time, across restarts"},
	{"segment/compactfilter.go", "delete horizons, which stand in batches"},
	{"segment/roll.go", "retention by timestamps of records"},
}

// timeUses calls fn for every reading of the clock and for every number made of a wall clock.
func timeUses(s *source, fn func(n ast.Node, reads bool, what string)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, isIdent := sel.X.(*ast.Ident)
		fromTime := isIdent && x.Name == "time" && x.Obj == nil
		switch name := sel.Sel.Name; {
		case fromTime && slices.Contains([]string{"Now", "Since", "Until"}, name):
			fn(sel, true, "time."+name)
		case !fromTime && slices.Contains([]string{"Unix", "UnixMilli", "UnixMicro", "UnixNano"}, name):
			fn(sel, false, name)
		}
		return true
	})
}

func TestTimeComesFromTheClock(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		timeUses(s, func(n ast.Node, reads bool, what string) {
			list, why := ownTime, "time comes from internal/clock, so that tests can step it; or, where only differences are used, say so in ownTime"
			if !reads {
				list, why = wallTime, "the wall clock jumps: use clock.Ticks, or say in wallTime why it must be the wall clock"
			}
			for _, entry := range list {
				if strings.HasPrefix(s.name, entry.where) {
					used[entry.where] = true
					return
				}
			}
			t.Errorf("%s:%d: %s: %s", s.name, s.line(n), what, why)
		})
	}
	for _, entry := range append(slices.Clone(ownTime), wallTime...) {
		if !used[entry.where] {
			t.Errorf("%s is listed (%s) and does not use it", entry.where, entry.reason)
		}
	}
}
