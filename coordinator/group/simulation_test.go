package group

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/internal/record"
)

// TestSimulation runs random clients against a coordinator whose log may be slow, may fail and may be all that is left after a
// crash, and which moves between two nodes, the one that loses it learning of that late, and checks what must hold whatever happens.
func TestSimulation(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSim(rt)
		defer func() {
			for _, c := range s.nodes {
				c.Close()
			}
		}()
		for range rapid.IntRange(20, 250).Draw(rt, "steps") {
			s.step()
		}
		s.settle()
	})
}

type sim struct {
	t       *rapid.T
	o       Options
	nodes   [2]*Coordinator
	at      int          // which of them leads
	c       *Coordinator // that one
	late    []func()     // what the other has not been told yet: that it does not
	clk     *fakeClock
	st      *fakeStorage
	clients []*simClient

	asked, answered int
	failed          bool // a write failed: a group that became empty may not be stored as such, as in Kafka
	generation      int32
	leaders         map[int32]string // of each generation since the coordinator began
	committed       map[int32]int64  // acknowledged last, per partition
}

// simClient behaves like a consumer. A crash makes it forget; answers to its former life are ignored.
type simClient struct {
	name       string
	instance   *string
	dead       bool
	life       int
	member     string
	generation int32
	phase      string // "", joining, joined, syncing, stable
	members    []string
	leads      bool
}

func newSim(rt *rapid.T) *sim {
	s := &sim{t: rt, clk: newFakeClock(), st: newFakeStorage(), leaders: map[int32]string{}, committed: map[int32]int64{}}
	s.o = Options{
		Storage: s.st, Clock: s.clk, NewID: counterID(), Partitions: 1,
		InitialRebalanceDelay: time.Duration(rapid.IntRange(0, 3).Draw(rt, "delay")) * time.Second,
	}
	for i := range rapid.IntRange(1, 5).Draw(rt, "clients") {
		cl := &simClient{name: fmt.Sprintf("c%d", i), dead: true}
		if rapid.Bool().Draw(rt, "static") {
			id := fmt.Sprintf("i%d", i)
			cl.instance = &id
		}
		s.clients = append(s.clients, cl)
	}
	s.nodes = [2]*Coordinator{New(s.o), New(s.o)}
	s.lead(0)
	return s
}

// lead has a node become the leader, with the next epoch.
func (s *sim) lead(node int) {
	s.st.mu.Lock()
	s.st.epoch++
	epoch := s.st.epoch
	s.st.mu.Unlock()
	s.at, s.c = node, s.nodes[node]
	if err := s.c.Load(0, epoch); err != nil {
		s.t.Fatalf("load: %v", err)
	}
	s.generation, s.leaders = 0, map[int32]string{}
}

// move gives the partition to the other node. Of the appends under way some are in the log that it goes on with; nobody is told of
// them. The old leader learns of it at once or late, and until then goes on for itself.
func (s *sim) move() {
	was, old := s.c, s.st.epoch
	todo := s.st.survive(rapid.IntRange(0, 3).Draw(s.t, "survive"), s.written)
	s.lead(1 - s.at)
	epoch := s.st.epoch
	for _, a := range todo {
		s.failed = true
		a.done(fmt.Errorf("epoch %d is over: %w", old, ErrNotLeader))
	}
	tell := func() { was.Unload(0, epoch) }
	if rapid.Bool().Draw(s.t, "late") {
		s.late = append(s.late, tell)
		return
	}
	tell()
}

// written notes commits that are in the log though nobody was told.
func (s *sim) written(rs []record.Record) {
	for i := range rs {
		if v, err := keyVersion(rs[i].Key); err != nil || v > offsetKeyVersionMax || rs[i].Value == nil {
			continue
		}
		_, _, p, err := decodeOffsetKey(rs[i].Key)
		o, err2 := decodeOffsetValue(rs[i].Value)
		if err != nil || err2 != nil {
			s.t.Fatal(err, err2)
		}
		s.committed[p] = o.offset
	}
}

func (s *sim) tellLate() {
	for _, tell := range s.late {
		tell()
	}
	s.late = nil
}

// zombie sends what a client may send to a coordinator that is none any more, and must not have any effect.
func (s *sim) zombie(cl *simClient) {
	other := s.nodes[1-s.at]
	s.asked++
	once := s.once("late commit")
	other.CommitOffsets(&CommitRequest{
		Group: "g", Generation: cl.generation, MemberID: cl.member, InstanceID: cl.instance, Retention: -1,
		Topics: []CommitTopic{{Name: "t", Partitions: []CommitPartition{{Partition: 0, Offset: 7777, LeaderEpoch: -1}}}},
	}, func(code Code) {
		once()
		if code == OK {
			s.t.Fatalf("a commit of %s was taken by a node that does not lead", cl.name)
		}
	})
}

func (s *sim) step() {
	cl := s.clients[rapid.IntRange(0, len(s.clients)-1).Draw(s.t, "client")]
	switch rapid.IntRange(0, 16).Draw(s.t, "what") {
	case 0:
		cl.crash()
		cl.dead = false
	case 1:
		cl.crash()
	case 2:
		s.leave(cl)
	case 3:
		s.st.held = true
	case 4:
		s.st.complete(rapid.IntRange(1, 3).Draw(s.t, "n"), nil)
	case 5:
		s.failed = s.st.complete(1, errFake) > 0 || s.failed
	case 6, 7:
		s.st.held = false
		s.st.complete(-1, nil)
	case 8:
		s.clk.Advance(time.Duration(rapid.IntRange(1, 20000).Draw(s.t, "ms")) * time.Millisecond)
	case 9:
		s.commit(cl)
	case 10:
		if rapid.IntRange(0, 9).Draw(s.t, "crash") == 0 {
			s.crash()
		}
	case 11:
		switch rapid.IntRange(0, 3).Draw(s.t, "move") {
		case 0:
			s.move()
		case 1:
			s.tellLate()
		default:
			s.zombie(cl)
		}
	default:
		cl.dead = false
		s.act(cl)
	}
	s.check()
}

func (cl *simClient) crash() {
	*cl = simClient{name: cl.name, instance: cl.instance, life: cl.life + 1, dead: true}
}

// crash loses what was not durable; the clients stay.
func (s *sim) crash() {
	s.failed = s.st.complete(-1, errFake) > 0 || s.failed
	s.c.Close()
	s.nodes[s.at] = New(s.o)
	s.lead(s.at)
}

// act is what a consumer does next.
func (s *sim) act(cl *simClient) {
	switch cl.phase {
	case "":
		s.join(cl)
	case "joined":
		s.sync(cl)
	case "stable":
		if s.beat(cl) != OK {
			s.join(cl)
		}
	}
}

func (s *sim) join(cl *simClient) {
	life := cl.life
	cl.phase = "joining"
	s.asked++
	once, epoch := s.once("join"), s.st.epoch
	s.c.JoinGroup(&JoinRequest{
		Group: "g", MemberID: cl.member, InstanceID: cl.instance, ClientID: cl.name, ProtocolType: "consumer",
		Protocols:      []Protocol{{Name: "range", Metadata: consumerMetadata("t")}},
		SessionTimeout: 10 * time.Second, RebalanceTimeout: 30 * time.Second, RequireKnownMember: true, CanSkipAssignment: true,
	}, func(r JoinResult) {
		once()
		if s.st.epoch != epoch && r.Code == OK { // from a coordinator that does not know yet that it is none: what follows will tell the client
			r.Code = NotCoordinator
		}
		s.joined(cl, life, &r)
	})
}

func (s *sim) joined(cl *simClient, life int, r *JoinResult) {
	if r.Code == OK {
		if r.Generation < s.generation {
			s.t.Fatalf("generation %d after %d", r.Generation, s.generation)
		}
		s.generation = r.Generation
		leader := person(r.Leader)
		if was, ok := s.leaders[r.Generation]; ok && was != leader {
			s.t.Fatalf("generation %d is led by %s and by %s", r.Generation, was, leader)
		}
		s.leaders[r.Generation] = leader
	}
	if cl.life != life {
		return
	}
	cl.phase = ""
	switch r.Code {
	case OK:
		cl.member, cl.generation, cl.phase = r.MemberID, r.Generation, "joined"
		cl.leads = r.Leader == r.MemberID && !r.SkipAssignment
		cl.members = nil
		for _, m := range r.Members {
			cl.members = append(cl.members, m.MemberID)
		}
	case MemberIDRequired:
		cl.member = r.MemberID
	case UnknownMemberID, FencedInstanceID:
		cl.member = ""
	}
}

// person strips what changes when a static member comes back under another id.
func person(member string) string {
	if strings.HasPrefix(member, "i") {
		return member[:strings.LastIndexByte(member, '-')]
	}
	return member
}

func (s *sim) sync(cl *simClient) {
	life, generation, member := cl.life, cl.generation, cl.member
	cl.phase = "syncing"
	r := &SyncRequest{Group: "g", Generation: generation, MemberID: member, InstanceID: cl.instance}
	if cl.leads {
		for _, m := range cl.members {
			r.Assignments = append(r.Assignments, Assignment{MemberID: m, Data: fmt.Appendf(nil, "%d %s", generation, person(m))})
		}
	}
	s.asked++
	once := s.once("sync")
	s.c.SyncGroup(r, func(res SyncResult) {
		once()
		want := fmt.Sprintf("%d %s", generation, person(member))
		if res.Code == OK && string(res.Assignment) != want {
			s.t.Fatalf("%s, generation %d, was assigned %q", member, generation, res.Assignment)
		}
		if cl.life != life {
			return
		}
		cl.phase = ""
		switch res.Code {
		case OK:
			cl.phase = "stable"
		case UnknownMemberID, FencedInstanceID:
			cl.member = ""
		}
	})
}

func (s *sim) beat(cl *simClient) Code {
	code := s.c.Heartbeat(&HeartbeatRequest{Group: "g", Generation: cl.generation, MemberID: cl.member, InstanceID: cl.instance})
	if code == UnknownMemberID || code == FencedInstanceID {
		cl.member = ""
	}
	return code
}

func (s *sim) leave(cl *simClient) {
	if cl.member != "" {
		s.c.LeaveGroup(&LeaveRequest{Group: "g", Members: []LeaveMember{{MemberID: cl.member, InstanceID: cl.instance}}})
	}
	cl.crash()
}

func (s *sim) commit(cl *simClient) {
	p := int32(rapid.IntRange(0, 2).Draw(s.t, "partition"))
	offset := int64(rapid.IntRange(0, 1000).Draw(s.t, "offset"))
	s.asked++
	once := s.once("commit")
	s.c.CommitOffsets(&CommitRequest{
		Group: "g", Generation: cl.generation, MemberID: cl.member, InstanceID: cl.instance, Retention: -1,
		Topics: []CommitTopic{{Name: "t", Partitions: []CommitPartition{{Partition: p, Offset: offset, LeaderEpoch: -1}}}},
	}, func(code Code) {
		once()
		if code == OK {
			s.committed[p] = offset
		}
	})
}

func (s *sim) once(what string) func() {
	n := 0
	return func() {
		if n++; n > 1 {
			s.t.Fatalf("a %s was answered %d times", what, n)
		}
		s.answered++
	}
}

// check looks into the group: its counters agree with its members.
func (s *sim) check() {
	sh := s.c.shards[0]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, g := range sh.mu.groups {
		parked, syncing, bytes := 0, 0, 0
		supported := map[string]int{}
		for _, m := range g.members {
			if m.joinReply != nil {
				parked++
			}
			if m.syncPending {
				syncing++
			}
			bytes += m.size()
			for _, p := range m.protocols {
				supported[p.Name]++
			}
			if m.instance != nil && g.static[*m.instance] != m || g.byID[m.id] != m {
				s.t.Fatalf("member %s is not found", m.id)
			}
			if !m.alive() && m.session.at.IsZero() {
				s.t.Fatalf("nobody watches member %s in %s", m.id, g.state)
			}
		}
		for id := range g.pending {
			bytes += memberBytes + len(id)
		}
		if parked != g.awaitingJoin || syncing != g.pendingSync || bytes != g.bytes || fmt.Sprint(supported) != fmt.Sprint(g.supported) {
			s.t.Fatalf("parked %d/%d, syncing %d/%d, bytes %d/%d, protocols %v/%v", g.awaitingJoin, parked, g.pendingSync, syncing,
				g.bytes, bytes, g.supported, supported)
		}
		if (g.leader == "") != (len(g.members) == 0) || g.leader != "" && g.byID[g.leader] == nil {
			s.t.Fatalf("leader %q of %d members", g.leader, len(g.members))
		}
		if g.state == PreparingRebalance && g.join.at.IsZero() || g.pendingSync > 0 && g.sync.at.IsZero() {
			s.t.Fatalf("%s without a timer", g.state)
		}
	}
}

// settle lets the storage work and the living act: the group must become stable with exactly them, every request
// answered, and the log must tell the same story.
func (s *sim) settle() {
	s.tellLate()
	s.st.held = false
	s.st.complete(-1, nil)
	for range 400 { // 5 minutes are the longest that a ghost lasts
		for _, cl := range s.clients {
			if !cl.dead {
				s.act(cl)
				s.act(cl)
			}
		}
		s.check()
		s.clk.Advance(time.Second)
	}
	if s.asked != s.answered {
		s.t.Fatalf("%d requests, %d answers", s.asked, s.answered)
	}
	d := s.c.Describe("g")
	living := 0
	for _, cl := range s.clients {
		if cl.dead {
			continue
		}
		living++
		if cl.phase != "stable" || cl.generation != d.Generation {
			s.t.Fatalf("%s is %q in generation %d, the group %s in %d", cl.name, cl.phase, cl.generation, d.State, d.Generation)
		}
	}
	if len(d.Members) != living || living > 0 && d.State != Stable {
		s.t.Fatalf("%d clients, group %+v", living, d)
	}
	s.compare(d)
}

// compare loads the log into another coordinator.
func (s *sim) compare(d Description) {
	var before, after OffsetsResult
	s.c.FetchOffsets(&OffsetsRequest{Group: "g"}, func(r OffsetsResult) { before = r })
	s.crash()
	s.c.FetchOffsets(&OffsetsRequest{Group: "g"}, func(r OffsetsResult) { after = r })
	if fmt.Sprint(before) != fmt.Sprint(after) {
		s.t.Fatalf("offsets in memory %+v, in the log %+v", before, after)
	}
	found := map[int32]int64{}
	for _, topic := range after.Topics {
		for _, p := range topic.Partitions {
			found[p.Partition] = p.Offset
		}
	}
	if fmt.Sprint(found) != fmt.Sprint(s.committed) {
		s.t.Fatalf("offsets acknowledged %v, in the log %v", s.committed, found)
	}
	if e := s.c.Describe("g"); d.Code == OK && (d.State == Stable || !s.failed) && text(d) != text(e) {
		s.t.Fatalf("group in memory %s\nin the log %s", text(d), text(e))
	}
}

func text(d Description) string {
	s := fmt.Sprint(d.Code, d.State, d.ProtocolType, d.Protocol, d.Generation)
	for _, m := range d.Members {
		s += fmt.Sprintf(" %s %s %s %q %q", m.MemberID, instanceSuffix(m.InstanceID), m.ClientID, m.Metadata, m.Assignment)
	}
	return s
}
