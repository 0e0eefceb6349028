package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"weir/test/internal/verify"
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
	ledger    *verify.Ledger
	producers []*verify.Producer
	scans     map[int32]*verify.Scan
	kills     int
	acked     int
}

func (k *killRun) newTopic(topic string) {
	k.t.Helper()
	createTopics(k.t, k.admin, killPartitions, topic)
	k.ledger, k.scans, k.producers = verify.New(topic, killPartitions), map[int32]*verify.Scan{}, nil
	for i, p := range verify.Profiles {
		pr := verify.NewProducer(i, p, k.ledger, killPartitions, quick(k.broker.Addr))
		k.t.Cleanup(pr.Close)
		k.producers = append(k.producers, pr)
	}
}

// endTopic reads the whole topic once more and deletes it.
func (k *killRun) endTopic() {
	k.t.Helper()
	verifyLedger(k.t, k.ledger, k.broker.Addr, k.admin, map[int32]*verify.Scan{})
	count, _ := k.ledger.Acknowledged()
	k.acked += count
	for _, p := range k.producers {
		p.Close()
	}
	deleteTopic(k.t, k.admin, k.ledger.Topic)
}

func (k *killRun) cycle(cycle int) {
	t := k.t
	t.Helper()
	for _, p := range k.producers {
		if err := p.Start(); err != nil {
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
		if err := p.Stop(limit(t, time.Minute)); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
	}
	verifyLedger(k.t, k.ledger, k.broker.Addr, k.admin, k.scans)
	count, _ := k.ledger.Acknowledged()
	t.Logf("cycle %d: ready in %v, %d records acknowledged so far, ends %v", cycle, k.broker.ReadyTime().Round(time.Millisecond), count, k.ends())
	for _, p := range k.producers {
		if cycle%killCyclesPerLog == killCyclesPerLog-1 && p.Acks.Load() == 0 {
			t.Fatalf("producer %s got no record acknowledged in %d cycles", p.Name, killCyclesPerLog)
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
			ends = append(ends, s.Next)
		}
	}
	return ends
}
