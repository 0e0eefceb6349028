package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weir/bench/load"
	"weir/bench/result"
	"weir/bench/server"
)

const (
	calibration = 3 * time.Second // finds the maximum rate where the base workload was not run
	coldLimit   = 10 * time.Minute
)

// runner runs workloads on servers, one at a time, and collects what they show.
type runner struct {
	opts     options
	progress *progress
	file     *result.File
	base     workload
	maxRate  map[string]float64 // by server: the best rate of the base workload so far
	verify   bool               // read back what was acknowledged
}

// runAll interleaves: each round runs every workload on every server in turn, so that what else the machine does meanwhile
// meets all of them.
func (r *runner) runAll(ctx context.Context, specs []server.Spec, list []workload) error {
	var failures []error
	for round := 1; round <= r.opts.rounds; round++ {
		for _, w := range list {
			for _, spec := range specs {
				if w.consumes && !spec.Stores {
					continue
				}
				r.progress.begin(fmt.Sprintf("round %d/%d  %-12s %s", round, r.opts.rounds, spec.Name, w.name))
				run, err := r.runOne(ctx, spec, w, round)
				if ctx.Err() != nil {
					return errors.Join(append(failures, ctx.Err())...)
				}
				if err != nil { // the others are worth having; the table shows what is missing
					err = fmt.Errorf("%s on %s, round %d: %w", w.name, spec.Name, round, err)
					r.progress.failed(err)
					r.file.Failures = append(r.file.Failures, err.Error())
					failures = append(failures, err)
					continue
				}
				r.progress.end(run)
				r.file.Runs = append(r.file.Runs, *run)
			}
		}
	}
	return errors.Join(failures...)
}

// runOne starts a server in a clean directory, runs a workload on it and ends it.
func (r *runner) runOne(ctx context.Context, spec server.Spec, w workload, round int) (*result.Run, error) {
	dir, err := os.MkdirTemp(r.opts.dir, "weir-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	srv, err := server.StartCluster(ctx, spec, filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	defer srv.Discard()
	target := targetOf(srv, "bench", w.partitions)
	if w.share {
		if target.MaxRate, err = r.maximum(ctx, srv); err != nil {
			return nil, err
		}
	}
	if err := load.CreateTopic(ctx, target); err != nil {
		return nil, err
	}
	note, err := r.prepare(ctx, srv, target, w)
	if err != nil {
		return nil, err
	}
	run, err := r.measure(ctx, srv, target, w, round)
	if err != nil {
		return nil, err
	}
	run.Note = note
	if w.name == r.base.name {
		r.maxRate[spec.Name] = max(r.maxRate[spec.Name], run.MessagesPerSecond)
	}
	return run, nil
}

// targetOf is a topic on all nodes.
func targetOf(srv *server.Cluster, topic string, partitions int32) load.Target {
	t := load.Target{Addrs: srv.Addrs(), Topic: topic, Partitions: partitions, Replicas: len(srv.Nodes)}
	if t.Replicas > 1 {
		t.Configs = map[string]string{"min.insync.replicas": strconv.Itoa(server.MinInSync)}
	}
	return t
}

// maximum is the server's rate under the base workload, found now if it was not before.
func (r *runner) maximum(ctx context.Context, srv *server.Cluster) (float64, error) {
	if rate := r.maxRate[srv.Spec.Name]; rate > 0 {
		return rate, nil
	}
	target := targetOf(srv, "calibration", r.base.partitions)
	if err := load.CreateTopic(ctx, target); err != nil {
		return 0, err
	}
	m := &load.Meter{}
	ctx, cancel := context.WithTimeout(ctx, calibration)
	defer cancel()
	time.AfterFunc(calibration/3, m.Begin)
	err := r.base.load.Run(ctx, target, m)
	m.End()
	o := m.Outcome()
	rate := float64(o.Messages) / o.Elapsed.Seconds()
	if err == nil && o.Messages == 0 {
		err = errors.New("nothing was acknowledged")
	}
	if err != nil {
		return 0, fmt.Errorf("find the maximum rate: %w", err)
	}
	r.maxRate[srv.Spec.Name] = rate
	return rate, nil
}

// prepare lays out the data that a workload reads.
func (r *runner) prepare(ctx context.Context, srv *server.Cluster, t load.Target, w workload) (note string, err error) {
	mib := w.preloadMiB
	if w.cold {
		mib = r.opts.coldMiB
	}
	if mib == 0 {
		return "", nil
	}
	if _, err := load.Preload(ctx, t, int64(mib)<<20); err != nil {
		return "", err
	}
	note = fmt.Sprintf("%d MiB preloaded", mib)
	if w.cold {
		how, err := srv.RestartCold(ctx)
		if err != nil {
			return "", fmt.Errorf("restart cold: %w", err)
		}
		note += ", cold by " + how
	}
	return note, nil
}

// measure runs the load: warm-up, window, end. A cold read has neither warm-up nor a fixed length.
func (r *runner) measure(ctx context.Context, srv *server.Cluster, t load.Target, w workload, round int) (*result.Run, error) {
	warmup, window := r.opts.warmup, r.opts.duration
	if w.cold {
		warmup, window = 0, coldLimit
	}
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &load.Meter{}
	finished := make(chan error, 1)
	begin := func() { go func() { finished <- w.load.Run(ctx, t, m) }() }
	stopProgress := r.progress.follow(m)
	defer stopProgress()
	if warmup > 0 {
		begin()
		if err := wait(ctx, warmup, finished); err != nil {
			return nil, err
		}
	}
	profile := r.profile(srv, w, round, window)
	before, err := srv.Sample()
	if err != nil {
		return nil, err
	}
	clientBefore := server.SelfCPU()
	m.Begin()
	if warmup == 0 {
		begin()
	}
	err = wait(ctx, window, finished)
	m.End()
	if err != nil && (!errors.Is(err, errEnded) || !w.cold) {
		return nil, err
	}
	client := server.SelfCPU() - clientBefore
	after, err := srv.Sample()
	if err != nil {
		return nil, err
	}
	cancel()
	if !w.cold {
		if err := <-finished; err != nil {
			return nil, err
		}
	}
	if err := profile(); err != nil {
		return nil, err
	}
	run := summarize(m.Outcome(), before, after)
	if r.verify && srv.Spec.Stores {
		if err := verify(parent, t, m, run); err != nil {
			return nil, err
		}
	}
	run.Server, run.Workload, run.Round, run.ClientCPUSeconds = srv.Spec.Name, w.name, round, client.Seconds()
	run.Consumed = w.consumes
	if run.Messages == 0 {
		return nil, fmt.Errorf("nothing was completed in %v; the server's output:\n%s", window, srv.Output())
	}
	return run, nil
}

// verify reads back what the load was told that it is kept.
func verify(ctx context.Context, t load.Target, m *load.Meter, run *result.Run) (err error) {
	acked := m.Acknowledged(t.Partitions)
	for _, a := range acked {
		run.Acknowledged += a.Messages
	}
	run.ReadBack, err = load.Verify(ctx, t, acked)
	return err
}

var errEnded = errors.New("the load ended by itself")

// wait lets the load run for d. It returns early with the load's error, or errEnded.
func wait(ctx context.Context, d time.Duration, finished <-chan error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-finished:
		if err == nil {
			return errEnded
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// profile records the server's CPU over the window where that was asked for. The function returned waits for it.
func (r *runner) profile(srv *server.Cluster, w workload, round int, window time.Duration) func() error {
	if r.opts.profileDir == "" || !srv.Spec.HTTP || w.cold {
		return func() error { return nil }
	}
	file := filepath.Join(r.opts.profileDir, fmt.Sprintf("%s-%s-%d", srv.Spec.Name, w.name, round))
	done := make(chan error, 1)
	go func() { done <- srv.SaveProfile(file, window-window/10) }()
	return func() error { return <-done }
}

// summarize turns counters into figures.
func summarize(o load.Outcome, before, after server.Sample) *result.Run {
	seconds := o.Elapsed.Seconds()
	cpu := (after.CPU - before.CPU).Seconds()
	run := &result.Run{
		Seconds: seconds, Messages: o.Messages, Bytes: o.Bytes,
		MessagesPerSecond: float64(o.Messages) / seconds, MBPerSecond: float64(o.Bytes) / 1e6 / seconds,
		ServerCPUSeconds: cpu, PeakRSSBytes: after.PeakRSS, ContextSwitches: after.Switches - before.Switches,
		ServerWriteBytes: after.WriteBytes - before.WriteBytes, DeviceBytes: after.DeviceBytes - before.DeviceBytes,
		DeviceWritesPerSecond:  float64(after.DeviceWrites-before.DeviceWrites) / seconds,
		DeviceFlushesPerSecond: float64(after.DeviceFlush-before.DeviceFlush) / seconds,
		Metrics:                map[string]float64{},
	}
	if o.Bytes > 0 {
		run.CPUSecondsPerGB = cpu / (float64(o.Bytes) / 1e9)
		run.CPUSecondsPerMillion = cpu / (float64(o.Messages) / 1e6)
	}
	if h := o.Latency; h.TotalCount() > 0 {
		at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) }
		run.LatencyUs = &result.Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()), Mean: h.Mean()}
	}
	for name, value := range after.Metrics {
		base, _, _ := strings.Cut(name, "{")
		grown := value - before.Metrics[name]
		if grown == 0 || !strings.HasPrefix(base, "weir_") || !strings.HasSuffix(base, "_total") {
			continue
		}
		run.Metrics[name] = grown
		if base == "weir_wal_groups_total" {
			run.DurableWritesPerSecond += grown / seconds
		}
	}
	return run
}
