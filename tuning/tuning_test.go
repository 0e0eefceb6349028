package tuning

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"weir/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func env(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
}

func TestPlanMemory(t *testing.T) {
	budgets := []Budget{{"log.tail.max.bytes", 256 << 20}, {"connection.inflight.bytes.max", 128 << 20}}
	const fromBudgets = 96<<20 + baseBytes // a quarter on top
	tests := []struct {
		name   string
		o      MemoryOptions
		limit  int64
		gc     int
		advice bool
	}{
		{"from budgets", MemoryOptions{Machine: 16 << 30}, fromBudgets, 100, false},
		{"machine unknown", MemoryOptions{}, fromBudgets, 100, false},
		{"capped by the machine", MemoryOptions{Machine: 500 << 20}, (500 << 20) / 100 * machineShare / 2, 100, false},
		{"budgets off the total", MemoryOptions{Machine: 3 << 29}, (3<<29)/100*machineShare - 384<<20, 100, false},
		{"machine too small", MemoryOptions{Machine: 256 << 20}, (256 << 20) / 100 * machineShare / 2, 100, true},
		{"configured", MemoryOptions{Limit: 1 << 30, Machine: 16 << 30}, 1<<30 - 384<<20, 100, false},
		{"configured over variable", MemoryOptions{Limit: 1 << 30, LookupEnv: env(map[string]string{"GOMEMLIMIT": "2GiB"})}, 1<<30 - 384<<20, 100, false},
		{"variable", MemoryOptions{LookupEnv: env(map[string]string{"GOMEMLIMIT": "2GiB", "GOGC": "50"})}, 0, 0, false},
		{"gc configured over variable", MemoryOptions{FromConfig: true, LookupEnv: env(map[string]string{"GOGC": "50"})}, fromBudgets, 100, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.o.Budgets, test.o.GCPercent = budgets, 100
			if test.o.LookupEnv == nil {
				test.o.LookupEnv = env(nil)
			}
			p := PlanMemory(test.o)
			if p.Limit != test.limit || p.GCPercent != test.gc {
				t.Errorf("got limit %d, gc %d; want %d, %d", p.Limit, p.GCPercent, test.limit, test.gc)
			}
			if got := p.Findings[0].Advice != ""; got != test.advice {
				t.Errorf("advice %q", p.Findings[0].Advice)
			}
		})
	}
}

func TestMachineMemory(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	tests := []struct {
		name string
		root fstest.MapFS
		want uint64
	}{
		{"nothing known", fstest.MapFS{}, 0},
		{"no group", fstest.MapFS{"proc/meminfo": file("MemTotal:  1024 kB\nMemFree: 1 kB\n")}, 1 << 20},
		{"nested group, limit on the parent", fstest.MapFS{
			"proc/meminfo": file("MemTotal: 1024 kB\n"), "proc/self/cgroup": file("0::/a/b\n"),
			"sys/fs/cgroup/a/memory.max": file("4096\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n"),
		}, 4096},
		{"limit above the machine", fstest.MapFS{
			"proc/meminfo": file("MemTotal: 1024 kB\n"), "proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("9999999999\n"),
		}, 1 << 20},
	}
	for _, test := range tests {
		if got := machineMemory(test.root); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestDiskOnTheRealKernel(t *testing.T) {
	dir := t.TempDir()
	fs := vfs.OS{}
	findings := Disk(context.Background(), DiskOptions{
		FS: fs, Dir: dir, Timeout: time.Minute, Engine: func() (string, string) { return "io_uring", "test" },
	})
	if len(findings) != 5 {
		t.Fatalf("got %+v", findings)
	}
	for _, f := range findings {
		if f.Text == "" || strings.HasPrefix(f.Text, "unknown") {
			t.Errorf("%+v", f)
		}
	}
	if left, err := fs.List(dir); err != nil || len(left) != 0 {
		t.Errorf("the probe left %v behind (%v)", left, err)
	}
}

func TestAdvice(t *testing.T) {
	for name, wantAdvice := range map[string]bool{"ext4": false, "xfs": false, "tmpfs": true, "nfs": true, "btrfs": true, "overlayfs": true} {
		f := fileSystem(DiskOptions{FSType: func(string) (string, error) { return name, nil }})
		if (f.Advice != "") != wantAdvice {
			t.Errorf("%s: advice %q", name, f.Advice)
		}
	}
	if f := engine(DiskOptions{Engine: func() (string, string) { return "portable", "seccomp" }}); f.Advice == "" || !strings.Contains(f.Text, "seccomp") {
		t.Errorf("portable engine: %+v", f)
	}
}

func TestFlushLatency(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, v := range n {
			d = append(d, time.Duration(v)*time.Millisecond)
		}
		return d
	}
	for _, test := range []struct {
		took   []time.Duration
		advice bool
		says   string
	}{
		{ms(1, 2, 3), false, "2ms"},
		{ms(1, 1, 40), false, "longest 40ms"}, // one slow write may be chance
		{ms(30, 12, 11), true, "12ms"},
	} {
		if f := flushFinding(test.took); (f.Advice != "") != test.advice || !strings.Contains(f.Text, test.says) {
			t.Errorf("%v: %+v", test.took, f)
		}
	}
}

// stalledFS is a disk that does not answer.
type stalledFS struct {
	vfs.FS
	release chan struct{}
}

func (s stalledFS) OpenFile(string, vfs.Flag) (vfs.File, error) {
	<-s.release
	return nil, vfs.ErrNoDirect
}
func (s stalledFS) Remove(string) error             { return nil }
func (s stalledFS) Space(string) (vfs.Space, error) { return vfs.Space{}, nil }

func TestStalledDiskCostsTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := stalledFS{release: make(chan struct{})}
		start := time.Now()
		findings := Disk(t.Context(), DiskOptions{
			FS: fs, Dir: "/x", Timeout: 2 * time.Second,
			Engine: func() (string, string) { return "io_uring", "" }, FSType: func(string) (string, error) { return "ext4", nil },
		})
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %s", took)
		}
		if len(findings) != 1 || findings[0].Advice == "" {
			t.Errorf("got %+v", findings)
		}
		close(fs.release)
	})
}

func TestLimitsAreReported(t *testing.T) {
	for _, f := range Limits() {
		if !strings.HasPrefix(f.Text, "limit ") {
			t.Errorf("%+v", f)
		}
	}
	if got := limitText(1024, 4096, bytes); got != "limit raised from 1 KiB to 4 KiB" {
		t.Errorf("got %q", got)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 64 << 20: "64 MiB", 1 << 63: "8 EiB"} {
		if got := bytes(n); got != want {
			t.Errorf("bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAdviceIsAWarning(t *testing.T) {
	var out strings.Builder
	Log(slog.New(slog.NewTextHandler(&out, nil)), []Finding{{Subject: "a", Text: "fine"}, {Subject: "b", Text: "bad", Advice: "do"}})
	if s := out.String(); !strings.Contains(s, "level=INFO msg=tuning subject=a") || !strings.Contains(s, "level=WARN msg=tuning subject=b found=bad advice=do") {
		t.Error(s)
	}
}
