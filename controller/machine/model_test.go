package machine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/raftmeta"
)

// model runs a machine against random brokers, requests, failures of the metadata and the passing of time, and checks after every
// step what must never be otherwise.
type model struct {
	t     *rapid.T
	m     *Machine
	img   *raftmeta.Image
	index uint64
	now   time.Time

	brokers map[int32]*process
	waiting []Request
	plan    *Plan // under way
	done    []raftmeta.Result
	entries int                  // of the plan that are committed
	late    [][]raftmeta.Command // entries whose outcome was unknown, and that may still be committed

	asked, answered int
	tokens          map[int]bool
	leaders         map[leadership]int32
	unclean         bool // an unclean election was asked for: lost records are wanted
}

type process struct {
	epoch        int64
	life         byte
	applied      uint64
	running      bool
	shuttingDown bool
}

type leadership struct {
	part  partKey
	epoch int32
}

var errUnknown = errors.New("outcome unknown")

func newModel(t *rapid.T) *model {
	s := &model{t: t, img: raftmeta.NewImage(), now: time.Unix(1000, 0), brokers: map[int32]*process{}, tokens: map[int]bool{}, leaders: map[leadership]int32{}}
	ids := 0
	s.m = New(Config{
		NodeID: 1, SessionTimeout: sessionMax, BalanceInterval: 10 * time.Second, BalancePercent: 0,
		Unclean: func(overrides map[string]string) bool { return overrides["unclean"] == "true" },
		NewID:   func() [16]byte { ids++; return [16]byte{0: 1, 14: byte(ids >> 8), 15: byte(ids)} },
	})
	for id := int32(1); id <= 5; id++ {
		s.brokers[id] = &process{}
	}
	s.m.TakeOffice(s.now)
	return s
}

// ask queues a request.
func (s *model) ask(op Op) {
	s.asked++
	s.tokens[s.asked] = true
	s.waiting = append(s.waiting, Request{Op: op, Token: s.asked})
}

func (s *model) answer(list ...Answer) {
	for _, a := range list {
		if !s.tokens[a.Token.(int)] {
			s.t.Fatalf("request %v is answered twice", a.Token)
		}
		delete(s.tokens, a.Token.(int))
		s.answered++
		if epoch, ok := a.Value.(int64); ok && a.Err == nil {
			for id, p := range s.brokers {
				if b := s.img.Broker(id); b != nil && b.Epoch == epoch && b.Incarnation == incarnation(id, p.life) {
					p.epoch = epoch
				}
			}
		}
	}
}

// decide starts a plan if none is under way.
func (s *model) decide() {
	if s.plan != nil {
		return
	}
	p := s.m.Decide(s.waiting, s.now)
	s.waiting = p.Later
	s.answer(p.Answers...)
	if len(p.Entries) == 0 {
		if len(p.Later) > 0 {
			s.t.Fatalf("%d requests wait for nothing", len(p.Later))
		}
		return
	}
	s.plan, s.done, s.entries = p, nil, 0
}

// step commits the next entry of the plan, or lets it fail in one of the ways there are.
func (s *model) step(fate int) {
	if s.plan == nil {
		return
	}
	entry := s.plan.Entries[s.entries]
	switch fate {
	case 0: // nothing was done
		s.complete(raftmeta.ErrBackpressure)
		return
	case 1: // it was, but nobody knows
		s.commit(entry)
		s.complete(errUnknown)
		return
	case 2: // it may still be
		s.late = append(s.late, entry)
		s.complete(errUnknown)
		return
	}
	s.done = append(s.done, s.commit(entry)...)
	if s.entries++; s.entries == len(s.plan.Entries) {
		s.complete(nil)
	}
}

func (s *model) complete(err error) {
	p := s.plan
	s.plan = nil
	s.answer(s.m.Complete(p, s.done, err, s.now)...)
}

func (s *model) commit(cmds []raftmeta.Command) []raftmeta.Result {
	s.index++
	was := s.img
	next, d, results := raftmeta.Apply(was, s.index, cmds...)
	if next != was {
		s.img = next
		s.check(was, cmds)
		s.m.Observe(next, d, s.now)
	}
	return results
}

// check holds the image that a change made against the rules.
func (s *model) check(was *raftmeta.Image, cmds []raftmeta.Command) {
	for t := range s.img.Topics() {
		old := was.TopicByID(t.ID)
		for i := range t.Partitions {
			p := &t.Partitions[i]
			where := fmt.Sprintf("%s-%d %+v by %v", t.Name, i, *p, cmds)
			key := leadership{partKey{t.ID, int32(i)}, p.LeaderEpoch}
			if leader, known := s.leaders[key]; known && leader != p.Leader {
				s.t.Fatalf("two leaders, %d and %d, in one epoch: %s", leader, p.Leader, where)
			}
			s.leaders[key] = p.Leader
			switch {
			case len(p.ISR) == 0 || !within(p.ISR, p.Replicas):
				s.t.Fatalf("ISR: %s", where)
			case p.Leader != -1 && !slices.Contains(p.ISR, p.Leader):
				s.t.Fatalf("the leader is not in sync: %s", where)
			}
			if old == nil || i >= len(old.Partitions) {
				continue
			}
			o := &old.Partitions[i]
			switch {
			case p.LeaderEpoch < o.LeaderEpoch || p.PartitionEpoch < o.PartitionEpoch:
				s.t.Fatalf("an epoch went back from %+v: %s", *o, where)
			case p.PartitionEpoch == o.PartitionEpoch && (p.Leader != o.Leader || !slices.Equal(p.ISR, o.ISR) || !slices.Equal(p.Replicas, o.Replicas)):
				s.t.Fatalf("changed without an epoch from %+v: %s", *o, where)
			case t.Configs["unclean"] == "" && !s.unclean && !slices.ContainsFunc(p.ISR, func(id int32) bool { return slices.Contains(o.ISR, id) }) && !within(o.Adding, p.ISR):
				s.t.Fatalf("nobody who was in sync is left of %+v: %s", *o, where)
			}
		}
	}
}

// checkSettled holds when nothing is under way or due: the cluster is as good as its brokers allow.
func (s *model) checkSettled() {
	usable := func(id int32) bool {
		b := s.img.Broker(id)
		return b != nil && !b.Fenced && !b.ShuttingDown
	}
	imbalanced := 0
	for t := range s.img.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			s.checkLeft(t.Name, i, p, usable)
			some := slices.ContainsFunc(p.ISR, usable)
			if p.Leader != p.Replicas[0] {
				imbalanced++
			}
			switch {
			case some && !usable(p.Leader):
				s.t.Fatalf("%s-%d: led by %d, though others live: %+v", t.Name, i, p.Leader, *p)
			case some && slices.ContainsFunc(p.ISR, func(id int32) bool { return !usable(id) }):
				s.t.Fatalf("%s-%d: the dead are in sync: %+v", t.Name, i, *p)
			case p.Leader >= 0 && s.img.Broker(p.Leader).Fenced:
				s.t.Fatalf("%s-%d: a fenced broker leads: %+v", t.Name, i, *p)
			case t.Configs["unclean"] == "true" && p.Leader < 0 && slices.ContainsFunc(p.Replicas, usable):
				s.t.Fatalf("%s-%d: nobody leads, though that is allowed: %+v", t.Name, i, *p)
			case len(p.Adding)+len(p.Removing) > 0 && some && within(without(p.Replicas, p.Removing), p.ISR) && slices.ContainsFunc(without(p.Replicas, p.Removing), usable):
				s.t.Fatalf("%s-%d: the reassignment is not completed: %+v", t.Name, i, *p)
			}
		}
	}
	if got := s.m.Stats(); got.Imbalanced != imbalanced || got.Reassigning != len(Reassignments(s.img)) {
		s.t.Fatalf("counted %+v, there are %d imbalanced and %d reassigning", got, imbalanced, len(Reassignments(s.img)))
	}
	counted := s.m.tally
	s.m.tally.count(s.img)
	if !maps.Equal(positive(counted.replicas), s.m.tally.replicas) || !maps.Equal(positive(counted.preferred), s.m.tally.preferred) {
		s.t.Fatalf("the tally went wrong: %+v, want %+v", counted, s.m.tally)
	}
}

// checkLeft: what a leaving broker holds is on its way, if there is anybody to take it.
func (s *model) checkLeft(topic string, index int, p *raftmeta.Partition, usable func(int32) bool) {
	heirs := slices.ContainsFunc(s.img.Brokers(), func(b raftmeta.Broker) bool {
		return usable(b.ID) && !b.Leaving && !slices.Contains(without(p.Replicas, p.Removing), b.ID)
	})
	for _, id := range p.Replicas {
		b := s.img.Broker(id)
		if b != nil && b.Leaving && !slices.Contains(p.Removing, id) && !slices.Contains(p.Adding, id) && heirs {
			s.t.Fatalf("%s-%d stays on broker %d, which leaves: %+v", topic, index, id, *p)
		}
	}
}

func positive(n map[int32]int) map[int32]int {
	n = maps.Clone(n)
	maps.DeleteFunc(n, func(_ int32, n int) bool { return n == 0 })
	return n
}

// finish lets everything come to rest: no more failures, running brokers are heard of.
func (s *model) finish() {
	s.late = nil
	for n := 0; ; n++ {
		if n > 200 {
			s.t.Fatalf("it does not come to rest: %d waiting, plan %v", len(s.waiting), s.plan)
		}
		s.decide()
		if s.plan != nil {
			s.step(9)
			continue
		}
		due, ok := s.m.Deadline()
		if !ok || due.After(s.now.Add(time.Minute)) {
			break
		}
		if due.After(s.now) {
			s.now = due
		}
		if n < 100 {
			for _, id := range slices.Sorted(maps.Keys(s.brokers)) {
				s.beat(id)
			}
		} else if len(s.waiting) == 0 && !s.m.unsettled {
			break
		}
	}
	if s.asked != s.answered {
		s.t.Fatalf("%d requests, %d answers: %v", s.asked, s.answered, s.tokens)
	}
	s.checkSettled()
}

// beat sends a running broker's heartbeat, or its registration if it has none.
func (s *model) beat(id int32) {
	p := s.brokers[id]
	if !p.running {
		return
	}
	if p.epoch == 0 {
		s.ask(registration(id, fmt.Sprint("rack", id%3), p.life))
		return
	}
	p.applied = s.img.Version
	h := &Heartbeat{Broker: id, Epoch: p.epoch, Applied: p.applied, WantShutdown: p.shuttingDown}
	if _, _, wait := s.m.Heard(h, s.now); wait {
		s.ask(h)
	}
}

// anyPart draws a partition that there is.
func (s *model) anyPart(t *rapid.T) (*raftmeta.Topic, int32, bool) {
	var all []*raftmeta.Topic
	for topic := range s.img.Topics() {
		all = append(all, topic)
	}
	if len(all) == 0 {
		return nil, 0, false
	}
	topic := rapid.SampledFrom(all).Draw(t, "topic")
	return topic, rapid.Int32Range(0, int32(len(topic.Partitions)-1)).Draw(t, "partition"), true
}

func (s *model) alter(t *rapid.T) {
	topic, i, ok := s.anyPart(t)
	if !ok || topic.Partitions[i].Leader < 0 {
		return
	}
	p := topic.Partitions[i]
	c := ISRChange{TopicID: topic.ID, Partition: i, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch - rapid.Int32Range(0, 1).Draw(t, "old")}
	for _, id := range p.Replicas {
		if b := s.img.Broker(id); b != nil && (id == p.Leader || rapid.Bool().Draw(t, "in sync")) {
			c.ISR = append(c.ISR, ISRMember{id, b.Epoch})
		}
	}
	s.ask(&AlterISR{Broker: p.Leader, BrokerEpoch: s.img.Broker(p.Leader).Epoch, Changes: []ISRChange{c}})
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newModel(t)
		broker := rapid.Int32Range(1, 5)
		names := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				p := s.brokers[broker.Draw(t, "broker")]
				if !p.running {
					p.running, p.shuttingDown, p.epoch = true, false, 0
					p.life++
				}
			},
			"kill": func(t *rapid.T) {
				id := broker.Draw(t, "broker")
				s.brokers[id].running = false
				if rapid.Bool().Draw(t, "seen") {
					s.m.PeerGone(id, s.now)
				}
			},
			"shut down": func(t *rapid.T) { s.brokers[broker.Draw(t, "broker")].shuttingDown = true },
			"beat":      func(t *rapid.T) { s.beat(broker.Draw(t, "broker")) },
			"beat all": func(t *rapid.T) {
				for _, id := range slices.Sorted(maps.Keys(s.brokers)) {
					s.beat(id)
				}
			},
			"time": func(t *rapid.T) {
				s.now = s.now.Add(time.Duration(rapid.Int64Range(1, int64(sessionMax)).Draw(t, "for")))
			},
			"decide": func(t *rapid.T) { s.decide() },
			"commit": func(t *rapid.T) { s.step(9) },
			"fail":   func(t *rapid.T) { s.step(rapid.IntRange(0, 2).Draw(t, "fate")) },
			"late": func(t *rapid.T) {
				if s.plan == nil && len(s.late) > 0 {
					s.commit(s.late[0])
					s.late = s.late[1:]
				}
			},
			"create": func(t *rapid.T) {
				c := raftmeta.CreateTopic{Name: names.Draw(t, "name"), Partitions: rapid.Int32Range(1, 3).Draw(t, "partitions"), ReplicationFactor: rapid.Int16Range(1, 3).Draw(t, "factor")}
				if c.Name == "c" {
					c.Configs = map[string]string{"unclean": "true"}
				}
				s.ask(&CreateTopics{Topics: []raftmeta.CreateTopic{c}})
			},
			"delete": func(t *rapid.T) {
				s.ask(&DeleteTopics{Topics: []raftmeta.DeleteTopic{{Name: names.Draw(t, "name")}}})
			},
			"grow": func(t *rapid.T) {
				s.ask(&AddPartitions{Topics: []raftmeta.AddPartitions{{Topic: names.Draw(t, "name"), Total: rapid.Int32Range(1, 4).Draw(t, "total")}}})
			},
			"alter": s.alter, "alter more": s.alter,
			"reassign": func(t *rapid.T) {
				if topic, i, ok := s.anyPart(t); ok {
					r := Reassignment{Topic: topic.Name, Partition: i}
					if rapid.Bool().Draw(t, "move") {
						r.Replicas = rapid.SliceOfNDistinct(broker, 1, 3, rapid.ID[int32]).Draw(t, "replicas")
					}
					s.ask(&Reassign{Partitions: []Reassignment{r}})
				}
			},
			"elect": func(t *rapid.T) {
				unclean := rapid.IntRange(0, 9).Draw(t, "unclean") == 0
				s.unclean = s.unclean || unclean
				s.ask(&ElectLeaders{Unclean: unclean})
			},
			"decommission": func(t *rapid.T) {
				s.ask(&Decommission{
					Broker: broker.Draw(t, "broker"), Try: rapid.Bool().Draw(t, "try"), Cancel: rapid.IntRange(0, 3).Draw(t, "cancel") == 0,
				})
			},
			"unregister": func(t *rapid.T) { s.ask(&Unregister{Broker: broker.Draw(t, "broker")}) },
			"another controller": func(t *rapid.T) {
				if s.plan == nil {
					s.m.LeaveOffice()
					s.m.TakeOffice(s.now)
				}
			},
			"come to rest": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "now") == 0 {
					s.finish()
				}
			},
		})
		s.finish()
	})
}
