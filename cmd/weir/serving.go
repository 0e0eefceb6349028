package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weir/console"
	"weir/internal/config"
	"weir/internal/heartbeat"
	"weir/internal/vfs"
	"weir/tuning"
)

const (
	lockName        = ".lock"
	stuckMax        = 4 // file system operations of the start that may hang
	consoleShutdown = 2 * time.Second
	hangGrace       = 5 * time.Second // the end of shutdown.timeout.ms, in which nobody is waited for any more
	lastWordsMax    = time.Second     // to say why the process ends; the log may lie on the disk that failed
)

// node is a running broker, as far as this package needs it.
type node interface {
	console.Node
	KafkaAddr() net.Addr
	// Done yields the error with which the node ended by itself.
	Done() <-chan error
	Shutdown(ctx context.Context) error
}

// nodeOptions are what a broker is started with.
type nodeOptions struct {
	cfg *config.Broker
	log *slog.Logger
	reg prometheus.Registerer
	// busy is to be called whenever the node has something to do; it costs next to nothing.
	busy func()
	// cores says where the threads of the write-ahead logs run.
	cores tuning.CorePlan
}

// startFunc starts a broker; when it returns, clients are served. An error of *coded type decides the exit code.
type startFunc func(ctx context.Context, o nodeOptions) (node, error)

// serving is one run of weir serve.
type serving struct {
	cfg     *config.Broker
	io      stdio
	start   startFunc
	signals <-chan os.Signal
	exit    func(code int) // os.Exit; for the second signal and a disk that holds threads

	log     *slog.Logger
	lines   *logWriter // of log
	fs      vfs.FS
	started time.Time
	node    atomic.Pointer[node] // nil until it serves
	web     *consoleServer
}

// notifySignals catches the signals that end the process, until stop is called.
func notifySignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}

// run serves until a signal or a failure.
func (s *serving) run(ctx context.Context) (err error) {
	s.started = time.Now()
	s.lines = newLogWriter(s.io.err)
	defer s.lines.Close(lastWordsMax)
	s.log = newLogger(s.lines, s.cfg)
	s.lines.onDrop = func(n int64) { s.log.Warn("lines of the log were dropped: nobody took them", "lines", n) }
	s.fs = vfs.Bounded(vfs.OS{}, config.Millis(s.cfg.LogDirStallMs), stuckMax)
	s.log.Info("starting", "version", versionText(), "node", s.cfg.NodeID, "configured", s.cfg.Set())
	cores, err := tuning.PlanCores(s.cfg.RaftCPUs)
	if err != nil {
		return err
	}
	findings := append(tuning.Limits(), cores.Finding)
	memory := memoryPlan(s.cfg)
	memory.Apply()
	tuning.Log(s.log, append(findings, memory.Findings...))

	lock, err := lockDataDir(s.fs, s.cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()

	reg := newRegistry()
	beat := heartbeat.Start(heartbeat.Options{Logger: s.log, Registry: reg, Busy: s.doesIO})
	defer beat.Stop()
	beat.Touch()
	if s.web, err = s.startConsole(reg); err != nil {
		return err
	}
	defer s.web.stop(s.log)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	interrupted := s.watchSignals(cancel, ended)
	engineName, engineWhy := engineInUse(s.cfg)
	tuning.Log(s.log, tuning.Disk(ctx, tuning.DiskOptions{
		FS: s.fs, Dir: s.cfg.DataDir, Timeout: config.Millis(s.cfg.LogDirStallMs),
		Engine: func() (string, string) { return engineName, engineWhy },
	}))
	n, err := s.start(ctx, nodeOptions{cfg: s.cfg, log: s.log, reg: reg, busy: beat.Touch, cores: cores})
	if err != nil {
		if ctx.Err() != nil {
			s.log.Info("stopped while starting")
			return nil
		}
		return err
	}
	s.node.Store(&n)
	if err := s.announce(n, s.web, engineName); err != nil {
		return errors.Join(err, s.shutdown(n))
	}
	select {
	case <-interrupted:
		return s.shutdown(n)
	case err := <-n.Done():
		return s.ended(n, err)
	}
}

// watchSignals ends the start at the first signal and the process at the second, until ended is closed. The channel that it
// returns is closed at the first.
func (s *serving) watchSignals(cancel context.CancelFunc, ended <-chan struct{}) <-chan struct{} {
	interrupted := make(chan struct{})
	go func() {
		select {
		case first := <-s.signals:
			s.log.Info("stopping", "signal", first.String())
		case <-ended:
			return
		}
		close(interrupted)
		cancel()
		select {
		case second := <-s.signals:
			s.log.Warn("stopped at once: second signal", "signal", second.String())
			s.lines.Flush(lastWordsMax)
			s.exit(exitError)
		case <-ended:
		}
	}()
	return interrupted
}

// announce prints the line that says that clients are served.
func (s *serving) announce(n node, web *consoleServer, engine string) error {
	fields := []string{
		"ready", "kafka=" + n.KafkaAddr().String(), "http=" + web.addr(), "io=" + engine,
		"data=" + quoteIfNeeded(s.cfg.DataDir), fmt.Sprintf("in=%dms", time.Since(s.started).Milliseconds()),
	}
	if _, err := fmt.Fprintln(s.io.out, strings.Join(fields, " ")); err != nil {
		return fmt.Errorf("say ready on stdout: %w", err)
	}
	return nil
}

func quoteIfNeeded(s string) string {
	if strings.ContainsAny(s, " \"\n\t") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// shutdown stops the broker in order, within shutdown.timeout.ms: the last part of that is for what has to happen when clients and
// writes behind were waited for in vain. A broker that is not done by then is held by the disk.
func (s *serving) shutdown(n node) error {
	limit := config.Millis(s.cfg.ShutdownTimeoutMs)
	ctx, cancel := context.WithTimeout(context.Background(), limit-min(limit/4, hangGrace))
	defer cancel()
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- n.Shutdown(ctx) }()
	hung := time.NewTimer(limit)
	defer hung.Stop()
	var err error
	select {
	case err = <-done:
	case <-hung.C:
		// Something is held by the disk and will not come back. The lock goes with the process.
		err = &coded{code: exitDisk, err: fmt.Errorf("shutdown hangs, %s after it began: the disk does not answer", limit)}
		s.endNow(err)
		return err
	}
	took := time.Since(start).Round(time.Millisecond)
	switch failed := diskError(err); {
	case isDiskError(failed):
		s.log.Error("stopped with a failed disk", "took", took, "error", err)
		return failed
	case errors.Is(err, context.DeadlineExceeded):
		s.log.Warn("stopped before everything was done; acknowledged records are safe", "took", took, "error", err)
		return nil
	case err != nil:
		s.log.Error("stopped with an error", "took", took, "error", err)
		return err
	}
	s.log.Info("stopped", "took", took)
	return nil
}

// ended handles a broker that gave up by itself.
func (s *serving) ended(n node, err error) error {
	err = diskError(err)
	if isDiskError(err) {
		// A failed disk may hold threads for ever, so nothing is stopped in order; connections have been reset.
		s.endNow(err)
		return err
	}
	return errors.Join(err, s.shutdown(n))
}

// endNow ends the process because of a failed disk. A thread that the disk holds keeps what is left of the process in the system, and with it
// every socket that is still open: so the last listener is closed first.
func (s *serving) endNow(err error) {
	s.web.close()
	said := make(chan struct{})
	go func() {
		defer close(said)
		s.lines.Flush(lastWordsMax)
		fmt.Fprintln(s.io.err, "weir:", err)
	}()
	limit := time.NewTimer(lastWordsMax)
	defer limit.Stop()
	select {
	case <-said:
	case <-limit.C:
	}
	s.exit(exitDisk)
}

// doesIO reports whether the node has work that no request tells of: it starts, or the disk has something in flight.
func (s *serving) doesIO() bool {
	n := s.node.Load()
	return n == nil || (*n).Health().OldestIO > 0
}

// lockDataDir makes the data directory and takes the lock that keeps a second process out.
func lockDataDir(fsys vfs.FS, dir string) (io.Closer, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, diskError(fmt.Errorf("data directory: %w", err))
	}
	lock, err := fsys.Lock(filepath.Join(dir, lockName))
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return nil, fmt.Errorf("data directory %s is in use by another process (it holds %s); stop that one, or give this one another --data-dir",
			dir, filepath.Join(dir, lockName))
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("data directory %s cannot be written to: %w", dir, err)
	case err != nil:
		return nil, diskError(fmt.Errorf("data directory: %w", err))
	}
	return lock, nil
}

func newLogger(w io.Writer, cfg *config.Broker) *slog.Logger {
	var level slog.Level
	// The value was validated; slog knows the four words.
	_ = level.UnmarshalText([]byte(cfg.LogLevel))
	o := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// newRegistry has the process's own metrics, with the runtime's scheduling and pause histograms, which cost nothing to keep.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsScheduler, collectors.MetricsGC)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_build_info", Help: "1, with the version as a label.",
			ConstLabels: prometheus.Labels{"version": versionText(), "go": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	return reg
}

// busyConnections is how many connections are assumed to use their whole budget together where requests have no bound over all
// connections; for the memory plan only.
const busyConnections = 8

// requestBudget bounds the memory of requests.
func requestBudget(cfg *config.Broker) tuning.Budget {
	if cfg.QueuedMaxRequestBytes > 0 {
		return tuning.Budget{Name: "queued.max.request.bytes", Bytes: cfg.QueuedMaxRequestBytes}
	}
	return tuning.Budget{Name: "connection.inflight.bytes.max", Bytes: busyConnections * cfg.ConnectionInflightBytesMax}
}

func memoryPlan(cfg *config.Broker) tuning.MemoryPlan {
	_, gcGiven := cfg.Set()["gc.percent"]
	return tuning.PlanMemory(tuning.MemoryOptions{
		Budgets: []tuning.Budget{
			{Name: "log.tail.max.bytes", Bytes: cfg.LogTailMaxBytes},
			requestBudget(cfg),
			{Name: "fetch.memory.max.bytes", Bytes: cfg.FetchMemoryMaxBytes},
			{Name: "log.cleaner.dedupe.buffer.size", Bytes: cfg.LogCleanerDedupeBufferSize},
		},
		Limit: cfg.MemoryLimitBytes, GCPercent: cfg.GCPercent, FromConfig: gcGiven,
		Machine: tuning.MachineMemory(), LookupEnv: os.LookupEnv,
	})
}
