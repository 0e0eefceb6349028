package weirproc

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of /proc/<pid>/stat's times; the kernel fixes it at 100 for user space.
const userHz = 100

// Usage is what the process has used so far.
type Usage struct {
	CPU        time.Duration // user and system
	RSS        int64         // bytes resident now
	PeakRSS    int64
	WriteBytes int64 // handed to the block layer, as /proc/<pid>/io counts
	WriteCalls int64 // write system calls; io_uring's are not among them
	Threads    int64
}

// Usage reads the process's numbers from /proc.
func (b *Broker) Usage() Usage {
	b.tb.Helper()
	u, err := usage(b.Pid())
	if err != nil {
		b.tb.Fatalf("usage of the broker: %v", err)
	}
	return u
}

func usage(pid int) (Usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Usage{}, err
	}
	// The command may hold blanks; the fields are counted from the parenthesis that ends it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return Usage{}, fmt.Errorf("%s/stat: times %q and %q", dir, fields[11], fields[12])
	}
	status, err := colonFields(dir + "/status")
	if err != nil {
		return Usage{}, err
	}
	io, err := colonFields(dir + "/io")
	if err != nil {
		return Usage{}, err
	}
	return Usage{
		CPU:        time.Duration(user+system) * time.Second / userHz,
		RSS:        status["VmRSS"] << 10,
		PeakRSS:    status["VmHWM"] << 10,
		Threads:    status["Threads"],
		WriteBytes: io["write_bytes"],
		WriteCalls: io["syscw"],
	}, nil
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

// Metrics scrapes /metrics: series name with labels, as exposed, to value.
func (b *Broker) Metrics() map[string]float64 {
	b.tb.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + b.HTTP + "/metrics")
	if err != nil {
		b.tb.Fatalf("scrape metrics: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		b.tb.Fatalf("scrape metrics: status %s, %v", resp.Status, err)
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
	return out
}

// State is the state of a process's first thread, as /proc tells it: Z once the process has called exit, though a disk may hold it.
func State(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "Z" // it was waited for
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	state, _, _ := strings.Cut(after, " ")
	return state
}
