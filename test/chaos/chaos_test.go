package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

// ended is nil if a process has ended, or has called exit and is held by its disk.
func ended(b *weirproc.Broker) error {
	if b.Running() && weirproc.State(b.Pid()) != "Z" {
		return fmt.Errorf("process %d runs", b.Pid())
	}
	return nil
}

func envText(name string) string { return os.Getenv(name) }

// possible are the faults that this machine can make; WEIR_TEST_CHAOS_FAULTS (a part of a name) chooses from them.
func (r *run) possible() []fault {
	var list []fault
	for _, f := range faults {
		if (!f.disk || len(r.disks) > 0) && strings.Contains(f.name, envText("WEIR_TEST_CHAOS_FAULTS")) {
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		r.t.Fatalf("no fault has %q in its name", envText("WEIR_TEST_CHAOS_FAULTS"))
	}
	return list
}

// TestChaos goes on for WEIR_TEST_CHAOS_SECONDS (30). Faults come one after the other, some before the last one is repaired.
func TestChaos(t *testing.T) {
	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	if envText(insideEnv) == "" {
		t.Logf("WEIR_SEED=%d", seed)
	}
	t.Setenv("WEIR_SEED", fmt.Sprint(seed))
	if !inside(t) {
		return
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	r := start(t)
	list := r.possible()
	until := time.Now().Add(time.Duration(envInt(t, "WEIR_TEST_CHAOS_SECONDS", 30)) * time.Second)
	count := map[string]int{}
	for round := 0; time.Now().Before(until); round++ {
		r.work(paces[rng.IntN(len(paces))], func() {
			for range 1 + rng.IntN(3) {
				lasting(rng, 0, time.Second)
				f := list[rng.IntN(len(list))]
				begun := time.Now()
				done := f.do(r, rng)
				r.requireUp()
				count[f.name]++
				t.Logf("round %d: %s: %s (%s)", round, f.name, done, begun.Format("15:04:05.000"))
				if rng.IntN(2) == 0 {
					r.whole()
				}
			}
		})
		t.Logf("round %d: %d records acknowledged so far, all there; %v", round, r.acknowledged(), r.errands)
	}
	r.again()
	for _, p := range r.producers {
		if p.Acks.Load() == 0 {
			t.Errorf("producer %s got nothing acknowledged", p.Name)
		}
	}
	t.Logf("%d records acknowledged, none lost, over %v; %v", r.acknowledged(), count, r.errands)
}

// TestIsolatedController: the node that decides is cut off from the others. They go on without it, and it, believing for a while that
// it still leads, acknowledges nothing that is lost.
func TestIsolatedController(t *testing.T) {
	if !inside(t) {
		return
	}
	r := start(t)
	r.work(paces[0], func() {
		ctx := t.Context()
		meta, err := r.admin.BrokerMetadata(ctx)
		if err != nil || meta.Controller < 1 {
			t.Fatalf("controller %d, %v", meta.Controller, err)
		}
		id := meta.Controller
		begun := time.Now()
		r.net.isolate(id)
		rest := r.cluster.Node(others(id)[0]).Addr
		r.await(fmt.Sprintf("node %d leads nothing any more", id), func() error { return verify.NotLedBy(id, rest, topic) })
		t.Logf("node %d, the controller, was cut off: the others lead everything after %v", id, time.Since(begun).Round(time.Millisecond))
		r.moreIsAcknowledged(200)
	})
	t.Logf("%d records acknowledged, none lost", r.acknowledged())
}
