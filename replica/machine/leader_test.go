package machine

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var began = time.Unix(1_700_000_000, 0)

func at(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }

func leaderOf(isr []int32, minISR int, start int64) *Leader {
	return NewLeader(LeaderConfig{Self: 1, Epoch: 5, PartitionEpoch: 9, Replicas: []int32{1, 2, 3}, ISR: isr, MinISR: minISR,
		Start: start, HW: 0, Durable: start, LagMax: 10 * time.Second}, began)
}

func ids(c *ISRChange) []int32 {
	if c == nil {
		return nil
	}
	var all []int32
	for _, m := range c.ISR {
		all = append(all, m.ID)
	}
	slices.Sort(all)
	return all
}

func TestHighWatermark(t *testing.T) {
	l := leaderOf([]int32{1, 2, 3}, 2, 10)
	if l.HW() != 0 {
		t.Fatalf("high watermark %d before the followers were heard of", l.HW())
	}
	l.Fetched(Fetched{Replica: 2, Offset: 10, LogEnd: 10}, at(0))
	if o := l.Fetched(Fetched{Replica: 3, Offset: 8, LogEnd: 10}, at(0)); o.HW != 8 || !o.Rose {
		t.Fatalf("%+v, want 8: the smallest", o)
	}
	l.Fetched(Fetched{Replica: 2, Offset: 15, LogEnd: 20}, at(0))
	if o := l.Fetched(Fetched{Replica: 3, Offset: 20, LogEnd: 20}, at(0)); o.HW != 10 {
		t.Fatalf("%+v, want 10: the leader's own log is durable so far", o)
	}
	if hw, rose := l.Durable(20); hw != 15 || !rose {
		t.Fatalf("%d, %t, want 15", hw, rose)
	}
	if o := l.Fetched(Fetched{Replica: 2, Offset: 3, LogEnd: 20}, at(0)); o.HW != 15 || o.Rose {
		t.Fatalf("%+v: the high watermark fell with a follower", o)
	}
}

func TestExpand(t *testing.T) {
	for _, c := range []struct {
		name     string
		hw       int64 // by the replicas 1 and 2
		offset   int64 // of replica 3
		proposes bool
	}{
		{"below the high watermark", 30, 29, false},
		{"at the high watermark", 30, 30, true},
		{"beyond it", 30, 31, true},
		{"at the high watermark, but not yet where this epoch begins", 15, 19, false},
		{"where this epoch begins", 15, 20, true},
	} {
		l := leaderOf([]int32{1, 2}, 1, 20)
		l.Durable(40)
		l.Fetched(Fetched{Replica: 2, Offset: c.hw, LogEnd: 40}, at(0))
		if l.HW() != c.hw {
			t.Fatalf("%s: high watermark %d, want %d", c.name, l.HW(), c.hw)
		}
		o := l.Fetched(Fetched{Replica: 3, BrokerEpoch: 77, Offset: c.offset, LogEnd: 40}, at(0))
		if (o.Propose != nil) != c.proposes {
			t.Errorf("%s: proposal %+v", c.name, o.Propose)
		}
		if p := o.Propose; p != nil && (!slices.Equal(ids(p), []int32{1, 2, 3}) || p.ISR[2].BrokerEpoch != 77 || p.PartitionEpoch != 9 || p.Epoch != 5) {
			t.Errorf("%s: proposal %+v", c.name, p)
		}
	}
}

// TestPendingCounts: a follower that is proposed counts for the high watermark from then on (KIP-497).
func TestPendingCounts(t *testing.T) {
	l := leaderOf([]int32{1, 2}, 1, 10)
	l.Fetched(Fetched{Replica: 2, Offset: 10, LogEnd: 10}, at(0))
	p := l.Fetched(Fetched{Replica: 3, Offset: 10, LogEnd: 10}, at(0)).Propose
	l.Durable(20)
	if o := l.Fetched(Fetched{Replica: 2, Offset: 20, LogEnd: 20}, at(0)); o.HW != 10 {
		t.Fatalf("high watermark %d passes a follower that may be in the ISR", o.HW)
	}
	if o := l.Refused(p, RefusedStale, at(0)); o.HW != 10 || l.Proposed() == nil {
		t.Fatalf("%+v: a stale proposal may have been taken", o)
	}
	if o := l.Refused(p, RefusedIneligible, at(0)); o.HW != 20 || !o.Rose {
		t.Fatalf("%+v, want 20: it was not taken", o)
	}
	if o := l.Fetched(Fetched{Replica: 3, Offset: 20, LogEnd: 20}, at(0)); o.Propose != nil {
		t.Fatalf("proposed again at once: %+v", o.Propose)
	}
	if o := l.Fetched(Fetched{Replica: 3, Offset: 20, LogEnd: 20}, at(2)); o.Propose == nil {
		t.Fatal("not proposed again after a while")
	}
}

// TestDoubtful: an attempt without an answer may be executed after a later one was found ineligible.
func TestDoubtful(t *testing.T) {
	l := leaderOf([]int32{1, 2}, 1, 10)
	l.Fetched(Fetched{Replica: 2, Offset: 10, LogEnd: 10}, at(0))
	p := l.Fetched(Fetched{Replica: 3, Offset: 10, LogEnd: 10}, at(0)).Propose
	if o := l.Refused(p, RefusedRetry, at(0)); o.Propose != p {
		t.Fatalf("%+v, want the same again", o)
	}
	l.Durable(20)
	l.Fetched(Fetched{Replica: 2, Offset: 20, LogEnd: 20}, at(1))
	if o := l.Refused(p, RefusedIneligible, at(1)); o.HW != 10 {
		t.Fatalf("high watermark %d passes a follower that the first attempt may yet put into the ISR", o.HW)
	}
	if o := l.Updated(10, []int32{1, 2}, []int32{1, 2, 3}, at(1)); o.HW != 20 {
		t.Fatalf("%+v, want 20: the partition epoch has moved on, the attempt is void", o)
	}
}

func TestShrink(t *testing.T) {
	l := leaderOf([]int32{1, 2, 3}, 1, 10)
	for _, id := range []int32{2, 3} {
		l.Fetched(Fetched{Replica: id, Offset: 10, LogEnd: 10}, at(0))
	}
	// Idle for long: nobody fetches, nobody lags.
	if o := l.Tick(at(100), 10); o.Propose != nil {
		t.Fatalf("idle: %+v", o.Propose)
	}
	l.Durable(20)
	if o := l.Tick(at(105), 20); o.Propose != nil {
		t.Fatalf("first seen behind: %+v", o.Propose)
	}
	l.Fetched(Fetched{Replica: 2, Offset: 20, LogEnd: 20}, at(106))
	if due, ok := l.Deadline(); !ok || due.After(at(115)) {
		t.Fatalf("deadline %v, %t", due, ok)
	}
	if o := l.Tick(at(114), 20); o.Propose != nil {
		t.Fatalf("not long enough behind: %+v", o.Propose)
	}
	o := l.Tick(at(115), 20)
	if !slices.Equal(ids(o.Propose), []int32{1, 2}) {
		t.Fatalf("proposal %+v, want without 3", o.Propose)
	}
	if o.HW != 10 {
		t.Fatalf("high watermark %d before the controller agrees", o.HW)
	}
	if o := l.Tick(at(116), 20); o.Propose != nil {
		t.Fatal("two proposals at once")
	}
	if o := l.Updated(10, []int32{1, 2}, []int32{1, 2, 3}, at(116)); o.HW != 20 || !o.Rose {
		t.Fatalf("%+v, want 20", o)
	}
	// One who always is a little behind, but has got what there was when it asked before, does not lag.
	end := int64(20)
	for s := 117; s < 150; s++ {
		end += 5
		l.Fetched(Fetched{Replica: 2, Offset: end - 5, LogEnd: end}, at(s))
		if o := l.Tick(at(s), end); o.Propose != nil {
			t.Fatalf("%d: a follower that keeps up is dropped: %+v", s, o.Propose)
		}
	}
}

func TestStaleUpdate(t *testing.T) {
	l := leaderOf([]int32{1, 2, 3}, 1, 10)
	for _, epoch := range []int32{8, 9} {
		if o := l.Updated(epoch, []int32{1}, []int32{1, 2, 3}, at(0)); o.Rose || len(l.ISR()) != 3 {
			t.Errorf("partition epoch %d was taken over: %v", epoch, l.ISR())
		}
	}
	if o := l.Fetched(Fetched{Replica: 9, Offset: 50, LogEnd: 10}, at(0)); o.Rose || o.Propose != nil {
		t.Errorf("a stranger's fetch: %+v", o)
	}
}

func TestMinISRHoldsHighWatermark(t *testing.T) {
	l := leaderOf([]int32{1}, 2, 10)
	l.Durable(20)
	if l.HW() != 0 || l.Enough() {
		t.Fatalf("high watermark %d with one of two", l.HW())
	}
	if o := l.SetMinISR(1); o.HW != 20 || !l.Enough() {
		t.Fatalf("%+v", o)
	}
	if few := NewLeader(LeaderConfig{Self: 1, Replicas: []int32{1}, ISR: []int32{1}, MinISR: 3, Durable: 7}, began); few.HW() != 7 {
		t.Fatalf("high watermark %d of the only replica, want 7", few.HW())
	}
}

// attempt is one sending of a proposal.
type attempt struct {
	*ISRChange
	sent time.Time
}

// TestLeaderModel runs a leader against followers and a controller that answers late, twice or never, and checks what must always hold.
func TestLeaderModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := []int32{1, 2, 3, 4}
		isr := []int32{1, 2, 3}
		start := int64(rapid.IntRange(0, 20).Draw(t, "start"))
		l := NewLeader(LeaderConfig{Self: 1, Epoch: 5, PartitionEpoch: 1, Replicas: replicas, ISR: isr,
			MinISR: rapid.IntRange(1, 3).Draw(t, "minISR"), Start: start, Durable: start / 2, LagMax: 10 * time.Second}, began)
		durable := map[int32]int64{1: start / 2}
		end, now, hw := start, began, int64(0)
		epoch := int32(1)
		var inFlight []attempt // at the controller or on their way
		note := func(o Outcome) {
			if o.Propose != nil {
				inFlight = append(inFlight, attempt{o.Propose, now})
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			before := l.Proposed()
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0:
				end += int64(rapid.IntRange(1, 5).Draw(t, "n"))
			case 1:
				durable[1] = rapid.Int64Range(durable[1], end).Draw(t, "own")
				l.Durable(durable[1])
			case 2, 3:
				id := int32(rapid.IntRange(2, 4).Draw(t, "who"))
				durable[id] = rapid.Int64Range(durable[id], end).Draw(t, "got")
				o := l.Fetched(Fetched{Replica: id, Offset: durable[id], LogEnd: end}, now)
				if o.Propose != nil && o.Propose != before && (durable[id] < l.HW() || durable[id] < start) {
					t.Fatalf("%d at %d is proposed, high watermark %d, epoch start %d", id, durable[id], l.HW(), start)
				}
				note(o)
			case 4:
				now = now.Add(time.Duration(rapid.IntRange(1, 12).Draw(t, "s")) * time.Second)
				note(l.Tick(now, end))
			case 5: // the controller executes one that arrived, if it is not void
				if len(inFlight) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(inFlight)-1).Draw(t, "which")
				c := inFlight[i].ISRChange
				if c.PartitionEpoch == epoch && slices.Equal(ids(c), isr) {
					note(l.Confirmed(c)) // nothing to change
				} else if c.PartitionEpoch == epoch && now.Sub(inFlight[i].sent) <= 10*time.Second {
					isr, epoch = ids(c), epoch+1
				} else if rapid.Bool().Draw(t, "answered") {
					note(l.Refused(c, RefusedStale, now))
				}
				inFlight = slices.Delete(inFlight, i, i+1)
			case 6: // the metadata arrives
				note(l.Updated(epoch, isr, replicas, now))
			case 7:
				if c := l.Proposed(); c != nil {
					if why := rapid.SampledFrom([]Refusal{RefusedRetry, RefusedIneligible}).Draw(t, "why"); why == RefusedRetry {
						note(l.Refused(c, why, now)) // the attempt may still arrive
					} else {
						// It is the outcome of one attempt, found while the partition epoch was right. Others may still arrive.
						i := slices.IndexFunc(inFlight, func(a attempt) bool { return a.ISRChange == c })
						if i >= 0 && c.PartitionEpoch == epoch {
							inFlight = slices.Delete(inFlight, i, i+1)
							note(l.Refused(c, why, now))
						}
					}
				}
			}
			if l.HW() < hw {
				t.Fatalf("high watermark fell from %d to %d", hw, l.HW())
			}
			if l.HW() > hw {
				for _, id := range isr { // as the controller has it, whether or not the leader knows
					if durable[id] < l.HW() {
						t.Fatalf("high watermark rose to %d and %d of the ISR %v has %d", l.HW(), id, isr, durable[id])
					}
				}
			}
			hw = l.HW()
			for _, c := range inFlight {
				if c.PartitionEpoch > epoch {
					t.Fatalf("a proposal of partition epoch %d, it is %d", c.PartitionEpoch, epoch)
				}
			}
		}
	})
}
