package tuning

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// coresMin is how many cores a machine must have before a thread is given one for itself.
const coresMin = 3

// CorePlan says where threads run that others wait for: the committers of the write-ahead logs, and raft's. Everything else is left to the kernel,
// and so are these unless the machine has isolated cores or the operator has named some: on a core that others use, too, a pinned thread waits for
// them where a free one would move away. -1: any core.
type CorePlan struct {
	Data int // core of the data's log
	Meta int // core of the metadata's log
	Raft RaftCores
	Finding
}

// RaftCores are the cores of raft's pool of threads. With -1 there is no thread: the goroutine runs where Go runs it, which is cheaper as long as
// there is no core to be had for it (decision 0018).
type RaftCores struct{ Main, Apply, Snapshots int }

// raftCoresMax is how many threads the pool has: those of RaftCores, and the committer of the metadata's log.
const raftCoresMax = 4

// ErrCores says that a list of cores cannot be used.
var ErrCores = errors.New("these cores cannot be used")

// PlanCores looks at the machine. raft is the operator's list of cores for raft, such as 2,4-5; empty: none was named.
func PlanCores(raft []string) (CorePlan, error) {
	return planCores(os.DirFS("/"), runtime.NumCPU(), raft, tryCore)
}

// planCores reads the lists of cores below root; n is how many this process would use; try says whether a thread may run on a core.
func planCores(root fs.FS, n int, raft []string, try func(core int) error) (CorePlan, error) {
	const dir = "sys/devices/system/cpu/"
	p := CorePlan{Data: -1, Meta: -1, Raft: RaftCores{-1, -1, -1}, Finding: Finding{Subject: "cores"}}
	online := coreList(root, dir+"online")
	named, err := namedCores(raft, online, try)
	if err != nil {
		return p, err
	}
	isolated := slices.DeleteFunc(coreList(root, dir+"isolated"), func(c int) bool {
		return len(online) > 0 && !slices.Contains(online, c) || slices.Contains(named, c)
	})
	total := max(n, len(online))
	switch {
	case len(named) > 0:
		p.name(named, isolated, total)
	case total < coresMin:
		p.Text = fmt.Sprintf("%d: too few to give one away, no thread is pinned", total)
	case len(isolated) == 0:
		p.Text = fmt.Sprintf("%d, none of them isolated from other work (isolcpus=): no thread is pinned", total)
	case len(isolated) == 1:
		p.Data = isolated[0]
		p.Text = fmt.Sprintf("%d: the data's write-ahead log is written on the isolated core %d; with a second one the metadata's would have its own", total, p.Data)
	default:
		p.Data, p.Meta = isolated[0], isolated[1]
		p.Text = fmt.Sprintf("%d: the write-ahead logs are written on isolated cores, the data's on %d, the metadata's on %d", total, p.Data, p.Meta)
		if spare := isolated[2:]; len(spare) > 0 {
			p.Raft = raftCores(spare)
			p.Text += "; " + p.Raft.String()
		}
	}
	return p, nil
}

// name gives raft the cores that the operator has named.
func (p *CorePlan) name(named, isolated []int, total int) {
	p.Meta, p.Raft = named[0], raftCores(named)
	if len(named) == raftCoresMax {
		p.Meta = named[raftCoresMax-1]
	}
	p.Text = fmt.Sprintf("%d: as raft.cpus says, the metadata's write-ahead log is written on core %d; %s", total, p.Meta, p.Raft)
	if len(isolated) > 0 {
		p.Data = isolated[0]
		p.Text += fmt.Sprintf("; the data's log is written on the isolated core %d", p.Data)
	}
	if total < coresMin {
		p.Advice = "leave raft.cpus empty: with so few cores raft's threads wait for everything else that runs on theirs"
	}
}

// raftCores spreads raft's threads: what a commit waits for first, and a snapshot, which computes for long, never on a core with it.
func raftCores(cores []int) RaftCores {
	switch len(cores) {
	case 1:
		return RaftCores{cores[0], cores[0], -1}
	case 2:
		return RaftCores{cores[0], cores[0], cores[1]}
	}
	return RaftCores{cores[0], cores[1], cores[2]}
}

func (r RaftCores) String() string {
	text := fmt.Sprintf("raft runs on core %d, applies on %d", r.Main, r.Apply)
	if r.Snapshots < 0 {
		return text + " and takes snapshots on any"
	}
	return fmt.Sprintf("%s and takes snapshots on %d", text, r.Snapshots)
}

// namedCores reads the operator's list and holds it against the machine.
func namedCores(list []string, online []int, try func(core int) error) ([]int, error) {
	var named []int
	for _, part := range list {
		cores, err := parseCores(part)
		if err != nil {
			return nil, fmt.Errorf("raft.cpus=%s: %w: %w", strings.Join(list, ","), ErrCores, err)
		}
		named = append(named, cores...)
	}
	for i, c := range named {
		var err error
		switch {
		case slices.Contains(named[:i], c):
			err = fmt.Errorf("core %d is there twice", c)
		case len(online) > 0 && !slices.Contains(online, c):
			err = fmt.Errorf("core %d is not one that the machine has, which are %s", c, coreText(online))
		case len(named) > raftCoresMax:
			err = fmt.Errorf("%d cores, want at most %d, one for each thread", len(named), raftCoresMax)
		default:
			err = try(c)
		}
		if err != nil {
			return nil, fmt.Errorf("raft.cpus=%s: %w: %w", strings.Join(list, ","), ErrCores, err)
		}
	}
	return named, nil
}

// tryCore says whether this process may run on a core: a control group may keep it away from some.
func tryCore(core int) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var before unix.CPUSet
		failure := unix.SchedGetaffinity(0, &before)
		Pin(core, func(err error) { failure = err })()
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		result <- failure
	}()
	return <-result
}

// coreList reads a list of cores as the kernel writes it: 0-3,5. What cannot be read is no core.
func coreList(root fs.FS, name string) []int {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return nil
	}
	var cores []int
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		some, _ := parseCores(part)
		cores = append(cores, some...)
	}
	return cores
}

// parseCores reads a core, or a range such as 4-7.
func parseCores(part string) ([]int, error) {
	lo, hi, ranged := strings.Cut(strings.TrimSpace(part), "-")
	if !ranged {
		hi = lo
	}
	first, err1 := strconv.Atoi(lo)
	last, err2 := strconv.Atoi(hi)
	if err1 != nil || err2 != nil || first < 0 || last < first || last >= maxCores {
		return nil, fmt.Errorf("%q is no core and no range, want such as 2 or 4-7, below %d", part, maxCores)
	}
	var cores []int
	for c := first; c <= last; c++ {
		cores = append(cores, c)
	}
	return cores, nil
}

// coreText is a list of cores with commas.
func coreText(cores []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(cores)), ","), "[]")
}

// maxCores is what a unix.CPUSet can name.
const maxCores = len(unix.CPUSet{}) * 64

// Pin returns what binds the calling thread to a core, to be called on a thread that its goroutine is locked to and ends with; nil for
// core -1. failed is told if the kernel refuses.
func Pin(core int, failed func(error)) func() {
	if core < 0 || core >= maxCores {
		return nil
	}
	return func() {
		var set unix.CPUSet
		set.Set(core)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			failed(fmt.Errorf("pin a thread to core %d: %w", core, err))
		}
	}
}
