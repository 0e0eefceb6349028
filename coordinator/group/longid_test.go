package group

import (
	"strings"
	"testing"
	"time"
)

// TestLongClientIDKeepsThePartitionReadable: a client whose id is as long as Kafka's protocol allows must not make the group's partition unreadable.
func TestLongClientIDKeepsThePartitionReadable(t *testing.T) {
	for _, static := range []bool{false, true} {
		st := newFakeStorage()
		o := Options{Storage: st, Partitions: 1, Clock: newFakeClock(), InitialRebalanceDelay: 0}
		c := New(o)
		if err := c.Load(0, 0); err != nil {
			t.Fatal(err)
		}
		if code := commitOne(c, "other", "topic", 42); code != OK {
			t.Fatal(code)
		}
		var a, b JoinResult
		join := func(member, client string, instance *string, to *JoinResult) {
			c.JoinGroup(&JoinRequest{Group: "g", MemberID: member, InstanceID: instance, ClientID: client, ProtocolType: "x", Protocols: []Protocol{{Name: "range"}},
				SessionTimeout: 10 * time.Second, RebalanceTimeout: 10 * time.Second}, func(r JoinResult) { *to = r })
		}
		join("", "normal", nil, &a)
		o.Clock.(*fakeClock).Advance(time.Millisecond)
		if a.Code != OK {
			t.Fatalf("%+v", a)
		}
		long := strings.Repeat("c", 1<<15-1)
		leader := a.MemberID
		if static {
			join("", "normal", &long, &b)
		} else {
			join("", long, nil, &b)
		}
		join(leader, "normal", nil, &a)
		o.Clock.(*fakeClock).Advance(time.Millisecond)
		t.Logf("leader: %v generation %d; other: %v, member id of %d bytes", a.Code, a.Generation, b.Code, len(b.MemberID))
		var code Code
		c.SyncGroup(&SyncRequest{Group: "g", Generation: a.Generation, MemberID: leader}, func(r SyncResult) { code = r.Code })
		t.Logf("sync: %v", code)
		c.Close()

		c = New(o) // the next leader
		if err := c.Load(0, 0); err != nil {
			t.Errorf("static %t: the partition cannot be loaded any more: %.200v", static, err)
		}
		c.Close()
	}
}
