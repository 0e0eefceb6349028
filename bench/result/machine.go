package result

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DescribeMachine says what this machine is, and the disk that dir lies on (device is its directory in /sys, "" for none).
func DescribeMachine(dir, device string) Machine {
	m := Machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), MemoryBytes: memory(), Kernel: kernel(), Go: runtime.Version(),
		Device: "none", WriteCache: "unknown", FileSystem: fileSystem(dir),
	}
	if device != "" {
		m.Device = filepath.Base(device)
		if text, err := os.ReadFile(device + "/queue/write_cache"); err == nil {
			m.WriteCache = strings.TrimSpace(string(text))
		}
	}
	return m
}

// Commit is the tree's commit, with "-dirty" where files differ from it, "none" without git.
func Commit(root string) string {
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir = root
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("rev-parse", "--short=10", "HEAD")
	if err != nil {
		return "none"
	}
	// Results written before are no change to what is measured.
	if changes, err := git("status", "--porcelain", "--", ".", ":!bench/results", ":!BENCHMARKS.md"); err != nil || changes != "" {
		commit += "-dirty"
	}
	return commit
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text)) // MemTotal: n kB
	if len(fields) < 2 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[1], 10, 64) // the kernel's own format
	return kib << 10
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
}

// fileSystem finds the mount that holds dir: the longest mount point that is a prefix of it.
func fileSystem(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "unknown"
	}
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "unknown"
	}
	best, found := "", "unknown"
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || len(fields[1]) < len(best) {
			continue
		}
		if point := strings.TrimSuffix(fields[1], "/"); dir == point || strings.HasPrefix(dir, point+"/") {
			best, found = fields[1], fields[2]+" ("+fields[3]+")"
		}
	}
	return found
}
