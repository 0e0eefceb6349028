package machine

import (
	"testing"
	"time"

	"weir/raftmeta"
)

func TestBrokerIsUnfencedWhenItHasSeenItsRegistration(t *testing.T) {
	w := newWorld(t)
	epoch := w.register(1, "", 1)
	if b := w.img.Broker(1); !b.Fenced || b.Epoch != epoch {
		t.Fatalf("registered as %+v with epoch %d", b, epoch)
	}
	for _, c := range []struct {
		applied  uint64
		caughtUp bool
	}{{uint64(epoch) - 1, false}, {uint64(epoch), true}} {
		v, err := w.one(&Heartbeat{Broker: 1, Epoch: epoch, Applied: c.applied})
		if a := v.(HeartbeatAnswer); err != nil || a.CaughtUp != c.caughtUp || a.Fenced == c.caughtUp || w.img.Broker(1).Fenced == c.caughtUp {
			t.Fatalf("applied %d: answer %+v, %v; broker %+v", c.applied, a, err, w.img.Broker(1))
		}
	}
}

func TestHeartbeatsOfTheUnknownAndOfFormerLives(t *testing.T) {
	w := newWorld(t)
	_, err := w.one(&Heartbeat{Broker: 7, Epoch: 1})
	wantErr(t, err, ErrUnknownBroker)
	w.join(nil, 1, 2)
	_, err = w.one(&Heartbeat{Broker: 2, Epoch: w.img.Broker(2).Epoch - 1})
	wantErr(t, err, ErrStaleBrokerEpoch)
	w.m.LeaveOffice()
	_, err = w.one(w.heartbeat(2))
	wantErr(t, err, ErrNotController)
	_, err = w.one(registration(2, "", 1))
	wantErr(t, err, ErrNotController)
}

func TestSingleNodeIsUnfencedAtOnceAndArmsNoTimer(t *testing.T) {
	w := newWorld(t)
	v, err := w.one(&Registration{ID: 1, Host: "h", Port: 9092})
	if err != nil || v.(int64) != w.img.Broker(1).Epoch || w.img.Broker(1).Fenced {
		t.Fatalf("%v, %v, %+v", v, err, w.img.Broker(1))
	}
	w.topic("a", []int32{1}, []int32{1})
	if at, ok := w.m.Deadline(); ok {
		t.Fatalf("deadline %v on a single node", at)
	}
	w.now = w.now.Add(time.Hour)
	w.round()
	w.is("a", 0, 1, 0, 1)
	// Its restart keeps leaders and their epochs: nobody else can have led.
	if _, err := w.one(&Registration{ID: 1, Host: "h", Port: 9092, Incarnation: incarnation(1, 2)}); err != nil {
		t.Fatal(err)
	}
	w.is("a", 0, 1, 0, 1)
	_, err = w.one(&Registration{ID: 2, Host: "h", Port: 9092})
	wantErr(t, err, ErrInvalidRequest)
}

func TestTopicsThatAreOlderThanTheRegistration(t *testing.T) {
	w := newWorld(t)
	w.commit(raftmeta.CreateTopic{Name: "a", ID: [16]byte{1}, Assignment: [][]int32{{1}}})
	w.m.LeaveOffice()
	w.m.TakeOffice(w.now)
	w.round()
	w.is("a", 0, 1, 0, 1)
	if _, err := w.one(&Registration{ID: 1, Host: "h", Port: 9092}); err != nil {
		t.Fatal(err)
	}
	w.is("a", 0, 1, 0, 1)
}

func TestAloneInAClusterNeedsNoHeartbeats(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1)
	if _, ok := w.m.Deadline(); ok {
		t.Fatal("a deadline with one broker")
	}
	w.now = w.now.Add(time.Hour)
	w.round()
	// From the second broker on it has to be heard of, beginning now.
	w.register(2, "", 1)
	if w.img.Broker(1).Fenced {
		t.Fatal("fenced for a silence that was allowed")
	}
	due, ok := w.m.Deadline()
	if !ok || !due.Equal(w.now.Add(sessionMax)) {
		t.Fatalf("deadline %v %v, want %v", due, ok, w.now.Add(sessionMax))
	}
}

func TestSilenceFencesInOneEntry(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 1, 2}, []int32{1, 3, 2}, []int32{2, 1})
	w.silent[3] = true
	w.pass(sessionMax - beat) // one beat before
	if w.img.Broker(3).Fenced {
		t.Fatal("fenced too early")
	}
	before := w.entries
	w.pass(beat)
	if !w.img.Broker(3).Fenced || w.entries != before+1 {
		t.Fatalf("fenced %v, in %d entries", w.img.Broker(3).Fenced, w.entries-before)
	}
	w.is("a", 0, 1, 1, 1, 2)
	w.is("a", 1, 1, 0, 1, 2)
	w.is("a", 2, 2, 0, 2, 1)
	cmds := w.last.Entries[0]
	if _, fence := cmds[0].(raftmeta.SetBroker); !fence {
		t.Fatalf("first command is %#v", cmds[0])
	}
	if c := cmds[1].(raftmeta.ChangePartition); c.Leader != 1 || c.Partition != 0 {
		t.Fatalf("leaders do not come first: %#v", c)
	}
	// Back again it is unfenced, but in sync only when the leaders say so.
	w.revive(3)
	if w.img.Broker(3).Fenced {
		t.Fatal("not unfenced")
	}
	w.is("a", 0, 1, 1, 1, 2)
}

func TestLastMemberKeepsItsPlace(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	w.kill(3)
	w.is("a", 0, 2, 1, 2)
	w.kill(2)
	w.is("a", 0, -1, 2, 2)
	w.revive(3) // it may miss what 2 has
	w.is("a", 0, -1, 2, 2)
	w.revive(2)
	w.is("a", 0, 2, 3, 2)
}

func TestAllMembersGoneAtOnceKeepTheirPlaces(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	w.kill(2, 3)
	w.is("a", 0, -1, 1, 3, 2)
	w.revive(2)
	w.is("a", 0, 2, 2, 2)
}

func TestUncleanElection(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topicWith("a", map[string]string{"unclean": "true"}, []int32{3, 2})
	w.topic("b", []int32{3, 2})
	w.setISR("a", 0, 3)
	w.setISR("b", 0, 3)
	w.kill(3)
	w.is("a", 0, 2, 1, 2)
	w.is("b", 0, -1, 1, 3)
	if w.m.Stats().Offline != 1 {
		t.Fatalf("offline partitions: %d, want 1", w.m.Stats().Offline)
	}
	// Allowing it later elects as well.
	w.commit(raftmeta.SetTopicConfigs{Topic: "b", Set: map[string]string{"unclean": "true"}})
	if due, ok := w.m.Deadline(); !ok || due.After(w.now) {
		t.Fatalf("nothing is due after the configuration changed: %v %v", due, ok)
	}
	w.round()
	w.is("b", 0, 2, 2, 2)
}

func TestRegistrationOfANewLife(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2}, []int32{3})
	epoch := w.img.Broker(3).Epoch
	// The same process again: nothing changes.
	if got := w.register(3, "", 1); got != epoch || w.img.Broker(3).Fenced {
		t.Fatalf("epoch %d, want %d; %+v", got, epoch, w.img.Broker(3))
	}
	// Another one while the first is alive.
	_, err := w.one(registration(3, "", 2))
	wantErr(t, err, ErrDuplicateBroker)
	// Its sessionMax over but not fenced yet: one entry has the registration and what follows from it.
	w.now = w.now.Add(sessionMax)
	for _, id := range []int32{1, 2} {
		w.m.Heard(w.heartbeat(id), w.now)
	}
	before := w.entries
	if got := w.register(3, "", 2); got <= epoch || w.entries != before+1 {
		t.Fatalf("epoch %d after %d, %d entries", got, epoch, w.entries-before)
	}
	if b := w.img.Broker(3); !b.Fenced || b.Incarnation != incarnation(3, 2) {
		t.Fatalf("%+v", b)
	}
	w.is("a", 0, 2, 1, 2)
	w.is("a", 1, -1, 1, 3)
	w.beat(3)
	w.is("a", 0, 2, 1, 2)
	w.is("a", 1, 3, 2, 3) // its own again, with a new epoch
}

// Who listens where the registered process did is its successor, unless that one is still heard of.
func TestQuickRestart(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	elsewhere := registration(3, "", 2)
	elsewhere.PeerPort++
	for _, c := range []struct {
		r      *Registration
		silent time.Duration
		want   error
	}{
		{registration(3, "", 2), sessionMax/replacedDiv - 1, ErrDuplicateBroker},
		{elsewhere, sessionMax - 1, ErrDuplicateBroker},
		{registration(3, "", 2), sessionMax / replacedDiv, nil},
	} {
		w.m.Heard(w.heartbeat(3), w.now)
		w.now = w.now.Add(c.silent)
		for _, id := range []int32{1, 2} {
			w.m.Heard(w.heartbeat(id), w.now)
		}
		if _, err := w.one(c.r); c.want != nil {
			wantErr(t, err, c.want)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if b := w.img.Broker(3); b.Incarnation != incarnation(3, 2) || !b.Fenced {
		t.Fatalf("%+v", b)
	}
	w.is("a", 0, 2, 1, 2)
}

func TestTwoRegistrationsOfOneIDInOneRound(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1)
	first, second := registration(2, "", 1), registration(2, "", 2)
	answers := w.round(first, second)
	if answers[first].Err != nil {
		t.Fatal(answers[first].Err)
	}
	wantErr(t, answers[second].Err, ErrDuplicateBroker)
}

func TestImpossibleRegistrationTouchesNothing(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	w.topic("a", []int32{2, 1})
	w.kill(2)
	w.revive(2)
	version := w.img.Version
	w.silent[2] = true
	w.now = w.now.Add(sessionMax)
	w.m.Heard(w.heartbeat(1), w.now)
	r := registration(3, "", 2)
	r.Port = 0
	_, err := w.one(r)
	wantErr(t, err, raftmeta.ErrInvalidBroker)
	if w.img.Broker(3) != nil || w.img.Version == version {
		t.Fatalf("broker %v; the fencing that was due did not happen", w.img.Broker(3))
	}
}

func TestPeerGoneFencesAtOnce(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	at := w.now.Add(time.Millisecond)
	w.now = w.now.Add(2 * time.Millisecond)
	w.m.PeerGone(3, at)
	due, ok := w.m.Deadline()
	if !ok || due.After(w.now) {
		t.Fatalf("deadline %v %v, now %v", due, ok, w.now)
	}
	w.round()
	w.is("a", 0, 2, 1, 2)
	// Its next life need not wait for the old one's session.
	if _, err := w.one(registration(3, "", 2)); err != nil {
		t.Fatal(err)
	}
	// Heard of since: it lives.
	at = w.now
	w.now = w.now.Add(time.Millisecond)
	w.beat(3)
	w.m.PeerGone(3, at)
	w.round()
	if w.img.Broker(3).Fenced {
		t.Fatal("fenced though it was heard of since")
	}
	w.m.PeerGone(1, w.now.Add(time.Second)) // itself: nonsense
	w.round()
	if w.img.Broker(1).Fenced {
		t.Fatal("the controller fenced its own node")
	}
}

func TestNewControllerGivesFullSessions(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	w.now = w.now.Add(time.Hour)
	w.m.LeaveOffice()
	w.m.TakeOffice(w.now)
	w.round()
	for _, b := range w.img.Brokers() {
		if b.Fenced {
			t.Fatalf("broker %d is fenced by a controller that has not listened yet", b.ID)
		}
	}
	if due, ok := w.m.Deadline(); !ok || !due.Equal(w.now.Add(sessionMax)) {
		t.Fatalf("deadline %v %v, want %v", due, ok, w.now.Add(sessionMax))
	}
	w.kill(3)
	w.is("a", 0, 2, 1, 2)
}

// The controller that heard of a death may be the one that died: what the others have seen of it counts.
func TestNewControllerFencesWhoIsKnownToBeGone(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	w.m.LeaveOffice()
	w.m.PeerGone(3, w.now)
	w.m.PeerGone(2, w.now)
	// Broker 2 has registered anew with the controller in between, so that is another process.
	w.index++
	img, _, _ := raftmeta.Apply(w.img, w.index, raftmeta.RegisterBroker{ID: 2, Host: "h", Port: 1, PeerHost: "h", PeerPort: 1, Incarnation: incarnation(2, 9)})
	w.img = img
	w.m.Observe(img, nil, w.now)
	w.now = w.now.Add(time.Second)
	w.m.TakeOffice(w.now)
	w.round()
	if !w.img.Broker(3).Fenced || w.img.Broker(2).Fenced {
		t.Fatalf("3: %+v, 2: %+v", w.img.Broker(3), w.img.Broker(2))
	}
	w.is("a", 0, 2, 1, 2)
}

func TestWhoSleptDoesNotFence(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	due, ok := w.m.Deadline()
	if !ok {
		t.Fatal("no deadline")
	}
	w.now = due.Add(sessionMax) // the machine was not run for that long
	w.m.Woke(due, w.now)
	w.round()
	for _, b := range w.img.Brokers() {
		if b.Fenced {
			t.Fatalf("broker %d is fenced", b.ID)
		}
	}
	due, _ = w.m.Deadline()
	w.now = due.Add(sessionMax / 4) // late, but not so late
	w.m.Woke(due, w.now)
	w.round()
	if !w.img.Broker(2).Fenced {
		t.Fatal("a silent broker is not fenced")
	}
}

func TestBrokerWhoseDiskStalls(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	h := w.heartbeat(3)
	h.WantFence = true
	v, err := w.one(h)
	if err != nil || !v.(HeartbeatAnswer).Fenced {
		t.Fatalf("%+v, %v", v, err)
	}
	w.is("a", 0, 2, 1, 2)
	entries := w.entries
	again := *h
	if v, err = w.one(&again); err != nil || !v.(HeartbeatAnswer).Fenced || w.entries != entries {
		t.Fatalf("%+v, %v, %d entries", v, err, w.entries-entries)
	}
	w.beat(3)
	if w.img.Broker(3).Fenced {
		t.Fatal("not unfenced")
	}
}

func TestControlledShutdown(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2}, []int32{3}, []int32{2, 3})
	shutdown := func() HeartbeatAnswer {
		h := w.heartbeat(3)
		h.WantShutdown = true
		v, err := w.one(h)
		if err != nil {
			t.Fatal(err)
		}
		return v.(HeartbeatAnswer)
	}
	if a := shutdown(); a.ShouldShutDown || a.Fenced || !w.img.Broker(3).ShuttingDown {
		t.Fatalf("%+v, %+v", a, w.img.Broker(3))
	}
	w.is("a", 0, 2, 1, 2)
	w.is("a", 1, 3, 0, 3) // nobody else has it
	w.is("a", 2, 2, 0, 2)
	// The others do not know the new leaders yet.
	if a := shutdown(); a.ShouldShutDown {
		t.Fatal("told to go before the others know")
	}
	r := w.setISR("a", 0, 2, 3)
	wantErr(t, r.Err, ErrIneligibleReplica)
	w.beat(1)
	w.beat(2)
	if a := shutdown(); !a.ShouldShutDown || !w.img.Broker(3).Fenced {
		t.Fatalf("%+v, %+v", a, w.img.Broker(3))
	}
	w.is("a", 1, -1, 1, 3)
	// A late heartbeat does not bring it back, and its id is free.
	h, entries := w.heartbeat(3), w.entries
	if v, err := w.one(h); err != nil || !v.(HeartbeatAnswer).Fenced || w.entries != entries {
		t.Fatalf("%+v %v, %d entries", v, err, w.entries-entries)
	}
	w.register(3, "", 2)
	w.beat(3)
	w.is("a", 1, 3, 2, 3)
	if b := w.img.Broker(3); b.ShuttingDown || b.Fenced {
		t.Fatalf("%+v", b)
	}
}

func TestShutdownOfTheOnlyBroker(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1)
	w.topic("a", []int32{1})
	h := w.heartbeat(1)
	h.WantShutdown = true
	entries := w.entries
	v, err := w.one(h)
	if err != nil || !v.(HeartbeatAnswer).ShouldShutDown || w.entries != entries {
		t.Fatalf("%+v, %v, %d entries", v, err, w.entries-entries)
	}
}

func TestBothLastMembersShutDown(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	for range 2 {
		for _, id := range []int32{2, 3} {
			h := w.heartbeat(id)
			h.WantShutdown = true
			if _, err := w.one(h); err != nil {
				t.Fatal(err)
			}
		}
		w.beat(1)
	}
	// 3 led until it was the last; nobody in sync is left that could take over, and it goes with its place kept.
	p := w.part("a", 0)
	if p.Leader != 3 && p.Leader != -1 || len(p.ISR) == 0 {
		t.Fatalf("%+v", p)
	}
}

func TestUnregister(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	w.topic("a", []int32{2, 1})
	_, err := w.one(&Unregister{Broker: 9})
	wantErr(t, err, ErrUnknownBroker)
	_, err = w.one(&Unregister{Broker: 2})
	wantErr(t, err, raftmeta.ErrInvalidCommand)
	if _, err := w.one(&DeleteTopics{Topics: []raftmeta.DeleteTopic{{Name: "a"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.one(&Unregister{Broker: 2}); err != nil || w.img.Broker(2) != nil {
		t.Fatalf("%v, %v", err, w.img.Broker(2))
	}
	_, err = w.one(&Heartbeat{Broker: 2, Epoch: 1})
	wantErr(t, err, ErrUnknownBroker)
	if _, ok := w.m.Deadline(); ok {
		t.Fatal("a deadline, though the node is alone again")
	}
}
