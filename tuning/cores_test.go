package tuning

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

func TestPlanCores(t *testing.T) {
	const dir = "sys/devices/system/cpu/"
	none := RaftCores{-1, -1, -1}
	tests := []struct {
		name, online, isolated string
		n                      int
		data, meta             int
		raft                   RaftCores
		says                   string
	}{
		{"nothing known", "", "", 8, -1, -1, none, "none of them isolated"},
		{"two cores", "0-1\n", "1\n", 1, -1, -1, none, "too few"},
		{"three, none isolated", "0-2\n", "\n", 3, -1, -1, none, "none of them isolated"},
		{"one isolated", "0-3\n", "3\n", 3, 3, -1, none, "isolated core 3"},
		{"two isolated", "0-3\n", "2-3\n", 2, 2, 3, none, "on 2, the metadata's on 3"},
		{"a list", "0-15\n", "1,4-5,7\n", 12, 1, 4, RaftCores{5, 5, 7}, "on 1, the metadata's on 4"},
		{"three isolated", "0-7\n", "5-7\n", 5, 5, 6, RaftCores{7, 7, -1}, "raft runs on core 7, applies on 7 and takes snapshots on any"},
		{"many isolated", "0-15\n", "8-15\n", 8, 8, 9, RaftCores{10, 11, 12}, "takes snapshots on 12"},
		{"isolated and offline", "0-3\n", "6,3\n", 3, 3, -1, none, "isolated core 3"},
		{"nonsense", "0-3\n", "a,-1,2-x,5-99999999\n", 4, -1, -1, none, "none of them isolated"},
	}
	for _, test := range tests {
		root := fstest.MapFS{}
		if test.online != "" {
			root[dir+"online"] = &fstest.MapFile{Data: []byte(test.online)}
			root[dir+"isolated"] = &fstest.MapFile{Data: []byte(test.isolated)}
		}
		p, err := planCores(root, test.n, nil, nil)
		if err != nil || p.Data != test.data || p.Meta != test.meta || p.Raft != test.raft || !strings.Contains(p.Text, test.says) {
			t.Errorf("%s: got %+v, %v", test.name, p, err)
		}
	}
	if p, err := PlanCores(nil); err != nil || p.Text == "" || p.Advice != "" {
		t.Errorf("this machine: %+v, %v", p, err)
	}
}

func TestPin(t *testing.T) {
	if Pin(-1, nil) != nil || Pin(maxCores, nil) != nil {
		t.Error("no core, but something to call")
	}
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	core := -1
	for c := range maxCores {
		if before.IsSet(c) {
			core = c
		}
	}
	got := make(chan unix.CPUSet)
	go func() { // the thread ends with this goroutine, since it stays locked
		runtime.LockOSThread()
		Pin(core, func(err error) { t.Error(err) })()
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Error(err)
		}
		got <- set
	}()
	if set := <-got; set.Count() != 1 || !set.IsSet(core) {
		t.Errorf("%d cores, not only %d", set.Count(), core)
	}
	// A core that the machine does not have is told, not ignored.
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		Pin(maxCores-1, func(err error) { failed <- err })()
		close(failed)
	}()
	if err := <-failed; runtime.NumCPU() < maxCores && err == nil {
		t.Error("a core that is not there was accepted")
	}
}

// TestNamedCores: what the operator has named is used, or refused with a reason.
func TestNamedCores(t *testing.T) {
	const dir = "sys/devices/system/cpu/"
	away := errors.New("not in this control group")
	root := fstest.MapFS{dir + "online": {Data: []byte("0-7\n")}, dir + "isolated": {Data: []byte("5,6\n")}}
	few := fstest.MapFS{dir + "online": {Data: []byte("0-1\n")}}
	tests := []struct {
		list       string
		root       fstest.MapFS
		data, meta int
		raft       RaftCores
		says       string // in the finding or the error
		bad        bool
	}{
		{"2", root, 5, 2, RaftCores{2, 2, -1}, "as raft.cpus says", false},
		{"5", root, 6, 5, RaftCores{5, 5, -1}, "the data's log is written on the isolated core 6", false},
		{"2,3", root, 5, 2, RaftCores{2, 2, 3}, "takes snapshots on 3", false},
		{"1-3", root, 5, 1, RaftCores{1, 2, 3}, "applies on 2", false},
		{" 1-3 , 7", root, 5, 7, RaftCores{1, 2, 3}, "is written on core 7", false},
		{"1", few, -1, 1, RaftCores{1, 1, -1}, "leave raft.cpus empty", false},
		{"8", root, 0, 0, RaftCores{}, "core 8 is not one that the machine has, which are 0,1,2,3,4,5,6,7", true},
		{"0-4", root, 0, 0, RaftCores{}, "5 cores, want at most 4", true},
		{"1,2-3,1", root, 0, 0, RaftCores{}, "core 1 is there twice", true},
		{"4", root, 0, 0, RaftCores{}, "not in this control group", true},
		{"x", root, 0, 0, RaftCores{}, `"x" is no core`, true},
		{"3-2", root, 0, 0, RaftCores{}, `"3-2" is no core`, true},
		{"-1", root, 0, 0, RaftCores{}, `"-1" is no core`, true},
		{"1-", root, 0, 0, RaftCores{}, `"1-" is no core`, true},
		{"0-99999", root, 0, 0, RaftCores{}, `"0-99999" is no core`, true},
	}
	for _, test := range tests {
		p, err := planCores(test.root, 2, strings.Split(test.list, ","), func(core int) error {
			if core == 4 {
				return away
			}
			return nil
		})
		switch {
		case test.bad && (!errors.Is(err, ErrCores) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "raft.cpus="+test.list)):
			t.Errorf("%s: got %v, want an error with %q", test.list, err, test.says)
		case test.bad:
		case err != nil || p.Data != test.data || p.Meta != test.meta || p.Raft != test.raft || !strings.Contains(p.Text+p.Advice, test.says):
			t.Errorf("%s: got %+v, %v", test.list, p, err)
		}
	}
	if _, err := PlanCores([]string{"0"}); err != nil && !errors.Is(err, ErrCores) {
		t.Error(err)
	}
	if err := tryCore(maxCores - 1); runtime.NumCPU() < maxCores && err == nil {
		t.Error("a core that is not there may be used")
	}
}
