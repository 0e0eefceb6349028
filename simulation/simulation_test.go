package simulation

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/controller/machine"
	"weir/raftmeta"
)

const (
	troubled = 25 * time.Second // simulated, with faults
	calm     = 25 * time.Second // and without, to settle
)

// TestClusters runs WEIR_TEST_SEEDS histories (100; in CI 500). The first seed is WEIR_SEED; without it 1 in CI, so that a change fails there for what
// it changed, and otherwise the time, as for make simulate, which looks for what nobody has seen.
func TestClusters(t *testing.T) {
	seeds, first := 100, uint64(time.Now().UnixNano())%1_000_000_000
	if os.Getenv("CI") == "true" {
		seeds, first = 500, 1
	}
	seeds = number(t, "WEIR_TEST_SEEDS", seeds)
	if os.Getenv("WEIR_SEED") != "" {
		first, seeds = uint64(number(t, "WEIR_SEED", 0)), number(t, "WEIR_TEST_SEEDS", 1)
	}
	t.Logf("%d seeds from %d on; one of them again: WEIR_SEED=n go test ./simulation -run TestClusters", seeds, first)
	var acks, tries, steps atomic.Int64
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for !t.Failed() {
				i := next.Add(1) - 1
				if i >= int64(seeds) {
					return
				}
				w := history(first + uint64(i))
				acks.Add(int64(w.model.acks))
				tries.Add(int64(w.model.tries))
				steps.Add(int64(w.steps))
				if w.failed != nil {
					t.Errorf("WEIR_SEED=%d: %v\n%s", w.seed, w.failed, strings.Join(tail(w.log), "\n"))
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d events, %d records produced, %d acknowledged", steps.Load(), tries.Load(), acks.Load())
	if acks.Load() < int64(seeds)*20 && !t.Failed() {
		t.Errorf("%d records were acknowledged in %d histories: that shows nothing", acks.Load(), seeds)
	}
}

func tail(log []string) []string { return log[max(0, len(log)-logMax):] }

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestReplay: a seed is a history, to the last event.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 3; seed++ {
		a, b := history(seed), history(seed)
		if a.hash != b.hash || a.steps != b.steps || a.model.acks != b.model.acks {
			t.Errorf("seed %d: %d events with hash %x, then %d with %x", seed, a.steps, a.hash, b.steps, b.hash)
		}
	}
}

// TestLeaderRestarts: a leader of the metadata that is back before anybody looked leads no more, and the cluster elects another, or it again.
func TestLeaderRestarts(t *testing.T) {
	w := quietWorld(1)
	w.run(10 * time.Second)
	before := w.quorum.term
	n := w.node(w.quorum.leader)
	n.crash()
	n.boot()
	w.run(10 * time.Second)
	if w.quorum.term == before || w.quorum.leader < 0 || !w.node(w.quorum.leader).ctl.InOffice() || !n.open {
		t.Errorf("term %d after %d, leader %d, the restarted node %d is open: %t", w.quorum.term, before, w.quorum.leader, n.id, n.open)
	}
}

// history runs one seed.
func history(seed uint64) *world {
	w := quietWorld(seed)
	w.topics()
	w.produce()
	w.run(5 * time.Second)
	w.faults()
	w.run(troubled)
	w.mend()
	w.run(calm)
	if w.failed == nil {
		w.quiet = true
		w.run(5 * time.Second)
		w.model.settled()
	}
	return w
}

// quietWorld is a cluster that starts, and has nothing to do.
func quietWorld(seed uint64) *world {
	w := newWorld(seed)
	w.net, w.quorum, w.model = newNetwork(w), newQuorum(w), newModel(w)
	for id := range int32(3 + w.rng.IntN(3)) {
		w.nodes = append(w.nodes, &node{w: w, id: id + 1, controllerID: -1, img: raftmeta.NewImage(), disk: map[key]*replica{}})
	}
	for _, n := range w.nodes {
		n.boot()
	}
	w.quorum.tick()
	return w
}

// mend ends all faults.
func (w *world) mend() {
	w.calm = true
	w.note("calm")
	w.net.heal()
	for _, n := range w.nodes {
		n.stalled = false
		if n.up && n.paused {
			n.resume()
		}
	}
}

// topics makes them as soon as there is a controller with all brokers.
func (w *world) topics() {
	w.after(100*time.Millisecond, "topics", func() {
		if len(w.quorum.newest().Brokers()) < len(w.nodes) {
			w.topics()
			return
		}
		var list []raftmeta.CreateTopic
		for i := range 2 {
			list = append(list, raftmeta.CreateTopic{Name: fmt.Sprint("topic", i), Partitions: 2, ReplicationFactor: 3})
		}
		w.admin(&machine.CreateTopics{Topics: list}, func(_ any, err error) {
			if err != nil && w.quorum.newest().NumTopics() == 0 {
				w.topics()
			}
		})
	})
}

// produce has producers send one record after another to whom some node takes for the leader.
func (w *world) produce() {
	if w.quiet {
		return
	}
	w.after(w.between(2*time.Millisecond, 60*time.Millisecond), "produce", func() {
		w.send()
		w.produce()
	})
}

func (w *world) send() {
	if w.quiet {
		return
	}
	t, index := w.anyPartition()
	knows := w.nodes[w.rng.IntN(len(w.nodes))]
	if t == nil || knows.img.TopicByID(t.ID) == nil {
		return
	}
	to := knows.img.TopicByID(t.ID).Partitions[index].Leader
	if to < 0 || !w.node(to).up {
		return
	}
	w.model.tries++
	value, k := uint64(w.model.tries), key{t.ID, index}
	n := w.node(to)
	n.do(w.between(0, 2*time.Millisecond), "append", func() {
		r := n.replicas[k]
		if r == nil || !n.open {
			return
		}
		r.append(value, func(offset int64, ok bool) {
			if ok {
				w.model.acknowledged(k, offset, value)
			}
		})
	})
}
