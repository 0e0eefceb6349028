package server

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHz is the unit of the times in /proc/<pid>/stat: 100 per second for user space, on every architecture Go runs on.
const userHz = 100

// Sample is what a server has used since it started.
type Sample struct {
	At           time.Time
	CPU          time.Duration // user and system, of the server's process alone
	PeakRSS      int64         // bytes, VmHWM
	Switches     int64         // context switches of all threads that the process has now
	WriteBytes   int64         // of the process, as the block layer counts
	DeviceWrites int64         // of the whole device the data lies on, requests
	DeviceBytes  int64         // of the whole device
	DeviceFlush  int64         // cache flushes of the whole device; each fsync costs one or two
	Metrics      map[string]float64
}

// Sample reads the counters.
func (i *Instance) Sample() (Sample, error) {
	s := Sample{At: time.Now(), Metrics: map[string]float64{}}
	proc := "/proc/" + strconv.Itoa(i.Pid())
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return s, fmt.Errorf("sample %s: %w; its output:\n%s", i.Spec.Name, err, i.Output())
	}
	if s.CPU, err = parseCPU(string(stat)); err != nil {
		return s, fmt.Errorf("sample %s: %w", i.Spec.Name, err)
	}
	status, err := colonFields(proc + "/status")
	if err != nil {
		return s, fmt.Errorf("sample %s: %w", i.Spec.Name, err)
	}
	s.PeakRSS = status["VmHWM"] << 10
	s.Switches = switches(proc)
	if io, err := colonFields(proc + "/io"); err == nil { // needs privileges in some containers
		s.WriteBytes = io["write_bytes"]
	}
	s.DeviceWrites, s.DeviceBytes, s.DeviceFlush = deviceCounters(i.Dir)
	if i.HTTP != "" {
		if s.Metrics, err = scrape("http://" + i.HTTP + "/metrics"); err != nil {
			return s, fmt.Errorf("sample %s: %w", i.Spec.Name, err)
		}
	}
	return s, nil
}

// switches sums up the threads' context switches. A thread that ends meanwhile takes its own along.
func switches(proc string) (sum int64) {
	tasks, _ := filepath.Glob(proc + "/task/*/status") // the pattern is well-formed
	for _, task := range tasks {
		status, err := colonFields(task)
		if err != nil {
			continue
		}
		sum += status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]
	}
	return sum
}

// SelfCPU is the CPU time of this process: the load generator's.
func SelfCPU() time.Duration {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	cpu, _ := parseCPU(string(stat)) // the kernel's own format
	return cpu
}

func parseCPU(stat string) (time.Duration, error) {
	// The command may hold blanks; the fields are counted from the parenthesis that ends it.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc stat has %d fields after the command, at least 13 expected", len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("user time: %w", err)
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("system time: %w", err)
	}
	return time.Duration(user+system) * time.Second / userHz, nil
}

// colonFields reads the numbers of a file of "name: number unit" lines.
func colonFields(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]int64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if parts := strings.Fields(rest); len(parts) > 0 {
			if n, err := strconv.ParseInt(parts[0], 10, 64); err == nil {
				out[name] = n
			}
		}
	}
	return out, lines.Err()
}

// deviceCounters reads the counters of the device a directory lies on, zeroes where it has none (tmpfs, overlay).
func deviceCounters(dir string) (writes, written, flushes int64) {
	device := BlockDevice(dir)
	if device == "" {
		return 0, 0, 0
	}
	text, err := os.ReadFile(device + "/stat")
	if err != nil {
		return 0, 0, 0
	}
	fields := strings.Fields(string(text))
	field := func(n int) int64 {
		if n >= len(fields) {
			return 0
		}
		v, _ := strconv.ParseInt(fields[n], 10, 64) // the kernel's own format
		return v
	}
	return field(4), field(6) * 512, field(15)
}

// BlockDevice is the directory in /sys of the whole disk that a directory lies on, "" where there is none.
func BlockDevice(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	path, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(path + "/partition"); err == nil {
		return filepath.Dir(path) // a partition does not count flushes
	}
	return path
}

func scrape(url string) (map[string]float64, error) {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
				out[line[:i]] = v
			}
		}
	}
	return out, nil
}

// SaveProfile records the server's CPU for a time and writes the profile to a file. It returns when that is done.
func (i *Instance) SaveProfile(file string, d time.Duration) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", i.HTTP, max(1, int(d.Seconds())))
	client := http.Client{Timeout: d + 30*time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return fmt.Errorf("CPU profile: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CPU profile: %s: %s", url, resp.Status)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("CPU profile: %w", err)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("CPU profile: %w", err)
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		_ = f.Close()
		return fmt.Errorf("CPU profile %s: %w", file, err)
	}
	return f.Close()
}

func fadviseDontNeed(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
