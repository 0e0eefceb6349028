package raftmeta

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/internal/vfs"
)

// pipe carries messages between nodes of one process at once.
type pipe struct {
	mu    sync.Mutex
	nodes map[string]*Meta
}

func (p *pipe) Send(ctx context.Context, _ int32, addr string, rpc RPC, body []byte) ([]byte, error) {
	p.mu.Lock()
	m := p.nodes[addr]
	p.mu.Unlock()
	if m == nil {
		return nil, errLost
	}
	return m.HandleRPC(ctx, rpc, body)
}

// piped opens n nodes with real files and no network, and returns the leader.
func piped(b testing.TB, n int, threads Threads) *Meta {
	p := &pipe{nodes: make(map[string]*Meta)}
	var voters []Voter
	for id := range int32(n) {
		voters = append(voters, Voter{id + 1, addrOf(id + 1)})
	}
	var nodes []*Meta
	for id := range int32(n) {
		o := Options{FS: vfs.OS{}, Dir: b.TempDir(), NodeID: id + 1, FileBytes: logFileBytesMin, FilesMax: logFilesMin, Threads: threads, StoreTimeout: time.Minute, ProposeTimeout: time.Minute}
		if n > 1 {
			o.Sender, o.PeerAddr, o.Voters = p, addrOf(id+1), voters
		}
		m, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		p.mu.Lock()
		p.nodes[o.PeerAddr] = m
		p.mu.Unlock()
		b.Cleanup(func() { _ = m.Close() })
		nodes = append(nodes, m)
	}
	for _, m := range nodes {
		if err := m.Ready(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	i := slices.IndexFunc(nodes, (*Meta).Leading)
	if i < 0 {
		b.Fatal("nobody leads")
	}
	return nodes[i]
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThreads is what it costs to lock raft's goroutines to threads: clusters with each choice of them, in one process, take rounds of changes in
// turn, so that what else the machine does is the same for all. Changes come one after another, and from 16 callers at once.
func BenchmarkThreads(b *testing.B) {
	on := func() {}
	choices := []struct {
		name    string
		threads Threads
	}{{"none", Threads{}}, {"apply", Threads{Apply: on}}, {"main", Threads{Main: on}}, {"all", Threads{Main: on, Apply: on, Snapshots: on}}}
	for _, n := range []int{1, 3} {
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprintf("nodes=%d/callers=%d", n, callers), func(b *testing.B) {
				leads := make([]*Meta, len(choices))
				for i, c := range choices {
					leads[i] = piped(b, n, c.threads)
				}
				took := make([][]time.Duration, len(choices))
				cpu := make([]time.Duration, len(choices))
				for b.Loop() {
					for i := range choices {
						began := cpuTime()
						took[i] = append(took[i], round(b, leads[i], callers, 64)...)
						cpu[i] += cpuTime() - began
					}
				}
				for i, c := range choices {
					slices.Sort(took[i])
					at := func(q float64) float64 { return float64(took[i][int(q*float64(len(took[i])-1))].Microseconds()) }
					b.ReportMetric(at(0.5), c.name+"-p50-us")
					b.ReportMetric(at(0.99), c.name+"-p99-us")
					b.ReportMetric(float64(cpu[i].Microseconds())/float64(len(took[i])), c.name+"-cpu-us")
				}
			})
		}
	}
}

// round makes changes and returns how long each took.
func round(b testing.TB, m *Meta, callers, changes int) []time.Duration {
	took := make([]time.Duration, changes)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < changes; i += callers {
				began := time.Now()
				if _, err := m.Propose(b.Context(), AllocateProducerIDs{Broker: 1}); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	return took
}
