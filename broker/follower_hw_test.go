package broker

import (
	"testing"
	"time"

	"weir/netproto"
)

// TestHighWatermarkIsToldWithoutRecords: a follower that took a record before it was committed hears of the high watermark although nothing is
// appended any more, and without asking again.
func TestHighWatermarkIsToldWithoutRecords(t *testing.T) {
	f, produce := newFakeFollower(t)
	end := int64(3)
	answer := f.fetch(followedAsk{offset: end, last: 0, topic: f.topic})
	id, epoch := answer.SessionID, int32(1)
	told := int64(-1)
	note := func(a netproto.FetchAnswer) (got int) {
		if len(a.Partitions) == 0 {
			return 0
		}
		got = records(t, a)
		told = a.Partitions[0].HighWatermark
		return got
	}
	note(answer)
	seen := 0
	for range 200 {
		// It waits at the end of the log; the append wakes it, and the leader's own disk has yet to confirm.
		waiting := make(chan netproto.FetchAnswer, 1)
		go func() {
			a, err := f.try(followedAsk{session: id, epoch: epoch, offset: end, last: 0, topic: f.topic, wait: 2 * clusterWait})
			if err != nil {
				t.Error(err)
			}
			waiting <- a
		}()
		produce()
		end++
		a := <-waiting
		epoch++
		if note(a) == 0 { // of the high watermark before
			a = f.fetch(followedAsk{session: id, epoch: epoch, offset: end - 1, last: 0, topic: f.topic, wait: 2 * clusterWait})
			epoch++
			if note(a) != 1 {
				t.Fatalf("the record at %d: %+v", end-1, a)
			}
		}
		if told == end {
			continue
		}
		seen++
		a = f.fetch(followedAsk{session: id, epoch: epoch, offset: end, last: 0, topic: f.topic, wait: 2 * clusterWait})
		epoch++
		if n := note(a); n != 0 || told != end {
			t.Fatalf("at the end, %d: %d records, high watermark %d: %+v", end, n, told, a)
		}
		if seen == 5 {
			return
		}
	}
	if seen == 0 {
		t.Fatal("in 200 tries the leader's disk was always faster than the follower's fetch: nothing was tested")
	}
}

func TestHastenBringsForwardOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	f := &followerFetch{until: now.Add(time.Second)}
	if !f.hasten(now) || !f.until.Equal(now.Add(highWatermarkDelay)) {
		t.Fatalf("until %v", f.until.Sub(now))
	}
	// A high watermark that goes on rising must not put the answer off.
	if f.hasten(now.Add(highWatermarkDelay/2)) || !f.until.Equal(now.Add(highWatermarkDelay)) {
		t.Fatalf("the second time: until %v", f.until.Sub(now))
	}
	soon := &followerFetch{until: now.Add(highWatermarkDelay)}
	if soon.hasten(now) || !soon.until.Equal(now.Add(highWatermarkDelay)) {
		t.Fatalf("one that ends no later: until %v", soon.until.Sub(now))
	}
}
