package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"weir/test/internal/weirproc"
)

const (
	killPartitions   = 3
	killCyclesPerLog = 10 // then the topic is checked from its beginning and a new one begins
)

// TestKill kills the broker with SIGKILL in the middle of a produce run, starts it again and reads everything that came
// since, WEIR_KILL_CYCLES times (10 by default, 100 in CI). Some cycles kill it again while it recovers.
func TestKill(t *testing.T) {
	cycles := 10
	if os.Getenv("CI") == "true" {
		cycles = 100
	}
	cycles = envInt(t, "WEIR_KILL_CYCLES", cycles)
	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d WEIR_KILL_CYCLES=%d", seed, cycles)
	rng := rand.New(rand.NewPCG(seed, 1))
	broker := weirproc.Start(t, weirproc.Options{
		DataDir: os.Getenv("WEIR_KEEP_DIR"), // to look at what a failure left
		Config: map[string]string{
			"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "log.segment.bytes": "4194304",
		},
	})
	admin := newAdmin(t, broker.Addr)
	run := &killRun{t: t, broker: broker, admin: admin, rng: rng}
	begun := time.Now()
	for cycle := range cycles {
		if cycle%killCyclesPerLog == 0 {
			run.newTopic(fmt.Sprintf("kill-%d", cycle/killCyclesPerLog))
		}
		run.cycle(cycle)
		if cycle%killCyclesPerLog == killCyclesPerLog-1 || cycle == cycles-1 {
			run.endTopic()
		}
	}
	t.Logf("%d kills in %v, %d records acknowledged, all there", run.kills, time.Since(begun).Round(time.Millisecond), run.acked)
}

type killRun struct {
	t         *testing.T
	broker    *weirproc.Broker
	admin     *kadm.Client
	rng       *rand.Rand
	ledger    *ledger
	producers []*producer
	scans     map[int32]*scan
	kills     int
	acked     int
}

func (k *killRun) newTopic(topic string) {
	k.t.Helper()
	createTopics(k.t, k.admin, killPartitions, topic)
	k.ledger, k.scans, k.producers = newLedger(topic, killPartitions), map[int32]*scan{}, nil
	for i, p := range profiles {
		pr := newProducer(i, p, k.ledger, killPartitions, quick(k.broker.Addr))
		k.t.Cleanup(pr.close)
		k.producers = append(k.producers, pr)
	}
}

// endTopic reads the whole topic once more and deletes it.
func (k *killRun) endTopic() {
	k.t.Helper()
	k.ledger.verify(k.t, k.broker.Addr, k.admin, map[int32]*scan{})
	count, _ := k.ledger.acknowledged()
	k.acked += count
	for _, p := range k.producers {
		p.close()
	}
	deleteTopic(k.t, k.admin, k.ledger.topic)
}

func (k *killRun) cycle(cycle int) {
	t := k.t
	t.Helper()
	for _, p := range k.producers {
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Duration(50+k.rng.IntN(350)) * time.Millisecond)
	k.kill()
	if k.rng.IntN(4) == 0 {
		if err := k.broker.LaunchAsync(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(k.rng.IntN(300)) * time.Millisecond)
		k.kill()
	}
	if err := k.broker.Launch(); err != nil {
		t.Fatalf("cycle %d: restart after a kill: %v", cycle, err)
	}
	for _, p := range k.producers {
		if err := p.stop(limit(t, time.Minute)); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
	}
	k.ledger.verify(t, k.broker.Addr, k.admin, k.scans)
	count, _ := k.ledger.acknowledged()
	t.Logf("cycle %d: ready in %v, %d records acknowledged so far, ends %v", cycle, k.broker.ReadyTime().Round(time.Millisecond), count, k.ends())
	for _, p := range k.producers {
		if cycle%killCyclesPerLog == killCyclesPerLog-1 && p.acks.Load() == 0 {
			t.Fatalf("producer %s got no record acknowledged in %d cycles", p.name, killCyclesPerLog)
		}
	}
}

func (k *killRun) kill() {
	k.broker.Kill()
	k.kills++
}

func (k *killRun) ends() []int64 {
	var ends []int64
	for p := range int32(killPartitions) {
		if s := k.scans[p]; s != nil {
			ends = append(ends, s.next)
		}
	}
	return ends
}
