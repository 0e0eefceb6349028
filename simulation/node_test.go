package simulation

import (
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"weir/controller/machine"
	"weir/raftmeta"
)

const (
	sessionTimeout = 1500 * time.Millisecond
	beatEvery      = 250 * time.Millisecond
	callTimeout    = 2 * time.Second
)

// key names a partition.
type key struct {
	topic [16]byte
	index int32
}

// node is one process with its disk. What a crash takes is made anew by boot.
type node struct {
	w       *world
	id      int32
	life    int
	up      bool
	paused  bool
	stalled bool // the disk flushes nothing
	waiting []func()

	// The metadata as the node knows it; raft's log is on its disk, so a restart begins with some of it.
	applied      int
	img          *raftmeta.Image
	controllerID int32

	incarnation [16]byte
	epoch       int64 // of the registration, -1: none
	open        bool  // the partitions are
	replicas    map[key]*replica
	disk        map[key]*replica // those of the life before

	ctl      *machine.Machine
	term     uint64
	requests []machine.Request
	flight   bool
	armed    time.Time
}

func (w *world) node(id int32) *node { return w.nodes[id-1] }

// alive wraps what is to happen in this life only, and not while the process stands still.
func (n *node) alive(fn func(any, error)) func(any, error) {
	life := n.life
	return func(v any, err error) { n.enter(life, func() { fn(v, err) }) }
}

// do has fn happen later in this life.
func (n *node) do(d time.Duration, what string, fn func()) {
	life := n.life
	n.w.after(d, what, func() { n.enter(life, fn) })
}

func (n *node) enter(life int, fn func()) {
	switch {
	case !n.up || n.life != life:
	case n.paused:
		n.waiting = append(n.waiting, func() { n.enter(life, fn) })
	default:
		fn()
	}
}

// pause stops the process; resume lets it go on with all that has come meanwhile.
func (n *node) pause() { n.paused = true }

func (n *node) resume() {
	n.paused = false
	list := n.waiting
	n.waiting = nil
	for _, fn := range list {
		fn()
	}
	n.arm()
}

// boot starts the process.
func (n *node) boot() {
	n.life++
	n.up, n.paused, n.open, n.flight = true, false, false, false
	n.waiting, n.requests, n.armed = nil, nil, time.Time{}
	n.epoch, n.controllerID = -1, -1
	binary.BigEndian.PutUint32(n.incarnation[:], uint32(n.id))
	binary.BigEndian.PutUint32(n.incarnation[4:], uint32(n.life))
	n.replicas = map[key]*replica{}
	// Raft knows that its log is committed only from the leader: a restart begins with a snapshot.
	n.applied = n.w.rng.IntN(n.applied + 1)
	n.img = n.w.quorum.image(n.applied)
	ids := 0
	n.ctl = machine.New(machine.Config{
		NodeID: n.id, SessionTimeout: sessionTimeout, BalanceInterval: 5 * time.Second, BalancePercent: 0,
		NewID: func() (id [16]byte) {
			ids++
			id[0] = 1
			binary.BigEndian.PutUint32(id[4:], uint32(n.id))
			binary.BigEndian.PutUint32(id[8:], uint32(n.life))
			binary.BigEndian.PutUint32(id[12:], uint32(ids))
			return id
		},
	})
	n.ctl.Observe(n.img, nil, n.w.now)
	n.w.note("node %d starts its life %d with entry %d", n.id, n.life, n.applied)
	n.do(n.w.between(0, 20*time.Millisecond), "beat", n.beat)
	n.do(quorumTick, "contact", n.contact)
}

// crash ends the process. Of each log a part of what was not flushed may be gone.
func (n *node) crash() {
	n.w.note("node %d crashes", n.id)
	n.up, n.stalled = false, false
	n.w.quorum.crashed(n)
	for k, r := range n.replicas {
		n.disk[k] = r
	}
	for _, k := range sortedKeys(n.disk) {
		if n.replicas[k] != nil {
			n.disk[k].crash()
		}
	}
	for _, m := range n.w.nodes {
		if m != n && m.up && n.w.net.reaches(n.id, m.id) && !n.w.chance(4) {
			m.do(n.w.between(time.Millisecond, 5*time.Millisecond), "peer gone", func() {
				m.ctl.PeerGone(n.id, n.w.now)
				m.decide()
			})
		}
	}
}

func sortedKeys(m map[key]*replica) []key {
	return slices.SortedFunc(maps.Keys(m), func(a, b key) int {
		return cmp.Or(slices.Compare(a.topic[:], b.topic[:]), cmp.Compare(a.index, b.index))
	})
}

// contact is the node's connection with the leader of the metadata.
func (n *node) contact() {
	n.do(n.w.between(quorumTick, 3*quorumTick), "contact", n.contact)
	n.w.quorum.refresh(n)
}

// learn applies the entries up to an index.
func (n *node) learn(index int) {
	for n.applied < index {
		e := n.w.quorum.entries[n.applied]
		n.applied++
		n.img = e.img
		n.ctl.Observe(e.img, e.delta, n.w.now)
		if n.open {
			n.follow(e.delta)
		}
	}
	if !n.open && n.epoch >= 0 && n.applied >= int(n.epoch) {
		n.openAll()
	}
	n.decide()
}

// openAll opens the partitions; what the metadata says of them is of a former life.
func (n *node) openAll() {
	n.open = true
	for t := range n.img.Topics() {
		for i := range t.Partitions {
			n.place(t, int32(i), true)
		}
	}
	n.disk = map[key]*replica{}
}

// follow takes a change of the metadata.
func (n *node) follow(d *raftmeta.Delta) {
	for _, list := range [][]*raftmeta.Topic{d.Created, d.Changed} {
		for _, t := range list {
			for i := range t.Partitions {
				n.place(t, int32(i), false)
			}
		}
	}
}

// place gives a partition its role here, if it has one.
func (n *node) place(t *raftmeta.Topic, index int32, former bool) {
	k, meta := key{t.ID, index}, &t.Partitions[index]
	r := n.replicas[k]
	if !slices.Contains(meta.Replicas, n.id) {
		if r != nil {
			r.leave()
			delete(n.replicas, k) // its log with it
		}
		return
	}
	if r == nil {
		r = n.disk[k]
		if r == nil || !former {
			r = newReplica(k)
		}
		n.replicas[k] = r
		r.start(n)
	}
	r.setRole(meta, former)
}

// beat registers the node, or sends its heartbeat.
func (n *node) beat() {
	n.do(beatEvery, "beat", n.beat)
	if n.controllerID < 0 {
		return
	}
	if n.epoch < 0 {
		reg := machine.Registration{ID: n.id, Host: "h", Port: 9092, PeerHost: "p", PeerPort: 9192, Incarnation: n.incarnation}
		n.ask(n.controllerID, "register", &reg, func(v any, err error) {
			if epoch, ok := v.(int64); ok && err == nil && n.epoch < 0 {
				n.epoch = epoch
				n.learn(n.applied)
			}
		})
		return
	}
	if !n.open {
		return
	}
	h := &machine.Heartbeat{Broker: n.id, Epoch: n.epoch, Applied: uint64(n.applied)}
	n.ask(n.controllerID, "heartbeat", h, func(_ any, err error) {
		if errors.Is(err, machine.ErrStaleBrokerEpoch) || errors.Is(err, machine.ErrUnknownBroker) {
			n.w.note("node %d: %v", n.id, err)
		}
	})
}

// ask has the controller on another node, or here, decide about something.
func (n *node) ask(to int32, what string, op machine.Op, done func(any, error)) {
	type result struct {
		value any
		err   error
	}
	n.w.net.call(n, to, what, callTimeout, func(c *node, reply func(any)) {
		c.request(op, func(v any, err error) { reply(result{v, err}) })
	}, func(v any, err error) {
		if r, ok := v.(result); ok {
			done(r.value, r.err)
			return
		}
		done(nil, err)
	})
}

// request gives the machine something to do; reply is called once.
func (n *node) request(op machine.Op, reply func(any, error)) {
	if h, ok := op.(*machine.Heartbeat); ok {
		if a, err, wait := n.ctl.Heard(h, n.w.now); !wait {
			reply(a, err)
			return
		}
	}
	if !n.ctl.InOffice() {
		reply(nil, machine.ErrNotController)
		return
	}
	n.requests = append(n.requests, machine.Request{Op: op, Token: reply})
	n.decide()
}

// office tells the node that it leads the metadata, or leads no more.
func (n *node) office(term uint64, leading bool) {
	switch {
	case !leading && (!n.ctl.InOffice() || n.term != term), leading && n.ctl.InOffice():
		if !leading {
			return
		}
		n.ctl.LeaveOffice()
	case !leading:
		n.ctl.LeaveOffice()
	}
	if !leading {
		for _, r := range n.requests {
			n.answer(machine.Answer{Token: r.Token, Err: machine.ErrNotController})
		}
		n.requests = nil
		return
	}
	n.term, n.controllerID = term, n.id
	n.ctl.TakeOffice(n.w.now)
	n.decide()
}

func (n *node) answer(a machine.Answer) { a.Token.(func(any, error))(a.Value, a.Err) }

// decide runs the machine, unless a plan is under way.
func (n *node) decide() {
	if n.flight || !n.up {
		return
	}
	plan := n.ctl.Decide(n.requests, n.w.now)
	n.requests = plan.Later
	n.flight = len(plan.Entries) > 0 // before the answers, which may lead back here
	for _, a := range plan.Answers {
		n.answer(a)
	}
	if len(plan.Entries) > 0 {
		n.fly(plan, plan.Entries, nil)
	}
	n.arm()
}

// fly commits a plan's entries, of which the first ones are done, one after another.
func (n *node) fly(plan *machine.Plan, entries [][]raftmeta.Command, results []raftmeta.Result) {
	n.w.quorum.propose(n, entries[0], func(more []raftmeta.Result, err error) {
		results = append(results, more...)
		if err == nil && len(entries) > 1 {
			n.fly(plan, entries[1:], results)
			return
		}
		n.land(plan, results, err)
	})
}

func (n *node) land(plan *machine.Plan, results []raftmeta.Result, err error) {
	if errors.Is(err, errNotLeader) {
		err = machine.ErrNotController
	}
	n.flight = false
	for _, a := range n.ctl.Complete(plan, results, err, n.w.now) {
		n.answer(a)
	}
	n.decide()
}

// arm wakes the machine when it has something to do although nothing came.
func (n *node) arm() {
	at, ok := n.ctl.Deadline()
	if !ok || n.flight || n.paused || !n.armed.IsZero() && n.armed.After(n.w.now) && !at.Before(n.armed) {
		return
	}
	n.armed = at
	n.do(max(0, at.Sub(n.w.now)), "deadline", func() {
		if n.armed.Equal(at) {
			n.armed = time.Time{}
		}
		n.ctl.Woke(at, n.w.now)
		n.decide()
	})
}
