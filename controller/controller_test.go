package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/raftmeta"
)

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func TestSilentBrokerIsFencedByTheTimer(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2, 3)
		r.topic("a", 3, 2, 1)
		r.pass(10*time.Second, 1, 2, 3)
		if r.meta.Image().Broker(3).Fenced {
			t.Fatal("fenced although it was heard of")
		}
		r.pass(1250*time.Millisecond, 1, 2)
		if r.meta.Image().Broker(3).Fenced {
			t.Fatal("fenced within its session")
		}
		r.pass(500*time.Millisecond, 1, 2)
		if p := r.part("a"); !r.meta.Image().Broker(3).Fenced || p.Leader != 2 {
			t.Fatalf("%+v, %+v", r.meta.Image().Broker(3), p)
		}
	})
}

// A session that goes on moves no timer: the one that there is fires, and the next is set for what is then due.
func TestHeartbeatsSetNoTimers(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2, 3)
		before := r.clock.timers.Load()
		r.pass(15*time.Second, 1, 2, 3)
		if n := r.clock.timers.Load() - before; n > 15 {
			t.Fatalf("%d timers in 15 s of 180 heartbeats", n)
		}
	})
}

func TestSingleNodeArmsNoTimer(t *testing.T) {
	inBubble(t, func(r *rig) {
		if _, err := r.c.Register(r.ctx(), Registration{ID: 1, Host: "h", Port: 9092}); err != nil {
			t.Fatal(err)
		}
		if r.meta.Image().Broker(1).Fenced {
			t.Fatal("fenced")
		}
		r.topic("a", 1)
		if _, err := r.c.ElectLeaders(r.ctx(), false, nil); err != nil {
			t.Fatal(err)
		}
		r.c.Office(2, true)
		synctest.Wait()
		if n := r.clock.timers.Load(); n != 0 {
			t.Fatalf("%d timers", n)
		}
	})
}

func TestOutOfOffice(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		r.c.Office(1, false)
		synctest.Wait()
		before := r.clock.timers.Load()
		ctx := r.ctx()
		_, err := r.c.Register(ctx, registration(3, 1))
		wantErr(t, err, ErrNotController)
		_, err = r.c.Heartbeat(ctx, r.heartbeat(1))
		wantErr(t, err, ErrNotController)
		_, err = r.c.AlterISR(ctx, 1, 1, nil)
		wantErr(t, err, ErrNotController)
		_, err = r.c.CreateTopics(ctx, nil)
		wantErr(t, err, ErrNotController)
		_, err = r.c.AddPartitions(ctx, nil)
		wantErr(t, err, ErrNotController)
		_, err = r.c.DeleteTopics(ctx, nil)
		wantErr(t, err, ErrNotController)
		errs := r.c.Reassign(ctx, make([]Reassignment, 2))
		wantErr(t, errs[0], ErrNotController)
		wantErr(t, errs[1], ErrNotController)
		_, err = r.c.ElectLeaders(ctx, false, nil)
		wantErr(t, err, ErrNotController)
		wantErr(t, r.c.Unregister(ctx, 1), ErrNotController)
		_, err = r.c.Decommission(ctx, Decommission{Broker: 1})
		wantErr(t, err, ErrNotController)
		time.Sleep(time.Hour)
		if r.meta.Image().Broker(2).Fenced || r.clock.timers.Load() != before {
			t.Fatal("it acts out of office")
		}
		// Back in office, everybody has a full session.
		r.c.Office(2, true)
		r.pass(time.Second, 1)
		if r.meta.Image().Broker(2).Fenced {
			t.Fatal("fenced too early")
		}
		r.pass(time.Second, 1)
		if !r.meta.Image().Broker(2).Fenced {
			t.Fatal("not fenced")
		}
	})
}

func TestPeerGoneIsRememberedUntilInOffice(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2, 3)
		r.topic("a", 3, 2)
		r.c.Office(1, false)
		synctest.Wait()
		r.c.PeerGone(3)
		time.Sleep(time.Second)
		r.c.Office(2, true)
		synctest.Wait()
		if p := r.part("a"); p.Leader != 2 {
			t.Fatalf("%+v", p)
		}
		r.c.PeerGone(2)
		synctest.Wait()
		if !r.meta.Image().Broker(2).Fenced {
			t.Fatal("not fenced at once")
		}
	})
}

// What arrives while a change is under way is decided together, on the image that it makes.
func TestOneChangeAtATime(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		release := r.meta.hold()
		before := r.meta.proposals.Load()
		var wg sync.WaitGroup
		create := func(name string) {
			wg.Go(func() {
				rs, err := r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: name, Partitions: 2}})
				if err != nil || rs[0].Err != nil {
					t.Error(name, err, rs)
				}
			})
		}
		create("first")
		synctest.Wait()
		for i := range 50 {
			create(fmt.Sprint("t", i))
		}
		synctest.Wait()
		for range 8 { // heartbeats do not wait for the change
			time.Sleep(250 * time.Millisecond)
			r.beat(1)
			r.beat(2)
		}
		release()
		wg.Wait()
		if n := r.meta.proposals.Load() - before; n != 2 || r.meta.most.Load() != 1 {
			t.Fatalf("%d proposals, at most %d at a time", n, r.meta.most.Load())
		}
		if r.meta.Image().NumTopics() != 51 {
			t.Fatalf("%d topics", r.meta.Image().NumTopics())
		}
	})
}

func TestLeadershipLostWhileAChangeIsUnderWay(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		lost := make(chan struct{})
		r.meta.setFate(func(context.Context, func() []raftmeta.Result) ([]raftmeta.Result, error) {
			<-lost
			return nil, fmt.Errorf("apply: %w", raftmeta.ErrLeadershipLost)
		})
		errs := make(chan error, 2)
		create := func(name string) {
			_, err := r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: name, Partitions: 1}})
			errs <- err
		}
		go create("a")
		synctest.Wait()
		go create("b")
		synctest.Wait()
		r.c.Office(1, false)
		wantErr(t, <-errs, ErrNotController) // b: nothing was done
		close(lost)
		wantErr(t, <-errs, raftmeta.ErrLeadershipLost) // a: unknown
		// In office again before the old change has ended, nothing is decided until it has.
		r.c.Office(2, true)
		r.meta.setFate(nil)
		r.topic("c", 1, 2)
	})
}

func TestOfficeRegainedWhileAChangeIsUnderWay(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		release := r.meta.hold()
		done := make(chan error, 1)
		go func() {
			_, err := r.c.Register(r.ctx(), registration(3, 1))
			done <- err
		}()
		synctest.Wait()
		r.c.Office(1, false)
		r.c.Office(2, true)
		synctest.Wait()
		if r.meta.running.Load() != 1 {
			t.Fatalf("%d proposals under way", r.meta.running.Load())
		}
		release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.meta.setFate(nil)
		r.beat(3)
		if r.meta.Image().Broker(3).Fenced || r.meta.most.Load() != 1 {
			t.Fatalf("%+v, at most %d proposals", r.meta.Image().Broker(3), r.meta.most.Load())
		}
	})
}

// A change whose outcome is unknown is decided anew, on what came of it.
func TestUnknownOutcome(t *testing.T) {
	for _, c := range []struct {
		name string
		done bool
		err  error
	}{
		{"done, timeout", true, raftmeta.ErrTimeout}, {"not done, timeout", false, raftmeta.ErrTimeout},
		{"done, lost", true, raftmeta.ErrLeadershipLost}, {"not done, refused", false, raftmeta.ErrBackpressure},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.join(1, 2, 3)
				r.topic("a", 3, 2)
				failures := 0
				r.meta.setFate(func(_ context.Context, apply func() []raftmeta.Result) ([]raftmeta.Result, error) {
					if failures++; failures <= 3 {
						if c.done {
							apply()
						}
						return nil, c.err
					}
					return apply(), nil
				})
				before := r.meta.proposals.Load()
				r.pass(4*time.Second, 1, 2)
				if p := r.part("a"); p.Leader != 2 || p.LeaderEpoch != 1 || !r.meta.Image().Broker(3).Fenced {
					t.Fatalf("%+v", p)
				}
				want := int64(4)
				if c.done {
					want = 1
				}
				if n := r.meta.proposals.Load() - before; n != want {
					t.Fatalf("%d proposals, want %d", n, want)
				}
			})
		})
	}
}

// What cannot be done is not tried in a hot loop.
func TestFailuresAreTriedLessAndLessOften(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2, 3)
		before := r.meta.proposals.Load()
		r.meta.setFate(func(context.Context, func() []raftmeta.Result) ([]raftmeta.Result, error) {
			return nil, raftmeta.ErrBackpressure
		})
		r.pass(time.Minute, 1, 2)
		if n := r.meta.proposals.Load() - before; n < 5 || n > 25 {
			t.Fatalf("%d proposals in a minute", n)
		}
		r.meta.setFate(nil)
		r.pass(6*time.Second, 1, 2)
		if !r.meta.Image().Broker(3).Fenced {
			t.Fatal("not fenced once it was possible")
		}
	})
}

func TestBackpressure(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		release := r.meta.hold()
		var wg sync.WaitGroup
		for i := range requestsMax {
			wg.Go(func() {
				if _, err := r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: fmt.Sprint("t", i), Partitions: 1}}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := r.c.CreateTopics(r.ctx(), nil)
		wantErr(t, err, ErrBusy)
		r.beat(2) // another queue
		release()
		wg.Wait()
		if n := r.meta.Image().NumTopics(); n != requestsMax {
			t.Fatalf("%d topics", n)
		}
		r.meta.setFate(nil)
		r.topic("after", 1)
	})
}

func TestHeartbeatsAreBounded(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		release := r.meta.hold()
		h := r.heartbeat(2)
		h.WantFence = true // has to wait for a change
		var wg sync.WaitGroup
		for range heartbeatsMax {
			wg.Go(func() {
				if _, err := r.c.Heartbeat(r.ctx(), h); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := r.c.Heartbeat(r.ctx(), h)
		wantErr(t, err, ErrBusy)
		release()
		wg.Wait()
	})
}

// Who gave up before anything was decided gets nothing done.
func TestWhoDoesNotWaitAnyMoreIsNotServed(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		release := r.meta.hold()
		go r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: "a", Partitions: 1}}) // its outcome does not matter
		synctest.Wait()
		ctx, cancel := context.WithTimeout(r.ctx(), time.Second)
		defer cancel()
		_, err := r.c.CreateTopics(ctx, []raftmeta.CreateTopic{{Name: "b", Partitions: 1}})
		wantErr(t, err, context.DeadlineExceeded)
		release()
		synctest.Wait()
		if img := r.meta.Image(); img.Topic("a") == nil || img.Topic("b") != nil {
			t.Fatalf("a %v, b %v", img.Topic("a"), img.Topic("b"))
		}
	})
}

func TestEveryWaitHasABound(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		r.meta.setFate(func(ctx context.Context, _ func() []raftmeta.Result) ([]raftmeta.Result, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		began := time.Now()
		_, err := r.c.CreateTopics(context.Background(), []raftmeta.CreateTopic{{Name: "a", Partitions: 1}})
		wantErr(t, err, context.DeadlineExceeded)
		if d := time.Since(began); d != proposeTimeout {
			t.Fatalf("waited %s", d)
		}
	})
}

func TestClose(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		r.meta.hold()
		errs := make(chan error, 2)
		for _, name := range []string{"a", "b"} {
			go func() {
				_, err := r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: name, Partitions: 1}})
				errs <- err
			}()
			synctest.Wait()
		}
		r.c.Close()
		first, second := <-errs, <-errs
		if errors.Is(first, ErrClosed) {
			first, second = second, first
		}
		wantErr(t, first, context.Canceled)
		wantErr(t, second, ErrClosed)
		_, err := r.c.CreateTopics(r.ctx(), nil)
		wantErr(t, err, ErrClosed)
		r.c.Close()
	})
}

// More images than the mailbox keeps: the newest is there to be looked at as a whole, and what follows joins up with it.
func TestMailboxNeverLosesTheNewestImage(t *testing.T) {
	b := newMailbox()
	var img *raftmeta.Image
	version := uint64(0)
	change := func() {
		version++
		img = &raftmeta.Image{Version: version}
		b.changed(img, &raftmeta.Delta{From: version - 1, To: version})
	}
	// newest is what the owner ends with; joined says that deltas lead there without a gap.
	newest := func() (last *raftmeta.Image, joined bool) {
		m := b.take()
		last, joined = m.latest, true
		for _, n := range m.news {
			joined = joined && (last == nil || n.delta.From == last.Version)
			last = n.img
		}
		return last, joined
	}
	for range 3 {
		change() // out of office
	}
	b.office(1, true)
	for range 3 {
		change()
	}
	if got, joined := newest(); got != img || !joined {
		t.Fatalf("got %v, %v", got, joined)
	}
	for range newsMax + 10 {
		change()
	}
	if got, joined := newest(); got != img || !joined {
		t.Fatalf("got %v, %v", got, joined)
	}
	for range newsMax + 1 {
		change()
	}
	if got, joined := newest(); got != img || !joined {
		t.Fatalf("right after the overflow: got %v, %v", got, joined)
	}
	change()
	b.office(1, false)
	if got, joined := newest(); got != img || !joined {
		t.Fatalf("after the office: got %v, %v", got, joined)
	}
}

// Another term, though nobody said that the last one had ended: sessions begin anew.
func TestNewTermWithoutAnEndOfTheOld(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2)
		r.pass(1250*time.Millisecond, 1)
		r.c.Office(2, true)
		r.pass(time.Second, 1)
		if r.meta.Image().Broker(2).Fenced {
			t.Fatal("fenced within a full session")
		}
		r.pass(time.Second, 1)
		if !r.meta.Image().Broker(2).Fenced {
			t.Fatal("not fenced")
		}
	})
}

func TestReassignmentsAndDecommission(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.join(1, 2, 3)
		r.topic("a", 1, 2)
		if errs := r.c.Reassign(r.ctx(), []Reassignment{{Topic: "a", Replicas: []int32{1, 3}}, {Topic: "b"}}); errs[0] != nil {
			t.Fatal(errs)
		} else {
			wantErr(t, errs[1], raftmeta.ErrUnknownTopic)
		}
		if list := r.c.Reassignments(); len(list) != 1 || list[0].Topic != "a" || list[0].Adding[0] != 3 {
			t.Fatalf("%+v", list)
		}
		p, err := r.c.Decommission(r.ctx(), Decommission{Broker: 2})
		if err != nil || p.Left != 1 || p.Moving != 1 || p.Started != 0 {
			t.Fatalf("%+v, %v", p, err)
		}
		if list := r.c.Decommissions(); len(list) != 1 || list[0].Broker != 2 || list[0].Moving != 1 {
			t.Fatalf("%+v", list)
		}
		wantErr(t, r.c.Unregister(r.ctx(), 2), raftmeta.ErrInvalidCommand)
		topic, part := r.meta.Image().Topic("a"), r.part("a")
		change := ISRChange{TopicID: topic.ID, LeaderEpoch: part.LeaderEpoch, PartitionEpoch: part.PartitionEpoch, ISR: []ISRMember{{ID: 1, BrokerEpoch: -1}, {ID: 2, BrokerEpoch: -1}, {ID: 3, BrokerEpoch: -1}}}
		res, err := r.c.AlterISR(r.ctx(), 1, r.meta.Image().Broker(1).Epoch, []ISRChange{change})
		if err != nil || res[0].Err != nil {
			t.Fatal(err, res)
		}
		if err := r.c.Unregister(r.ctx(), 2); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	inBubble(t, func(r *rig) {
		r.c.Close()
		m := NewMetrics(reg)
		r.c = New(Options{Meta: r.meta, NodeID: 1, Config: r.c.o.Config, Metrics: m})
		r.c.Office(1, true)
		r.join(1, 2, 3)
		r.topic("a", 3, 2)
		r.topic("b", 3)
		r.c.PeerGone(3)
		synctest.Wait()
		got := gathered(t, reg)
		for name, want := range map[string]float64{
			"weir_controller_active": 1, "weir_controller_brokers{active}": 2, "weir_controller_brokers{fenced}": 1,
			"weir_controller_offline_partitions": 1, "weir_controller_elections_total{failover}": 1, "weir_controller_fenced_total": 1,
			"weir_controller_queue_length": 0, "weir_controller_imbalanced_partitions": 2, "weir_controller_reassigning_partitions": 0,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		if got["weir_controller_propose_seconds"] == 0 || got["weir_controller_decide_seconds"] == 0 {
			t.Error("no times were measured")
		}
		r.c.Office(1, false)
		synctest.Wait()
		if got := gathered(t, reg); got["weir_controller_active"] != 0 || got["weir_controller_offline_partitions"] != 0 {
			t.Errorf("out of office: %v", got)
		}
	})
}

// gathered is every metric by name and label; of a histogram its count.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case m.Gauge != nil:
				all[name] = m.Gauge.GetValue()
			case m.Counter != nil:
				all[name] = m.Counter.GetValue()
			case m.Histogram != nil:
				all[name] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return all
}
