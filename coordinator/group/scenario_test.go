package group

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/internal/record"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios print into testdata")

// TestScenarios runs testdata/*.txt: lines "> command args", each followed by what it prints. Clients are named by a word; a
// client uses the member id and generation it was last told.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { runScenario(t, f) })
	}
}

func runScenario(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(Options{InitialRebalanceDelay: 3 * time.Second, GroupSizeMax: 4, OffsetsRetention: 24 * time.Hour})
	defer func() { w.c.Close() }()
	var got strings.Builder
	for _, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&got, line)
			w.run(line[2:])
			for _, l := range w.out {
				fmt.Fprintln(&got, "  "+l)
			}
			w.out = nil
		case strings.HasPrefix(line, "  "):
		default:
			fmt.Fprintln(&got, line)
		}
	}
	result := strings.TrimSuffix(got.String(), "\n")
	if *rewrite {
		if err := os.WriteFile(file, []byte(result), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, have := strings.Split(string(text), "\n"), strings.Split(result, "\n")
	for i := range max(len(want), len(have)) {
		var a, b string
		if i < len(want) {
			a = want[i]
		}
		if i < len(have) {
			b = have[i]
		}
		if a != b {
			t.Fatalf("%s:%d:\nwant %s\ngot  %s\n\nwhole output:\n%s", file, i+1, a, b, result)
		}
	}
}

type world struct {
	o       Options
	c       *Coordinator
	clk     *fakeClock
	st      *fakeStorage
	out     []string
	clients map[string]*client
}

type client struct {
	member     string
	generation int32
}

func newWorld(o Options) *world {
	w := &world{clk: newFakeClock(), st: newFakeStorage(), clients: map[string]*client{}}
	o.Storage, o.Clock, o.NewID, o.Partitions = w.st, w.clk, counterID(), 1
	w.o = o
	w.c = New(o)
	w.st.onWrite = func(_ int32, rs []record.Record) {
		for i := range rs {
			w.say("log: %s", describeRecord(&rs[i]))
		}
	}
	if err := w.c.Load(0, 0); err != nil {
		panic(err)
	}
	return w
}

func (w *world) say(format string, args ...any) { w.out = append(w.out, fmt.Sprintf(format, args...)) }

func (w *world) client(name string) *client {
	if w.clients[name] == nil {
		w.clients[name] = &client{}
	}
	return w.clients[name]
}

type args map[string]string

func (a args) get(k, def string) string {
	if v, ok := a[k]; ok {
		return v
	}
	return def
}

func (a args) ptr(k string) *string {
	if v, ok := a[k]; ok {
		return &v
	}
	return nil
}

func (a args) has(k string) bool { _, ok := a[k]; return ok }

func (a args) num(k string, def int64) int64 {
	if v, ok := a[k]; ok {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	return def
}

func (a args) dur(k string, def time.Duration) time.Duration {
	if v, ok := a[k]; ok {
		d, err := time.ParseDuration(v)
		if err != nil {
			panic(err)
		}
		return d
	}
	return def
}

func (w *world) run(line string) {
	words := strings.Fields(line)
	a := args{}
	var pos []string
	for _, word := range words[1:] {
		if k, v, ok := strings.Cut(word, "="); ok {
			a[k] = v
		} else {
			pos = append(pos, word)
		}
	}
	who := ""
	if len(pos) > 0 {
		who = pos[0]
	}
	commands := map[string]func(string, args){
		"join": w.join, "sync": w.sync, "beat": w.beat, "leave": w.leave, "commit": w.commit, "fetch": w.fetch,
		"describe": w.describe, "list": w.list, "delete": w.delete, "delete-offsets": w.deleteOffsets,
		"advance": w.advance, "hold": w.hold, "done": w.done, "fail": w.failHeld, "failing": w.failing,
		"set-clock": w.setClock, "restart": w.restart, "unload": w.unload, "load": w.load, "topic-deleted": w.topicDeleted,
	}
	f := commands[words[0]]
	if f == nil {
		panic("unknown command: " + line)
	}
	f(who, a)
}

func (w *world) join(who string, a args) {
	cl := w.client(who)
	var ps []Protocol
	for _, p := range strings.Split(a.get("protocols", "range:m"), ",") {
		if p == "" {
			continue
		}
		name, meta, _ := strings.Cut(p, ":")
		ps = append(ps, Protocol{Name: name, Metadata: []byte(meta)})
	}
	r := &JoinRequest{
		Group: a.get("group", "g"), MemberID: a.get("member", cl.member), InstanceID: a.ptr("instance"), ClientID: who,
		ClientHost: "/host", ProtocolType: a.get("type", "consumer"), Protocols: ps,
		SessionTimeout: a.dur("session", 10*time.Second), RebalanceTimeout: a.dur("rebalance", 60*time.Second),
		RequireKnownMember: a.num("v", 2) >= 4, CanSkipAssignment: a.num("v", 2) >= 9,
	}
	if topic := a.get("topics", ""); topic != "" {
		r.Protocols[0].Metadata = consumerMetadata(topic)
	}
	w.c.JoinGroup(r, func(res JoinResult) {
		s := fmt.Sprintf("%s: join %s", who, res.Code)
		if res.MemberID != "" {
			s += " member=" + res.MemberID
		}
		if res.Code == OK {
			cl.member, cl.generation = res.MemberID, res.Generation
			s += fmt.Sprintf(" gen=%d %s/%s leader=%s", res.Generation, deref(res.ProtocolType), deref(res.Protocol), res.Leader)
			if res.SkipAssignment {
				s += " skip"
			}
			for _, m := range res.Members {
				s += fmt.Sprintf(" [%s%s %s]", m.MemberID, instanceSuffix(m.InstanceID), strings.Trim(fmt.Sprintf("%q", m.Metadata), `"`))
			}
		} else if res.Code == MemberIDRequired {
			cl.member = res.MemberID
		}
		w.say("%s", s)
	})
}

func deref(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

func instanceSuffix(s *string) string {
	if s == nil {
		return ""
	}
	return "@" + *s
}

func (w *world) sync(who string, a args) {
	cl := w.client(who)
	r := &SyncRequest{
		Group: a.get("group", "g"), Generation: int32(a.num("gen", int64(cl.generation))), MemberID: a.get("member", cl.member),
		InstanceID: a.ptr("instance"), ProtocolType: a.ptr("type"), Protocol: a.ptr("protocol"),
	}
	if as := a.get("assign", ""); as != "" {
		for _, one := range strings.Split(as, ",") {
			m, data, _ := strings.Cut(one, ":")
			r.Assignments = append(r.Assignments, Assignment{MemberID: w.client(m).member, Data: []byte(data)})
		}
	}
	w.c.SyncGroup(r, func(res SyncResult) {
		if res.Code != OK {
			w.say("%s: sync %s", who, res.Code)
			return
		}
		w.say("%s: sync OK %s/%s %q", who, deref(res.ProtocolType), deref(res.Protocol), res.Assignment)
	})
}

func (w *world) beat(who string, a args) {
	cl := w.client(who)
	w.say("%s: beat %s", who, w.c.Heartbeat(&HeartbeatRequest{
		Group: a.get("group", "g"), Generation: int32(a.num("gen", int64(cl.generation))), MemberID: a.get("member", cl.member),
		InstanceID: a.ptr("instance"),
	}))
}

func (w *world) leave(who string, a args) {
	r := &LeaveRequest{Group: a.get("group", "g")}
	for _, name := range strings.Split(who, ",") {
		r.Members = append(r.Members, LeaveMember{MemberID: a.get("member", w.client(name).member), InstanceID: a.ptr("instance")})
	}
	code := w.c.LeaveGroup(r)
	s := fmt.Sprintf("leave %s", code)
	for _, m := range r.Members {
		s += fmt.Sprintf(" [%s%s %s]", m.MemberID, instanceSuffix(m.InstanceID), m.Code)
	}
	w.say("%s", s)
}

func (w *world) commit(who string, a args) {
	r := &CommitRequest{
		Group: a.get("group", "g"), Generation: -1, InstanceID: a.ptr("instance"), UnknownGroup: IllegalGeneration,
		Retention: a.dur("retention", -1),
	}
	if who != "simple" {
		cl := w.client(who)
		r.Generation, r.MemberID = cl.generation, cl.member
	}
	r.Generation, r.MemberID = int32(a.num("gen", int64(r.Generation))), a.get("member", r.MemberID)
	meta := a.get("meta", "")
	if n := a.num("metasize", 0); n > 0 {
		meta = strings.Repeat("x", int(n))
	}
	r.Topics = []CommitTopic{{
		Name: a.get("topic", "t"), ID: [16]byte{byte(a.num("id", 0))},
		Partitions: []CommitPartition{{
			Partition: int32(a.num("p", 0)), Offset: a.num("offset", 1), LeaderEpoch: int32(a.num("epoch", -1)), Metadata: meta,
		}},
	}}
	w.c.CommitOffsets(r, func(code Code) { w.say("%s: commit %s [%s]", who, code, r.Topics[0].Partitions[0].Code) })
}

func (w *world) fetch(who string, a args) {
	r := &OffsetsRequest{Group: a.get("group", "g"), RequireStable: a.has("stable") || who == "stable"}
	if a.has("topic") {
		r.Topics = []OffsetsTopic{{
			Name: a.get("topic", "t"), ID: [16]byte{byte(a.num("id", 0))},
			Partitions: []OffsetsPartition{{Partition: int32(a.num("p", 0))}},
		}}
	}
	w.c.FetchOffsets(r, func(res OffsetsResult) {
		s := "fetch " + res.Code.String()
		for _, t := range res.Topics {
			for _, p := range t.Partitions {
				s += fmt.Sprintf(" %s-%d=%d/%d/%q", t.Name, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata)
			}
		}
		w.say("%s", s)
	})
}

func (w *world) describe(who string, a args) {
	d := w.c.Describe(a.get("group", "g"))
	if d.Code != OK {
		w.say("%s", d.Code)
		return
	}
	s := fmt.Sprintf("%s gen=%d type=%q protocol=%q", d.State, d.Generation, d.ProtocolType, d.Protocol)
	for _, m := range d.Members {
		s += fmt.Sprintf(" [%s%s %s %q %q]", m.MemberID, instanceSuffix(m.InstanceID), m.ClientID, m.Metadata, m.Assignment)
	}
	w.say("%s", s)
}

func (w *world) list(string, args) {
	all, code := w.c.List()
	s := code.String()
	for _, l := range all {
		s += fmt.Sprintf(" [%s %q %s]", l.Group, l.ProtocolType, l.State)
	}
	w.say("%s", s)
}

func (w *world) delete(_ string, a args) {
	w.c.DeleteGroup(a.get("group", "g"), func(code Code) { w.say("delete %s", code) })
}

func (w *world) deleteOffsets(_ string, a args) {
	r := &DeleteOffsetsRequest{Group: a.get("group", "g"), Topics: []DeleteOffsetsTopic{{
		Name: a.get("topic", "t"), Partitions: []DeleteOffsetsPartition{{Partition: int32(a.num("p", 0))}},
	}}}
	w.c.DeleteOffsets(r, func(code Code) { w.say("delete-offsets %s [%s]", code, r.Topics[0].Partitions[0].Code) })
}

// setClock moves the wall clock, but no timer that runs.
func (w *world) setClock(by string, _ args) {
	d, err := time.ParseDuration(by)
	if err != nil {
		panic(err)
	}
	w.clk.mu.Lock()
	defer w.clk.mu.Unlock()
	w.clk.now = w.clk.now.Add(d)
	for _, t := range w.clk.timers {
		t.at = t.at.Add(d)
	}
}

func (w *world) advance(who string, a args) {
	d, err := time.ParseDuration(who)
	if err != nil {
		panic(err)
	}
	step := a.dur("every", d)
	for ; d > 0; d -= step {
		if who := a.get("beat", ""); who != "" {
			w.beat(who, a)
			w.out = w.out[:len(w.out)-1]
		}
		w.clk.Advance(min(d, step))
	}
}

// consumerMetadata is a consumer's subscription to topics, version 0.
func consumerMetadata(topics ...string) []byte {
	b := []byte{0, 0, 0, 0, 0, byte(len(topics))}
	for _, t := range topics {
		b = append(append(b, 0, byte(len(t))), t...)
	}
	return append(b, 0xff, 0xff, 0xff, 0xff)
}

func (w *world) hold(string, args) { w.st.held = true }

func (w *world) done(string, args) {
	w.st.complete(-1, nil)
	w.st.held = len(w.st.pending) > 0
}

func (w *world) failHeld(who string, a args) {
	err := errFake
	if who == "not-leader" {
		err = fmt.Errorf("%w: moved", ErrNotLeader)
	}
	w.st.complete(-1, err)
}

func (w *world) failing(who string, _ args) {
	w.st.fail = nil
	if who == "on" {
		w.st.fail = errFake
	}
}

// restart is a crash: a new coordinator loads what was durable.
func (w *world) restart(string, args) {
	w.st.mu.Lock()
	w.st.pending, w.st.held = nil, false
	w.st.mu.Unlock()
	w.c.Close()
	w.c = New(w.o)
	if err := w.c.Load(0, w.lead()); err != nil {
		w.say("load: %v", err)
	}
}

// lead has the next epoch begin.
func (w *world) lead() int32 {
	w.st.mu.Lock()
	defer w.st.mu.Unlock()
	w.st.epoch++
	return w.st.epoch
}

// unload: another broker leads the partition now.
func (w *world) unload(string, args) { w.c.Unload(0, w.lead()) }

func (w *world) load(string, args) {
	if err := w.c.Load(0, w.lead()); err != nil {
		w.say("load: %v", err)
	}
}

func (w *world) topicDeleted(who string, a args) {
	w.c.TopicDeleted(who, [16]byte{byte(a.num("id", 0))})
}

func describeRecord(r *record.Record) string {
	v, err := keyVersion(r.Key)
	if err != nil {
		return err.Error()
	}
	if v == groupKeyVersion {
		id, err := decodeGroupKey(r.Key)
		if err != nil || r.Value == nil {
			return fmt.Sprintf("group %s tombstone %v", id, err)
		}
		g, err := decodeGroupValue(r.Value)
		if err != nil {
			return err.Error()
		}
		s := fmt.Sprintf("group %s v%d type=%q gen=%d protocol=%s leader=%s", id, g.Version, g.ProtocolType, g.Generation,
			deref(g.Protocol), deref(g.Leader))
		for _, m := range g.Members {
			s += fmt.Sprintf(" [%s%s %s]", m.MemberID, instanceSuffix(m.InstanceID), m.Assignment)
		}
		return s
	}
	id, topic, p, err := decodeOffsetKey(r.Key)
	if err != nil || r.Value == nil {
		return fmt.Sprintf("offset %s %s-%d tombstone", id, topic, p)
	}
	o, err := decodeOffsetValue(r.Value)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("offset %s %s-%d v%d %d/%d/%.20q", id, topic, p, r.Value[1], o.offset, o.leaderEpoch, o.metadata)
}
