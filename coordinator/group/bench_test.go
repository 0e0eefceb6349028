package group

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkHeartbeat is one heartbeat among 10,000 groups of one member.
func BenchmarkHeartbeat(b *testing.B) {
	clk := newFakeClock()
	c := New(Options{Storage: newFakeStorage(), Clock: clk})
	defer c.Close()
	for p := range int32(50) {
		if err := c.Load(p, 0); err != nil {
			b.Fatal(err)
		}
	}
	beats := make([]HeartbeatRequest, 10_000)
	for i := range beats {
		r := &beats[i]
		r.Group = fmt.Sprint("group-", i)
		c.JoinGroup(&JoinRequest{
			Group: r.Group, ProtocolType: "consumer", Protocols: []Protocol{{Name: "range"}}, SessionTimeout: 45 * time.Second,
			RebalanceTimeout: time.Minute,
		}, func(res JoinResult) { r.Generation, r.MemberID = res.Generation, res.MemberID })
	}
	clk.Advance(time.Second)
	for i := range beats {
		c.SyncGroup(&SyncRequest{Group: beats[i].Group, Generation: 1, MemberID: beats[i].MemberID}, func(SyncResult) {})
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if code := c.Heartbeat(&beats[n%len(beats)]); code != OK {
			b.Fatal(code)
		}
		n++
	}
}

// BenchmarkRebalance1000 is a rebalance of a group of 1,000 members, from the first join to the last assignment.
func BenchmarkRebalance1000(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		clk := newFakeClock()
		c := New(Options{Storage: newFakeStorage(), Clock: clk, Partitions: 1})
		if err := c.Load(0, 0); err != nil {
			b.Fatal(err)
		}
		var joined []JoinResult
		for range 1000 {
			c.JoinGroup(&JoinRequest{
				Group: "g", ProtocolType: "consumer", Protocols: []Protocol{{Name: "range", Metadata: make([]byte, 100)}},
				SessionTimeout: 45 * time.Second, RebalanceTimeout: time.Minute,
			}, func(res JoinResult) { joined = append(joined, res) })
		}
		clk.Advance(time.Second)
		synced := 0
		for _, j := range joined {
			r := &SyncRequest{Group: "g", Generation: j.Generation, MemberID: j.MemberID}
			for _, m := range j.Members {
				r.Assignments = append(r.Assignments, Assignment{m.MemberID, make([]byte, 100)})
			}
			c.SyncGroup(r, func(res SyncResult) {
				if res.Code == OK {
					synced++
				}
			})
		}
		if synced != 1000 {
			b.Fatal(synced)
		}
		c.Close()
	}
}
