package tuning

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// baseBytes is for what has no budget: metadata, indexes, stacks, groups. It is generous, because a limit that the live heap
	// reaches makes the collector run without end; what an idle broker uses it does not change.
	baseBytes = 1 << 30
	// machineShare is the part of the machine's memory, in percent, that the limit never exceeds; the rest
	// is for the page cache, which serves the readers, and for whatever else runs there.
	machineShare = 80
)

// Budget is an upper bound that some part of the broker keeps for memory outside the Go heap (internal/iobuf), which the
// collector's limit does not count.
type Budget struct {
	Name  string // the key that sets it
	Bytes int64
}

// MemoryOptions are the inputs of PlanMemory.
type MemoryOptions struct {
	Budgets    []Budget
	Limit      int64                       // memory.limit.bytes; 0: from the budgets
	GCPercent  int                         // gc.percent
	Machine    uint64                      // memory of the machine or container; 0: unknown
	LookupEnv  func(string) (string, bool) // os.LookupEnv
	FromConfig bool                        // gc.percent was given, not defaulted
}

// MemoryPlan is what the garbage collector is told.
type MemoryPlan struct {
	Limit     int64 // of the Go heap and stacks, bytes; 0: leave as it is
	GCPercent int   // 0: leave as it is
	Findings  []Finding
}

// PlanMemory decides the limits of the garbage collector. Variables of the Go runtime that the operator has set win over
// defaults, configuration wins over both.
func PlanMemory(o MemoryOptions) MemoryPlan {
	var p MemoryPlan
	var sum int64
	for _, b := range o.Budgets {
		sum += b.Bytes
	}
	f := Finding{Subject: "memory"}
	env, fromEnv := o.LookupEnv("GOMEMLIMIT")
	if o.Limit == 0 && fromEnv {
		f.Text = "GOMEMLIMIT is " + env
	} else {
		total, why := o.Limit, "memory.limit.bytes"
		if total == 0 {
			total, why = o.total(sum)
		}
		// However large the budgets: a heap that cannot live is no use.
		p.Limit = max(total-sum, total/2)
		f.Text = fmt.Sprintf("%s in all (%s), of it %s for the Go heap", bytes(uint64(total)), why, bytes(uint64(p.Limit)))
	}
	if o.Machine > 0 && uint64(sum) > o.Machine/100*machineShare {
		f.Advice = fmt.Sprintf("the memory budgets add up to %s and there is %s: lower %s", bytes(uint64(sum)), bytes(o.Machine), largest(o.Budgets))
	}
	if _, ok := o.LookupEnv("GOGC"); !ok || o.FromConfig {
		p.GCPercent = o.GCPercent
	}
	p.Findings = []Finding{f}
	return p
}

// total is the memory of the whole process when it is not configured, and what it comes from.
func (o *MemoryOptions) total(budgets int64) (n int64, why string) {
	n = saturatingAdd(budgets, budgets/4, baseBytes)
	if most := int64(o.Machine / 100 * machineShare); o.Machine > 0 && n > most {
		return most, fmt.Sprintf("%d %% of %s", machineShare, bytes(o.Machine))
	}
	return n, "budgets of " + bytes(uint64(budgets)) + " and what has none"
}

// Apply hands the plan to the runtime.
func (p MemoryPlan) Apply() {
	if p.Limit > 0 {
		debug.SetMemoryLimit(p.Limit)
	}
	if p.GCPercent > 0 {
		debug.SetGCPercent(p.GCPercent)
	}
}

func saturatingAdd(values ...int64) int64 {
	var sum int64
	for _, v := range values {
		if sum > math.MaxInt64-v {
			return math.MaxInt64
		}
		sum += v
	}
	return sum
}

func largest(budgets []Budget) string {
	var l Budget
	for _, b := range budgets {
		if b.Bytes > l.Bytes {
			l = b
		}
	}
	return l.Name
}

// MachineMemory returns the memory, in bytes, that the process can have: the machine's, or the container's if that is less.
// 0: unknown.
func MachineMemory() uint64 { return machineMemory(os.DirFS("/")) }

func machineMemory(root fs.FS) uint64 {
	total := memTotal(root)
	if limit := cgroupLimit(root); limit > 0 && (total == 0 || limit < total) {
		return limit
	}
	return total
}

func memTotal(root fs.FS) uint64 {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// cgroupLimit is the smallest memory.max of the process's control group and its ancestors (version 2), 0 if none.
func cgroupLimit(root fs.FS) uint64 {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	group := "/"
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			group = strings.TrimSpace(rest)
		}
	}
	var limit uint64
	for {
		name := path.Join("sys/fs/cgroup", group, "memory.max")
		if text, err := fs.ReadFile(root, name); err == nil {
			// "max" does not parse and means none.
			if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && (limit == 0 || n < limit) {
				limit = n
			}
		}
		if group == "/" || group == "." {
			return limit
		}
		group = path.Dir(group)
	}
}
