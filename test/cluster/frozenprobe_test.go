package cluster

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/test/internal/wire"
)

const (
	probeTimeout = 30 * time.Second // of the request; the broker must have answered by then, if with an error
	probeLimit   = probeTimeout + 10*time.Second
)

// prober produces to partitions, a record at a time with acks=all on a connection of their own, and keeps how long each took. It stands for the
// clients that have nothing to do with the node that suffers.
type prober struct {
	ended chan struct{}
	wait  sync.WaitGroup
	mu    struct {
		sync.Mutex
		samples  []probeSample
		failures map[string]int
		overdue  int // not answered by the request's own deadline
	}
}

type probeSample struct {
	at   time.Time // of the answer
	took time.Duration
}

// startProber probes partitions, each at its leader's address, with records of so many bytes and a pause in between.
func startProber(t *testing.T, topic string, leaders map[int32]string, every time.Duration, bytes int) *prober {
	t.Helper()
	p := &prober{ended: make(chan struct{})}
	p.mu.failures = map[string]int{}
	for partition, addr := range leaders {
		p.wait.Go(func() { p.run(topic, partition, addr, every, bytes) })
	}
	t.Cleanup(p.stop)
	return p
}

func (p *prober) stop() {
	select {
	case <-p.ended:
	default:
		close(p.ended)
	}
	p.wait.Wait()
}

func (p *prober) run(topic string, partition int32, addr string, every time.Duration, bytes int) {
	var nc net.Conn
	var conn *wire.Conn
	hangUp := func() {
		if nc != nil {
			_ = nc.Close()
			nc = nil
		}
	}
	defer hangUp()
	batch := wire.Batch(make([]byte, bytes))
	for {
		select {
		case <-p.ended:
			return
		case <-time.After(every):
		}
		begun := time.Now()
		if nc == nil {
			var err error
			if nc, err = net.DialTimeout("tcp", addr, settle); err != nil {
				nc = nil
				p.failed("no connection", time.Since(begun))
				continue
			}
			conn = wire.On(nc)
		}
		req := wire.Produce(topic, partition, batch)
		req.TimeoutMillis = int32(probeTimeout.Milliseconds())
		code, _, err := conn.TryProduce(req, probeLimit)
		switch {
		case err != nil:
			hangUp()
			p.failed("connection cut", time.Since(begun))
		case code != 0:
			what, _, _ := strings.Cut(kerr.ErrorForCode(code).Error(), ":")
			p.failed(what, time.Since(begun))
		default:
			p.mu.Lock()
			p.mu.samples = append(p.mu.samples, probeSample{time.Now(), time.Since(begun)})
			p.mu.Unlock()
		}
	}
}

func (p *prober) failed(what string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.failures[what]++
	if took >= probeLimit {
		p.mu.overdue++
	}
}

// between describes the requests that were answered in a time.
func (p *prober) between(from, to time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var took []time.Duration
	for _, s := range p.mu.samples {
		if !s.at.Before(from) && s.at.Before(to) {
			took = append(took, s.took)
		}
	}
	if len(took) == 0 {
		return "none answered"
	}
	return percentiles(took)
}

// errors are the failures so far, by kind. A request that the broker did not answer by its own deadline fails the test.
func (p *prober) errors(t *testing.T) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.overdue > 0 {
		t.Errorf("%d requests were not answered within %v, their own deadline is %v", p.mu.overdue, probeLimit, probeTimeout)
	}
	return fmt.Sprint(p.mu.failures)
}

// beats tells how long processes stood still: nodes by their own heartbeat, and this process, which nothing is done to, beside them.
type beats struct {
	rig    *diskRig
	nodes  []int32
	before map[int32]map[string]float64
	delays map[int32]*runDelay
	ended  chan struct{}
	said   map[int32]string // of delays, once it has ended
	wait   sync.WaitGroup
	own    time.Duration
}

// startBeats begins to measure at nodes.
func (r *diskRig) startBeats(nodes ...int32) *beats {
	r.t.Helper()
	b := &beats{rig: r, nodes: nodes, before: map[int32]map[string]float64{}, delays: map[int32]*runDelay{}, said: map[int32]string{}, ended: make(chan struct{})}
	for _, id := range nodes {
		b.before[id] = r.cluster.Node(id).Metrics()
		b.delays[id] = startRunDelay(r.cluster.Node(id).Pid())
	}
	b.wait.Go(func() {
		const interval = 10 * time.Millisecond
		for {
			due := time.Now().Add(interval)
			select {
			case <-b.ended:
				return
			case <-time.After(interval):
				b.own = max(b.own, time.Since(due))
			}
		}
	})
	r.t.Cleanup(b.stop)
	return b
}

func (b *beats) stop() {
	select {
	case <-b.ended:
		return
	default:
		close(b.ended)
	}
	b.wait.Wait()
	for id, d := range b.delays {
		b.said[id] = d.stop()
	}
}

// report ends the measurement. A node's gaps since it began are known by their histogram; the exact worst is of the last minute, which may be
// older than that.
func (b *beats) report() string {
	b.rig.t.Helper()
	b.stop()
	var parts []string
	for _, id := range b.nodes {
		after := b.rig.cluster.Node(id).Metrics()
		parts = append(parts, fmt.Sprintf("node %d at most %s (worst of the last minute %.1f ms; %s; longest pause of the collector ever %.1f ms)", id, gapBound(b.before[id], after),
			1000*after["weir_heartbeat_worst_gap_seconds"], b.said[id], 1000*after[`go_gc_duration_seconds{quantile="1"}`]))
	}
	return fmt.Sprintf("%s; this process %.1f ms", strings.Join(parts, ", "), b.own.Seconds()*1000)
}

// steady is a limit as it is where the machine ran all the time, else one that only a hang exceeds.
func (b *beats) steady(limit time.Duration) time.Duration {
	b.stop()
	worst := b.own
	for _, d := range b.delays {
		worst = max(worst, d.worst)
	}
	if worst > steadyMax {
		b.rig.t.Logf("the machine stood still for %v: no limit of %v", worst.Round(time.Millisecond), limit)
		return frozenMax
	}
	return limit
}

// gapBound is the upper bound of the histogram's highest bucket that gained something.
func gapBound(before, after map[string]float64) string {
	const name = `weir_heartbeat_gap_seconds_bucket{le="`
	bounds := map[float64]float64{} // upper bound to how many gaps, all smaller ones included
	for series, v := range after {
		if rest, ok := strings.CutPrefix(series, name); ok {
			if bound, err := strconv.ParseFloat(strings.TrimSuffix(rest, `"}`), 64); err == nil {
				bounds[bound] = v - before[series]
			}
		}
	}
	sorted := slices.Sorted(maps.Keys(bounds))
	if len(sorted) == 0 {
		return "unknown"
	}
	all := bounds[sorted[len(sorted)-1]]
	for _, bound := range sorted {
		if bounds[bound] >= all {
			return fmt.Sprintf("%g ms", 1000*bound)
		}
	}
	return "unknown"
}
