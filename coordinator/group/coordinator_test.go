package group

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/record"
)

// TestPartitionFor checks against what Java's String.hashCode gives.
func TestPartitionFor(t *testing.T) {
	c := New(Options{Storage: newFakeStorage()})
	defer c.Close()
	for group, want := range map[string]int32{"": 0, "abc": 96354 % 50, "polygenelubricants": 0, "ä€😀": 16603051 % 50} {
		if got := c.PartitionFor(group); got != want {
			t.Errorf("%q is in partition %d, want %d", group, got, want)
		}
	}
}

// loadingStorage lets a test look while a partition loads.
type loadingStorage struct {
	*fakeStorage
	during func()
}

func (s loadingStorage) Load(p, epoch int32, fn func(*record.Record) error) error {
	if s.during != nil {
		s.during()
	}
	return s.fakeStorage.Load(p, epoch, fn)
}

func joinCode(c *Coordinator, group string) (code Code) {
	c.JoinGroup(&JoinRequest{
		Group: group, ProtocolType: "consumer", Protocols: []Protocol{{Name: "range"}}, SessionTimeout: 10 * time.Second,
		RequireKnownMember: true,
	}, func(r JoinResult) { code = r.Code })
	return code
}

func commitOne(c *Coordinator, group, topic string, offset int64) (code Code) {
	c.CommitOffsets(&CommitRequest{Group: group, Generation: -1, Retention: -1, Topics: []CommitTopic{{
		Name: topic, Partitions: []CommitPartition{{Offset: offset, LeaderEpoch: -1}},
	}}}, func(c Code) { code = c })
	return code
}

func TestWhileLoading(t *testing.T) {
	st := &loadingStorage{fakeStorage: newFakeStorage()}
	o := Options{Storage: st, Partitions: 2, Clock: newFakeClock()}
	c := New(o)
	group := "g"
	p := c.PartitionFor(group)
	if got := joinCode(c, group); got != NotCoordinator {
		t.Fatalf("not loaded: %s", got)
	}
	if err := c.Load(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(p, 0); !errors.Is(err, ErrOwned) {
		t.Fatalf("loaded twice: %v", err)
	}
	for i, topic := range []string{"kept", "gone"} {
		if code := commitOne(c, group, topic, int64(i)); code != OK {
			t.Fatal(code)
		}
	}
	c.Close()
	if got := joinCode(c, group); got != CoordinatorNotAvailable {
		t.Fatalf("closed: %s", got)
	}

	c = New(o)
	defer c.Close()
	st.during = func() {
		if got := joinCode(c, group); got != CoordinatorLoadInProgress {
			t.Errorf("join: %s", got)
		}
		if got := c.Heartbeat(&HeartbeatRequest{Group: group, MemberID: "m"}); got != OK {
			t.Errorf("heartbeat: %s", got)
		}
		if got := c.Describe(group).Code; got != CoordinatorLoadInProgress {
			t.Errorf("describe: %s", got)
		}
		if _, got := c.List(); got != CoordinatorLoadInProgress {
			t.Errorf("list: %s", got)
		}
		c.TopicDeleted("gone", [16]byte{})
	}
	if err := c.Load(p, 0); err != nil {
		t.Fatal(err)
	}
	var got OffsetsResult
	c.FetchOffsets(&OffsetsRequest{Group: group}, func(r OffsetsResult) { got = r })
	if len(got.Topics) != 1 || got.Topics[0].Name != "kept" {
		t.Fatalf("offsets %+v", got)
	}
}

// TestOvertakenLoad: what a slow load finds must not appear after the partition has moved on, and what is told late does not count.
func TestOvertakenLoad(t *testing.T) {
	for _, tt := range []struct {
		name   string
		during func(c *Coordinator) // while epoch 5 is being loaded
		want   Code                 // of a look at the group then
	}{
		{"unloaded", func(c *Coordinator) { c.Unload(0, 6) }, NotCoordinator},
		{"unloaded in its own epoch", func(c *Coordinator) { c.Unload(0, 5) }, NotCoordinator},
		{"unloaded and claimed", func(c *Coordinator) { c.Unload(0, 6); claim(t, c, 7, nil) }, CoordinatorLoadInProgress},
		{"claimed again", func(c *Coordinator) { claim(t, c, 7, nil) }, CoordinatorLoadInProgress},
		{"unloaded, and claimed too late", func(c *Coordinator) { c.Unload(0, 6); claim(t, c, 5, ErrOvertaken); claim(t, c, 6, ErrOvertaken) }, NotCoordinator},
		{"unload of an older epoch", func(c *Coordinator) { c.Unload(0, 4); claim(t, c, 5, ErrOwned); claim(t, c, 4, ErrOvertaken) }, OK},
		{"gone and made anew", func(c *Coordinator) { c.Forget(0); claim(t, c, 0, nil) }, CoordinatorLoadInProgress},
		{"no such partition", func(c *Coordinator) { c.Unload(9, 9); c.Forget(9) }, OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := &loadingStorage{fakeStorage: newFakeStorage()}
			st.epoch = 5
			st.store(0, []record.Record{offsetRecord("g", "t", 0, &offset{offset: 1, leaderEpoch: -1}, 1)})
			c := New(Options{Storage: st, Partitions: 1, Clock: newFakeClock()})
			defer c.Close()
			st.during = func() { tt.during(c) }
			err := c.Load(0, 5)
			if overtaken := tt.want != OK; errors.Is(err, ErrOvertaken) != overtaken || (err != nil) != overtaken {
				t.Errorf("load: %v", err)
			}
			if got := c.Describe("g").Code; got != tt.want {
				t.Errorf("then the group is %s, want %s", got, tt.want)
			}
		})
	}
}

func claim(t *testing.T, c *Coordinator, epoch int32, want error) {
	t.Helper()
	if _, err := c.Claim(0, epoch); !errors.Is(err, want) {
		t.Errorf("claim of epoch %d: %v, want %v", epoch, err, want)
	}
}

// TestFailedLoadIsClaimedAgain: a load that the disk failed can be tried again in the same epoch.
func TestFailedLoadIsClaimedAgain(t *testing.T) {
	st := &loadingStorage{fakeStorage: newFakeStorage()}
	st.epoch = 1 // not the one that is claimed: the storage refuses
	c := New(Options{Storage: st, Partitions: 1, Clock: newFakeClock()})
	defer c.Close()
	if err := c.Load(0, 0); !errors.Is(err, ErrNotLeader) || errors.Is(err, ErrOvertaken) {
		t.Fatalf("load: %v", err)
	}
	st.epoch = 0
	if err := c.Load(0, 0); err != nil {
		t.Fatal(err)
	}
	if code := commitOne(c, "g", "t", 1); code != OK {
		t.Fatal(code)
	}
}

// TestUnloadAnswersAll: whoever waits when the partition's leadership goes is answered at once, but for commits, whose end the storage
// tells; no timer is left, and the group is back, with its offsets, when the partition is.
func TestUnloadAnswersAll(t *testing.T) {
	clk, st := newFakeClock(), newFakeStorage()
	c := New(Options{Storage: st, Partitions: 1, Clock: clk, InitialRebalanceDelay: time.Hour})
	defer c.Close()
	if err := c.Load(0, 0); err != nil {
		t.Fatal(err)
	}
	if code := commitOne(c, "store", "t", 7); code != OK {
		t.Fatal(code)
	}
	joined := make(chan Code, 1)
	c.JoinGroup(&JoinRequest{
		Group: "g", ProtocolType: "consumer", Protocols: []Protocol{{Name: "range"}}, SessionTimeout: 10 * time.Second,
	}, func(r JoinResult) { joined <- r.Code })
	st.held = true
	committed, stable := make(chan Code, 1), make(chan Code, 1)
	c.CommitOffsets(&CommitRequest{Group: "store", Generation: -1, Retention: -1, Topics: []CommitTopic{{
		Name: "t", Partitions: []CommitPartition{{Offset: 8, LeaderEpoch: -1}},
	}}}, func(code Code) { committed <- code })
	c.FetchOffsets(&OffsetsRequest{Group: "store", RequireStable: true}, func(r OffsetsResult) { stable <- r.Code })
	c.Unload(0, 1)
	select {
	case code := <-joined:
		if code != NotCoordinator {
			t.Errorf("the join was told %s", code)
		}
	default:
		t.Error("the join still waits")
	}
	st.complete(-1, fmt.Errorf("leads no more: %w", ErrNotLeader))
	if a, b := <-committed, <-stable; a != NotCoordinator || b != NotCoordinator {
		t.Errorf("the commit was told %s, the read %s", a, b)
	}
	c.timers.mu.Lock()
	armed := len(c.timers.mu.heap)
	c.timers.mu.Unlock()
	if armed != 0 {
		t.Errorf("%d timers are left", armed)
	}
	st.held, st.epoch = false, 2
	if err := c.Load(0, 2); err != nil {
		t.Fatal(err)
	}
	var got OffsetsResult
	c.FetchOffsets(&OffsetsRequest{Group: "store"}, func(r OffsetsResult) { got = r })
	if len(got.Topics) != 1 || got.Topics[0].Partitions[0].Offset != 7 {
		t.Errorf("offsets after the return: %+v", got)
	}
}

func TestLoadRecords(t *testing.T) {
	good := offsetRecord("g", "t", 0, &offset{offset: 1, leaderEpoch: -1}, 1)
	for _, tt := range []struct {
		name string
		log  []record.Record
		err  string
		says string
	}{
		{"later kind", []record.Record{{Key: []byte{0, 5, 1, 2}, Value: []byte("x")}, good}, "", "key_version=5"},
		{"negative kind", []record.Record{{Key: []byte{0xff, 0xff}}, good}, "", "key_version=-1"},
		{"no key", []record.Record{good, {Value: []byte("x")}}, "record at offset 1: corrupt group record: key of 0 bytes", ""},
		{"cut value", []record.Record{{Key: good.Key, Value: good.Value[:9]}}, "record at offset 0", ""},
		{"cut key", []record.Record{{Key: good.Key[:6], Value: good.Value}}, "record at offset 0", ""},
		{"later value", []record.Record{{Key: good.Key, Value: []byte{0, 5, 0}}}, "version 5", ""},
		{"tombstone of nothing", []record.Record{groupTombstone("x", 1), offsetTombstone("x", "t", 0, 1), good}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			st := newFakeStorage()
			st.store(0, tt.log)
			c := New(Options{Storage: st, Partitions: 1, Clock: newFakeClock(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
			defer c.Close()
			err := c.Load(0, 0)
			if tt.err != "" {
				if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				if got := c.Describe("g").Code; got != NotCoordinator {
					t.Fatalf("a partition that was not loaded is %s", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(log.String(), tt.says) {
				t.Fatalf("log %q does not say %q", log.String(), tt.says)
			}
			if got := c.Describe("g"); got.Code != OK {
				t.Fatalf("group %+v", got)
			}
		})
	}
}

// TestOldValues: every version of the values that Kafka ever wrote.
func TestOldValues(t *testing.T) {
	o := offset{offset: 7, leaderEpoch: 3, metadata: "m", committedMs: 11}
	for v, b := range map[int][]byte{
		0: {0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1, 'm', 0, 0, 0, 0, 0, 0, 0, 11},
		1: {0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1, 'm', 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 99},
		2: {0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1, 'm', 0, 0, 0, 0, 0, 0, 0, 11},
		3: {0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 1, 'm', 0, 0, 0, 0, 0, 0, 0, 11},
		4: {0, 4, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 2, 'm', 0, 0, 0, 0, 0, 0, 0, 11, 0},
	} {
		got, err := decodeOffsetValue(b)
		want := o
		if v < 3 {
			want.leaderEpoch = -1
		}
		if v == 1 {
			want.expireMs = 99
		}
		if err != nil || got != want {
			t.Errorf("version %d: %+v, %v", v, got, err)
		}
	}
}

// TestGroupBytes: a group cannot be made to hold more than its bound, by ids, metadata or assignments.
func TestGroupBytes(t *testing.T) {
	w := newWorld(Options{GroupBytesMax: 4096})
	defer w.c.Close()
	join := func(meta int, member string, known bool) (res JoinResult) {
		w.c.JoinGroup(&JoinRequest{
			Group: "g", MemberID: member, ProtocolType: "p", Protocols: []Protocol{{Name: "x", Metadata: make([]byte, meta)}},
			SessionTimeout: 10 * time.Second, RequireKnownMember: known,
		}, func(r JoinResult) { res = r })
		return res
	}
	if got := join(4096, "", false).Code; got != GroupMaxSizeReached {
		t.Fatalf("too large a member: %s", got)
	}
	n := 0
	for ; join(0, "", true).Code == MemberIDRequired; n++ {
	}
	if n == 0 || n > 4096/memberBytes {
		t.Fatalf("%d pending members", n)
	}
	w.clk.Advance(11 * time.Second)
	if got := w.c.Describe("g").Code; got != GroupIDNotFound {
		t.Fatalf("the group outlives its pending members: %s", got)
	}
	var a JoinResult
	w.c.JoinGroup(&JoinRequest{Group: "g", ProtocolType: "p", Protocols: []Protocol{{Name: "x"}}, SessionTimeout: 10 * time.Second,
		RebalanceTimeout: time.Minute}, func(r JoinResult) { a = r })
	w.clk.Advance(time.Millisecond)
	if a.Code != OK {
		t.Fatalf("join: %+v", a)
	}
	var s SyncResult
	w.c.SyncGroup(&SyncRequest{Group: "g", Generation: a.Generation, MemberID: a.MemberID, Assignments: []Assignment{{a.MemberID, make([]byte, 5000)}}},
		func(r SyncResult) { s = r })
	if s.Code != UnknownServerError {
		t.Fatalf("too large an assignment: %+v", s)
	}
	if got := join(5000, a.MemberID, false).Code; got != GroupMaxSizeReached {
		t.Fatalf("a member that grows: %s", got)
	}
}

// TestHeartbeatsArmNothing: re-arming to later times leaves the heap and the clock alone.
func TestHeartbeatsArmNothing(t *testing.T) {
	w := newWorld(Options{})
	defer w.c.Close()
	w.run("join a")
	w.run("advance 1s")
	w.run("sync a assign=a:A")
	armed := w.clk.armed
	for range 1000 {
		w.run("beat a")
	}
	if w.clk.armed != armed {
		t.Fatalf("%d timers armed by heartbeats", w.clk.armed-armed)
	}
	for range 100 {
		w.run("beat a")
		w.run("advance 1s")
	}
	if n := w.clk.armed - armed; n > 60 {
		t.Fatalf("%d timers armed in 100 s of heartbeats", n)
	}
	if d := w.c.Describe("g"); d.State != Stable {
		t.Fatalf("%+v", d)
	}
}

// TestOutOfOrderCompletions: storage may report the ends of appends in any order; the log's order counts.
func TestOutOfOrderCompletions(t *testing.T) {
	st := newFakeStorage()
	c := New(Options{Storage: st, Partitions: 1, Clock: newFakeClock()})
	defer c.Close()
	if err := c.Load(0, 0); err != nil {
		t.Fatal(err)
	}
	st.held = true
	commitOne(c, "g", "t", 1)
	commitOne(c, "g", "t", 2)
	var stable OffsetsResult
	c.FetchOffsets(&OffsetsRequest{Group: "g", RequireStable: true}, func(r OffsetsResult) { stable = r })
	first, second := st.pending[0], st.pending[1]
	second.done(nil)
	if stable.Topics != nil {
		t.Fatalf("a stable read did not wait: %+v", stable)
	}
	first.done(nil)
	first.done(errFake) // twice: ignored
	if len(stable.Topics) != 1 || stable.Topics[0].Partitions[0].Offset != 2 {
		t.Fatalf("stable read: %+v", stable)
	}
}

// slowStorage completes appends on another goroutine.
type slowStorage struct {
	*fakeStorage
	work sync.WaitGroup
}

func (s *slowStorage) Append(p, epoch int32, rs []record.Record, done func(error)) {
	s.work.Go(func() { s.fakeStorage.Append(p, epoch, rs, done) })
}

// TestConcurrent has many real clients at once; it is for the race detector, and every request must be answered.
func TestConcurrent(t *testing.T) {
	st := &slowStorage{fakeStorage: newFakeStorage()}
	c := New(Options{Storage: st, Partitions: 3, Clock: clock.Real{}})
	var wg sync.WaitGroup
	for p := range int32(3) { // while clients come already
		wg.Go(func() {
			if err := c.Load(p, 0); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 12 {
		wg.Go(func() {
			group := fmt.Sprintf("g%d", i%4)
			for range 30 {
				done := make(chan JoinResult, 1)
				c.JoinGroup(&JoinRequest{
					Group: group, ProtocolType: "consumer", Protocols: []Protocol{{Name: "range"}}, ClientID: "c",
					SessionTimeout: 6 * time.Second, RebalanceTimeout: time.Second,
				}, func(r JoinResult) { done <- r })
				// Leaving ends a join that is parked, whoever's it is.
				for _, m := range c.Describe(group).Members {
					c.LeaveGroup(&LeaveRequest{Group: group, Members: []LeaveMember{{MemberID: m.MemberID}}})
				}
				r := <-done
				synced := make(chan SyncResult, 1)
				c.SyncGroup(&SyncRequest{Group: group, Generation: r.Generation, MemberID: r.MemberID}, func(r SyncResult) { synced <- r })
				c.LeaveGroup(&LeaveRequest{Group: group, Members: []LeaveMember{{MemberID: r.MemberID}}})
				<-synced
				committed := make(chan Code, 1)
				c.CommitOffsets(&CommitRequest{Group: group + "-simple", Generation: -1, Retention: -1, Topics: []CommitTopic{{
					Name: "t", Partitions: []CommitPartition{{}},
				}}}, func(code Code) { committed <- code })
				<-committed
				c.List()
			}
		})
	}
	wg.Wait()
	c.Close() // a timer may write until then
	st.work.Wait()
}
