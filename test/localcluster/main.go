// Command localcluster runs several brokers on this machine, one process each on 127.0.0.1, 127.0.0.2 and so on, shows what they
// log, and stops them with Ctrl-C. It is what `make cluster` runs; nothing depends on it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const stopLimit = 45 * time.Second // more than shutdown.timeout.ms

// layout says where the nodes are.
type layout struct {
	bin, dir          string
	nodes             int
	kafka, peer, http int
	more              []string // put behind each node's command line
}

func main() {
	var l layout
	flag.StringVar(&l.bin, "bin", "./bin/weir", "the broker")
	flag.StringVar(&l.dir, "dir", "./data/cluster", "directory; node N keeps its data in DIR/N")
	flag.IntVar(&l.nodes, "nodes", 3, "how many nodes")
	flag.IntVar(&l.kafka, "kafka-port", 9092, "port for clients")
	flag.IntVar(&l.peer, "peer-port", 9192, "port for the other nodes")
	flag.IntVar(&l.http, "http-port", 9644, "port for metrics, health and console")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: localcluster [flags] [-- flags for each weir serve]")
		flag.PrintDefaults()
	}
	flag.Parse()
	l.more = flag.Args()
	if l.nodes < 1 || l.nodes > 9 {
		fmt.Fprintf(os.Stderr, "localcluster: -nodes %d: expected 1 to 9\n", l.nodes)
		os.Exit(1)
	}
	// A child's parent-death signal comes when the thread that started it ends, so all are started from this one, which stays.
	runtime.LockOSThread()
	if err := run(l, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "localcluster:", err)
		os.Exit(1)
	}
}

func host(id int) string                    { return "127.0.0." + strconv.Itoa(id) }
func (l layout) addr(id int, p int) string  { return host(id) + ":" + strconv.Itoa(p) }
func (l layout) dataDir(id int) string      { return filepath.Join(l.dir, strconv.Itoa(id)) }
func (l layout) all(port int) (list string) { return strings.Join(l.each(port), ",") }

func (l layout) each(port int) []string {
	var addrs []string
	for id := 1; id <= l.nodes; id++ {
		addrs = append(addrs, l.addr(id, port))
	}
	return addrs
}

// command is a node's command line.
func (l layout) command(id int) []string {
	argv := []string{
		l.bin, "serve", "--node-id", strconv.Itoa(id), "--data-dir", l.dataDir(id),
		"--kafka-addr", l.addr(id, l.kafka), "--http-addr", l.addr(id, l.http),
	}
	if l.nodes > 1 {
		var seeds []string
		for i, addr := range l.each(l.peer) {
			seeds = append(seeds, fmt.Sprintf("%d@%s", i+1, addr))
		}
		argv = append(argv, "--peer-addr", l.addr(id, l.peer), "--seed-nodes", strings.Join(seeds, ","))
	}
	return append(argv, l.more...)
}

// event is something that a node did.
type event struct {
	id    int
	ready bool
	err   error // how its process ended, where it was not ready
}

// run starts the nodes and returns when all have ended.
func run(l layout, out io.Writer) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	p := newPrinter(out)
	events := make(chan event, 2*l.nodes)
	c := &running{layout: l, print: p, alive: map[int]*exec.Cmd{}}
	for id := 1; id <= l.nodes; id++ {
		if err := c.start(id, events); err != nil {
			c.signal(syscall.SIGKILL)
			return err
		}
	}
	return c.watch(events, signals)
}

// running are the nodes' processes.
type running struct {
	layout
	print    *printer
	alive    map[int]*exec.Cmd
	ready    int
	stopping bool
	failed   error
}

func (c *running) start(id int, events chan<- event) error {
	if err := os.MkdirAll(c.dataDir(id), 0o755); err != nil {
		return err
	}
	argv := c.command(id)
	cmd := exec.Command(argv[0], argv[1:]...)
	prefix := fmt.Sprintf("%d | ", id)
	cmd.Stdout = c.print.lines(prefix, func(line string) {
		if strings.HasPrefix(line, "ready ") {
			events <- event{id: id, ready: true}
		}
	})
	cmd.Stderr = c.print.lines(prefix, nil)
	// In a process group of its own: Ctrl-C in a terminal reaches only this process, which stops the nodes in order. If this process is
	// killed, the nodes stop, too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node %d: %w", id, err)
	}
	c.alive[id] = cmd
	c.print.say("node %d: pid %d", id, cmd.Process.Pid)
	go func() { events <- event{id: id, err: cmd.Wait()} }()
	return nil
}

// watch follows the nodes until all have ended.
func (c *running) watch(events <-chan event, signals <-chan os.Signal) error {
	var hung <-chan time.Time
	for len(c.alive) > 0 {
		select {
		case e := <-events:
			c.happened(e)
		case <-signals:
			if c.stopping {
				c.print.say("killing what still runs")
				c.signal(syscall.SIGKILL)
				continue
			}
			c.print.say("stopping; once more: kill")
			c.stop()
		case <-hung:
			c.failed = errors.Join(c.failed, fmt.Errorf("a node still ran %s after it was told to stop, and was killed", stopLimit))
			c.signal(syscall.SIGKILL)
		}
		if c.stopping && hung == nil {
			hung = time.After(stopLimit)
		}
	}
	if c.failed == nil {
		c.print.say("all nodes have stopped")
	}
	return c.failed
}

func (c *running) happened(e event) {
	if e.ready {
		if c.ready++; c.ready == c.nodes {
			c.print.text(c.howTo())
		}
		return
	}
	delete(c.alive, e.id)
	switch {
	case c.stopping && e.err == nil:
	case c.ready < c.nodes && !c.stopping:
		c.failed = fmt.Errorf("node %d could not start: %s", e.id, ended(e.err))
		c.stop()
	default:
		c.print.say("NODE %d IS DEAD: %s. Start it again with:\n  %s", e.id, ended(e.err), strings.Join(c.command(e.id), " "))
		if c.stopping || len(c.alive) == 0 {
			c.failed = errors.Join(c.failed, fmt.Errorf("node %d: %s", e.id, ended(e.err)))
		}
	}
}

func ended(err error) string {
	if err == nil {
		return "it ended with exit status 0"
	}
	return err.Error()
}

func (c *running) stop() {
	c.stopping = true
	c.signal(syscall.SIGTERM)
}

func (c *running) signal(s syscall.Signal) {
	for _, cmd := range c.alive {
		_ = cmd.Process.Signal(s) // fails only where it has ended already
	}
}

// howTo says how to reach the cluster.
func (c *running) howTo() string {
	brokers := c.all(c.kafka)
	var w strings.Builder
	fmt.Fprintf(&w, "\nThe cluster is ready: %d nodes, data in %s. Ctrl-C stops it.\n\n", c.nodes, c.dir)
	fmt.Fprintf(&w, "  kcat       kcat -b %s -L\n", brokers)
	fmt.Fprintf(&w, "             echo hello | kcat -P -b %s -t orders -X acks=all\n", brokers)
	fmt.Fprintf(&w, "  Go         kgo.NewClient(kgo.SeedBrokers(%s))\n", `"`+strings.Join(c.each(c.kafka), `", "`)+`"`)
	fmt.Fprintf(&w, "  weir       %s topic create orders -p 3 -r %d --brokers %s\n", c.bin, min(3, c.nodes), brokers)
	fmt.Fprintf(&w, "             %s cluster status --brokers %s\n", c.bin, brokers)
	for id := 1; id <= c.nodes; id++ {
		label := ""
		if id == 1 {
			label = "consoles"
		}
		fmt.Fprintf(&w, "  %-10s http://%s/\n", label, c.addr(id, c.http))
	}
	w.WriteString("\n")
	return w.String()
}
