// Package result holds what a benchmark measured: the file format of bench/results, and the tables made from it.
package result

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Version of the file format.
const Version = 1

// File is one invocation of the benchmark.
type File struct {
	Version  int
	Date     time.Time
	Commit   string // with "-dirty" where the tree had changes
	Command  []string
	Machine  Machine
	Settings Settings
	Servers  []Server
	Base     string            `json:",omitempty"` // the server that ratios are of; empty: weir
	Missing  map[string]string `json:",omitempty"` // server to why it was not measured
	Limits   []Limit           `json:",omitempty"`
	Runs     []Run
	Failures []string `json:",omitempty"` // runs that brought no figures, and why
}

// Machine is where it ran.
type Machine struct {
	CPU         string
	Cores       int
	MemoryBytes int64
	Kernel      string
	Device      string // block device below the data directories
	WriteCache  string // of the device: "write back" means that a sync costs a flush
	FileSystem  string // type and mount options
	Go          string
}

// Settings are what was chosen on the command line.
type Settings struct {
	DurationSeconds float64
	WarmupSeconds   float64
	Rounds          int
	Quick           bool `json:",omitempty"` // the short form
}

// Server is a measured kind of server.
type Server struct{ Name, Version, Note string }

// Limit is a property of the machine that no broker can pass.
type Limit struct {
	Name  string
	Value float64
	Unit  string
	Note  string `json:",omitempty"`
}

// Run is one workload on one server in one round.
type Run struct {
	Server, Workload string
	Round            int
	Seconds          float64
	Consumed         bool // the messages are those consumers received; otherwise those acknowledged
	Messages, Bytes  int64

	MessagesPerSecond float64
	MBPerSecond       float64  // 10^6 bytes of record values, or of record batches where a broker's consumers are measured
	LatencyUs         *Latency `json:",omitempty"`

	ServerCPUSeconds     float64 // of the server's process alone
	ClientCPUSeconds     float64 // of the load generator
	CPUSecondsPerGB      float64
	CPUSecondsPerMillion float64
	PeakRSSBytes         int64

	ServerWriteBytes       int64   // by the server's process, as the block layer counts
	DeviceBytes            int64   // written to the whole device
	DeviceWritesPerSecond  float64 // of the whole device
	DeviceFlushesPerSecond float64
	ContextSwitches        int64 `json:",omitempty"` // of the server's threads

	Acknowledged int64 `json:",omitempty"` // messages, from the beginning of the load to its end
	ReadBack     int64 `json:",omitempty"` // of the topic afterwards, every batch checked

	DurableWritesPerSecond float64            // Weir: groups its log wrote
	Metrics                map[string]float64 `json:",omitempty"` // growth of the server's own counters
	Note                   string             `json:",omitempty"`
}

// Latency are percentiles in microseconds.
type Latency struct{ P50, P90, P99, P999, Max, Mean float64 }

// Write stores the file as <dir>/<date>-<commit>.json and returns its path. A file of the same day and commit gets a number.
func (f *File) Write(dir string) (string, error) {
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return "", fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("write results: %w", err)
	}
	base := f.Date.Format("2006-01-02") + "-" + f.Commit
	for n := 1; ; n++ {
		name := base + ".json"
		if n > 1 {
			name = fmt.Sprintf("%s-%d.json", base, n)
		}
		path := filepath.Join(dir, name)
		out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("write results: %w", err)
		}
		if _, err := out.Write(append(text, '\n')); err != nil {
			_ = out.Close()
			return "", fmt.Errorf("write results: %w", err)
		}
		return path, out.Close()
	}
}

// Read loads a file that Write stored.
func Read(path string) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("read results %s: %w", path, err)
	}
	if f.Version != Version {
		return nil, fmt.Errorf("read results %s: format version %d, only %d is known", path, f.Version, Version)
	}
	return &f, nil
}
