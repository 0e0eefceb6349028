// Command bench measures Weir against the limits of the machine and against Apache Kafka.
//
//	bench run     Weir alone
//	bench limits  disk, network and the null broker: what no durable broker can pass
//	bench peers   Weir, the null broker and Apache Kafka (defaults, and flushing every message), in turn
//	bench cluster three nodes with every partition on all of them: Weir and Apache Kafka, and one node of Weir
//	bench compaction  compaction of a large topic: time, memory, and what producers notice
//	bench report  the tables of BENCHMARKS.md from result files
//
// Servers are processes of their own and listen on loopback only; the load generator is this process. Results are printed and
// kept in bench/results. BENCHMARKS.md says how to read them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weir/bench/limits"
	"weir/bench/result"
	"weir/bench/server"
)

const usage = `usage: bench run|limits|peers|cluster [flags]
       bench compaction [flags]
       bench report [-o BENCHMARKS.md] results.json...
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := dispatch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
	}
	switch args[0] {
	case "run", "limits", "peers", "cluster":
		return measureCommand(ctx, args[0], args[1:])
	case "compaction":
		return compactionCommand(ctx, args[1:])
	case "report":
		return reportCommand(args[1:])
	default:
		return fmt.Errorf("unknown command %q\n%s", args[0], usage)
	}
}

// options are the flags of the measuring commands.
type options struct {
	duration, warmup time.Duration
	rounds           int
	workloads        string
	servers          string
	places
	profileDir string
	coldMiB    int
	weirBin    string
	against    string // another weir binary
	quick      bool
}

// places are the directories of a run.
type places struct {
	dir, out string // to measure, and for results
	root     string // of the repository
}

// find fills in what was not given and makes the directories.
func (p *places) find() (err error) {
	if p.root, err = findRoot(); err != nil {
		return err
	}
	if p.dir == "" {
		p.dir = filepath.Join(p.root, ".bench")
	}
	if p.out == "" {
		p.out = filepath.Join(p.root, "bench", "results")
	}
	return errors.Join(os.MkdirAll(p.dir, 0o755), os.MkdirAll(p.out, 0o755))
}

func parseOptions(command string, args []string) (options, error) {
	o := options{}
	rounds, warmup, duration := 3, 2*time.Second, 10*time.Second
	if command == "peers" || command == "cluster" {
		rounds, warmup = 5, 5*time.Second // a JVM needs time to compile what it runs
	}
	if command == "cluster" {
		warmup, duration = 8*time.Second, 6*time.Second // three JVMs at once, and many runs
	}
	flags := flag.NewFlagSet("bench "+command, flag.ContinueOnError)
	flags.DurationVar(&o.duration, "duration", duration, "measured `time` per run")
	flags.DurationVar(&o.warmup, "warmup", warmup, "`time` before it that does not count")
	flags.IntVar(&o.rounds, "rounds", rounds, "`times` every workload runs on every server, interleaved")
	flags.StringVar(&o.workloads, "workloads", "", "comma-separated `names`; empty: the usual ones; all: every one")
	flags.StringVar(&o.servers, "servers", "", "comma-separated `names` out of the command's servers; empty: all of them")
	flags.StringVar(&o.dir, "dir", "", "`directory` on the disk to measure; empty: the repository's .bench")
	flags.StringVar(&o.out, "out", "", "`directory` for results; empty: bench/results")
	flags.StringVar(&o.profileDir, "cpuprofile", "", "`directory` for the broker's CPU profiles, one per run; empty: none")
	flags.IntVar(&o.coldMiB, "cold", 1024, "`MiB` that a cold read reads")
	flags.StringVar(&o.weirBin, "weir", "", "weir `binary`; empty: built from the tree")
	if command == "cluster" {
		flags.StringVar(&o.workloads, "only", "", "the same as -workloads")
		flags.StringVar(&o.against, "against", "", "another weir `binary`, measured in turn as weir-3-before")
		flags.BoolVar(&o.quick, "quick", false, "one short round of few workloads, four minutes: shows that it works, not how fast")
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		o.quicken(flags)
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.duration < time.Second || o.warmup <= 0 || o.rounds < 1 || o.coldMiB < 1:
		return o, fmt.Errorf("-duration of at least 1s, positive -warmup, -rounds and -cold wanted; got %v, %v, %d, %d",
			o.duration, o.warmup, o.rounds, o.coldMiB)
	}
	return o, o.find()
}

// findRoot is the nearest directory upwards with a go.mod.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if parent := filepath.Dir(dir); parent != dir {
			dir = parent
			continue
		}
		return "", fmt.Errorf("no go.mod in any directory above: run bench from the repository")
	}
}

func measureCommand(ctx context.Context, command string, args []string) error {
	o, err := parseOptions(command, args)
	if err != nil {
		return err
	}
	workloads := oneNode
	if command == "cluster" {
		workloads = threeNodes
	}
	list, err := workloads.pick(o.workloads)
	if err != nil {
		return err
	}
	bins, err := os.MkdirTemp("", "weir-bench-bin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bins)
	file := &result.File{
		Version: result.Version, Date: time.Now().UTC(), Commit: result.Commit(o.root), Command: append([]string{"bench", command}, args...),
		Machine:  result.DescribeMachine(o.dir, server.BlockDevice(o.dir)),
		Settings: result.Settings{DurationSeconds: o.duration.Seconds(), WarmupSeconds: o.warmup.Seconds(), Rounds: o.rounds, Quick: o.quick},
		Missing:  map[string]string{},
	}
	var specs []server.Spec
	if command == "cluster" {
		file.Base = "weir-3"
		specs, err = clusterServers(o, bins, file)
	} else {
		specs, err = servers(o, command, bins, file)
	}
	if err != nil {
		return err
	}
	if command != "run" && command != "cluster" {
		fmt.Fprintln(os.Stderr, "measuring the machine's limits")
		if file.Limits, err = limits.Measure(ctx, o.dir, min(o.duration, 5*time.Second)); err != nil {
			return err
		}
	}
	r := &runner{opts: o, progress: newProgress(), file: file, maxRate: map[string]float64{}, verify: command == "cluster"}
	r.base, _ = workloads.find(workloads.base)
	runErr := r.runAll(ctx, specs, list)
	if len(file.Runs) == 0 {
		return runErr
	}
	// What was measured until something failed is kept and shown.
	if err := report(os.Stdout, file); err != nil {
		return err
	}
	path, err := file.Write(o.out)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "results:", path)
	return runErr
}

// serverList collects those servers that are asked for.
type serverList struct {
	wanted string // comma-separated names; empty: all
	file   *result.File
	specs  []server.Spec
}

func (l *serverList) wants(name string) bool {
	return l.wanted == "" || strings.Contains(","+l.wanted+",", ","+name+",")
}

// add takes a server under the name that it has in the tables.
func (l *serverList) add(name string, spec server.Spec, version string) {
	if spec.Name = name; l.wants(name) {
		l.specs = append(l.specs, spec)
		l.file.Servers = append(l.file.Servers, result.Server{Name: name, Version: version, Note: spec.Note})
	}
}

func (l *serverList) found(command string) ([]server.Spec, error) {
	if len(l.specs) == 0 {
		return nil, fmt.Errorf("no server to measure: -servers=%q names none that %q has", l.wanted, command)
	}
	return l.specs, nil
}

// servers builds or fetches what a command measures and notes what is missing.
func servers(o options, command, bins string, file *result.File) ([]server.Spec, error) {
	l := serverList{wanted: o.servers, file: file}
	if command != "limits" && l.wants("weir") {
		bin := o.weirBin
		if bin == "" {
			var err error
			if bin, err = server.Build(o.root, "./cmd/weir", bins); err != nil {
				return nil, err
			}
		}
		l.add("weir", server.Weir(bin), file.Commit)
	}
	if command != "run" && l.wants("null") {
		bin, err := server.Build(o.root, "./bench/nullbroker", bins)
		if err != nil {
			return nil, err
		}
		l.add("null", server.Null(bin), "")
	}
	if command == "peers" && (l.wants("kafka") || l.wants("kafka-flush")) {
		lib, version, err := server.KafkaJars(filepath.Join(o.root, "bench", "peers", "kafka"))
		if err != nil {
			file.Missing["kafka"] = err.Error()
			fmt.Fprintln(os.Stderr, "without Apache Kafka:", err)
		} else {
			l.add("kafka", server.Kafka(lib, false), "Apache Kafka "+version)
			l.add("kafka-flush", server.Kafka(lib, true), "Apache Kafka "+version)
		}
	}
	return l.found(command)
}
