package machine

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"weir/raftmeta"
)

const (
	sessionMax = 1500 * time.Millisecond
	beat       = 250 * time.Millisecond
	balance    = 300 * time.Second
)

// world is a machine and the metadata that its commands make.
type world struct {
	t       *testing.T
	m       *Machine
	img     *raftmeta.Image
	index   uint64
	now     time.Time
	silent  map[int32]bool // brokers that send no heartbeats
	last    *Plan          // with commands
	entries int            // committed so far
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, img: raftmeta.NewImage(), now: time.Unix(1000, 0), silent: map[int32]bool{}}
	n := 0
	w.m = New(Config{
		NodeID: 1, SessionTimeout: sessionMax, BalanceInterval: balance, BalancePercent: 10,
		Unclean: func(overrides map[string]string) bool { return overrides["unclean"] == "true" },
		NewID:   func() [16]byte { n++; return [16]byte{0: 1, 14: byte(n >> 8), 15: byte(n)} },
	})
	w.m.TakeOffice(w.now)
	return w
}

// commit applies commands as raft would.
func (w *world) commit(cmds ...raftmeta.Command) []raftmeta.Result {
	w.index++
	w.entries++
	next, d, results := raftmeta.Apply(w.img, w.index, cmds...)
	if next != w.img {
		w.img = next
		w.m.Observe(next, d, w.now)
	}
	return results
}

// round decides and commits until nothing waits.
func (w *world) round(ops ...Op) map[Op]Answer {
	w.t.Helper()
	answers := map[Op]Answer{}
	var waiting []Request
	for _, op := range ops {
		if h, ok := op.(*Heartbeat); ok {
			if a, err, wait := w.m.Heard(h, w.now); !wait {
				answers[op] = Answer{Value: a, Err: err}
				continue
			}
		}
		waiting = append(waiting, Request{Op: op, Token: op})
	}
	note := func(list []Answer) {
		for _, a := range list {
			op := a.Token.(Op)
			if _, twice := answers[op]; twice {
				w.t.Fatalf("%T answered twice", op)
			}
			answers[op] = a
		}
	}
	for n := 0; n == 0 || len(waiting) > 0; n++ {
		if n > 10 {
			w.t.Fatalf("still waiting after %d plans: %v", n, waiting)
		}
		p := w.m.Decide(waiting, w.now)
		note(p.Answers)
		waiting = p.Later
		if len(p.Entries) == 0 {
			continue
		}
		w.last = p
		var results []raftmeta.Result
		for _, e := range p.Entries {
			if n := raftmeta.EntryBytes(e...); n > raftmeta.EntryBytesMax {
				w.t.Fatalf("an entry has %d bytes, at most %d can be proposed", n, raftmeta.EntryBytesMax)
			}
			results = append(results, w.commit(e...)...)
		}
		note(w.m.Complete(p, results, nil, w.now))
	}
	if len(answers) != len(ops) {
		w.t.Fatalf("%d answers to %d requests", len(answers), len(ops))
	}
	return answers
}

// one asks for one thing.
func (w *world) one(op Op) (any, error) {
	w.t.Helper()
	a := w.round(op)[op]
	return a.Value, a.Err
}

func incarnation(id int32, life byte) [16]byte { return [16]byte{0: byte(id), 1: life} }

func registration(id int32, rack string, life byte) *Registration {
	return &Registration{
		ID: id, Host: fmt.Sprintf("host%d", id), Port: 9092, Rack: rack, PeerHost: fmt.Sprintf("host%d", id), PeerPort: 9192,
		Incarnation: incarnation(id, life),
	}
}

// register registers a broker that stays fenced.
func (w *world) register(id int32, rack string, life byte) int64 {
	w.t.Helper()
	v, err := w.one(registration(id, rack, life))
	if err != nil {
		w.t.Fatalf("register %d: %v", id, err)
	}
	return v.(int64)
}

// join registers brokers and lets them be unfenced.
func (w *world) join(racks map[int32]string, ids ...int32) {
	w.t.Helper()
	for _, id := range ids {
		w.register(id, racks[id], 1)
		w.beat(id)
		if w.img.Broker(id).Fenced {
			w.t.Fatalf("broker %d is still fenced", id)
		}
	}
}

func (w *world) heartbeat(id int32) *Heartbeat {
	return &Heartbeat{Broker: id, Epoch: w.img.Broker(id).Epoch, Applied: w.img.Version}
}

func (w *world) beat(id int32) HeartbeatAnswer {
	w.t.Helper()
	v, err := w.one(w.heartbeat(id))
	if err != nil {
		w.t.Fatalf("heartbeat of %d: %v", id, err)
	}
	return v.(HeartbeatAnswer)
}

// pass lets time go by; brokers that are not silent send heartbeats, and deadlines are kept.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(beat, end.Sub(w.now)))
		for _, b := range w.img.Brokers() {
			if !w.silent[b.ID] {
				w.beat(b.ID)
			}
		}
		if due, ok := w.m.Deadline(); ok && !w.now.Before(due) {
			w.round()
		}
	}
}

func (w *world) kill(ids ...int32) {
	w.t.Helper()
	for _, id := range ids {
		w.silent[id] = true
	}
	w.pass(sessionMax + beat)
	for _, id := range ids {
		if !w.img.Broker(id).Fenced {
			w.t.Fatalf("broker %d is not fenced after %s of silence", id, sessionMax+beat)
		}
	}
}

// revive lets a fenced broker's process be heard of again.
func (w *world) revive(id int32) {
	w.t.Helper()
	w.silent[id] = false
	w.beat(id)
}

// topic makes a topic with these replicas.
func (w *world) topic(name string, assignment ...[]int32) {
	w.t.Helper()
	w.topicWith(name, nil, assignment...)
}

func (w *world) topicWith(name string, configs map[string]string, assignment ...[]int32) {
	w.t.Helper()
	v, err := w.one(&CreateTopics{Topics: []raftmeta.CreateTopic{{Name: name, Assignment: assignment, Configs: configs}}})
	if err != nil {
		w.t.Fatal(err)
	}
	if r := v.([]raftmeta.Result)[0]; r.Err != nil {
		w.t.Fatal(r.Err)
	}
}

func (w *world) part(topic string, index int) raftmeta.Partition {
	return w.img.Topic(topic).Partitions[index]
}

// setISR has the leader of a partition ask for an ISR.
func (w *world) setISR(topic string, index int32, isr ...int32) ISRResult {
	w.t.Helper()
	p := w.part(topic, int(index))
	return w.alter(p.Leader, w.change(topic, index, isr...))
}

func (w *world) change(topic string, index int32, isr ...int32) ISRChange {
	t := w.img.Topic(topic)
	p := t.Partitions[index]
	c := ISRChange{TopicID: t.ID, Partition: index, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range isr {
		epoch := int64(-1)
		if b := w.img.Broker(id); b != nil {
			epoch = b.Epoch
		}
		c.ISR = append(c.ISR, ISRMember{id, epoch})
	}
	return c
}

func (w *world) alter(broker int32, c ISRChange) ISRResult {
	w.t.Helper()
	v, err := w.one(&AlterISR{Broker: broker, BrokerEpoch: w.img.Broker(broker).Epoch, Changes: []ISRChange{c}})
	if err != nil {
		w.t.Fatalf("AlterISR: %v", err)
	}
	return v.([]ISRResult)[0]
}

// is checks what a partition has come to.
func (w *world) is(topic string, index int, leader, leaderEpoch int32, isr ...int32) {
	w.t.Helper()
	p := w.part(topic, index)
	if p.Leader != leader || p.LeaderEpoch != leaderEpoch || !slices.Equal(p.ISR, isr) {
		w.t.Fatalf("%s-%d: leader %d, epoch %d, ISR %v; want %d, %d, %v", topic, index, p.Leader, p.LeaderEpoch, p.ISR, leader, leaderEpoch, isr)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}
