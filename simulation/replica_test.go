package simulation

import (
	"errors"
	"slices"
	"time"

	ctl "weir/controller/machine"
	"weir/raftmeta"
	"weir/replica/machine"
)

const (
	lagMax    = 600 * time.Millisecond
	fetchMax  = 20 // records in one answer
	fetchIdle = 20 * time.Millisecond
)

// rec is one record: the epoch that wrote it, and a value that no other has.
type rec struct {
	epoch int32
	value uint64
}

// replica is one partition on one node: a log on a disk, and what package replica's Partition is around the machines.
type replica struct {
	n        *node
	key      key
	log      []rec
	durable  int64
	hw       int64
	savedHW  int64 // as of the last checkpoint
	epochs   machine.Epochs
	flushing bool

	role    role
	lead    *machine.Leader
	start0  int64 // where the present epoch begins, if it leads
	fol     *machine.Follower
	asks    int // numbers the present following
	cutting bool
	next    *raftmeta.Partition
	acks    []ack
}

type role struct {
	leader, epoch, partitionEpoch int32
	replicas, isr                 []int32
	former, leads, follows        bool
}

// ack waits for the high watermark to pass an offset.
type ack struct {
	end  int64
	done func(ok bool)
}

func newReplica(k key) *replica { return &replica{key: k} }

func (r *replica) end() int64 { return int64(len(r.log)) }

// start brings a log back after a crash, or begins an empty one.
func (r *replica) start(n *node) {
	*r = replica{n: n, key: r.key, log: r.log, durable: int64(len(r.log)), hw: r.savedHW, savedHW: r.savedHW, epochs: r.epochs}
	r.role.epoch, r.role.leader = -1, -1
}

// crash leaves what was flushed and any part of the rest. The epochs are those of the records that are left: the file only saves reading them.
func (r *replica) crash() {
	keep := r.durable + r.n.w.rng.Int64N(r.end()-r.durable+1)
	r.log = slices.Clone(r.log[:keep])
	r.epochs = machine.Epochs{}
	last := int32(-1)
	for i, x := range r.log {
		if x.epoch > last {
			r.epochs.Assign(x.epoch, int64(i))
			last = x.epoch
		}
	}
	r.savedHW = min(r.savedHW, keep)
}

func (r *replica) state() machine.LogState {
	return machine.LogState{Start: 0, HW: r.hw, Durable: r.durable, End: r.end(), Epochs: &r.epochs}
}

// flush makes durable what is in the log now, some time later.
func (r *replica) flush() {
	if r.flushing || r.durable == r.end() {
		return
	}
	r.flushing = true
	end := r.end()
	r.n.do(r.n.w.between(100*time.Microsecond, 4*time.Millisecond), "flushed", func() { r.flushed(end) })
}

func (r *replica) flushed(end int64) {
	if r.n.stalled {
		r.n.do(20*time.Millisecond, "flush stalls", func() { r.flushed(end) })
		return
	}
	r.flushing = false
	r.durable = max(r.durable, min(end, r.end()))
	if r.lead != nil {
		hw, _ := r.lead.Durable(r.durable)
		r.raise(hw)
	}
	r.flush()
}

func (r *replica) raise(hw int64) {
	if hw <= r.hw {
		return
	}
	r.hw = hw
	if r.n.w.chance(20) {
		r.savedHW = hw
	}
	r.n.w.model.committed(r)
	r.acknowledge()
}

func (r *replica) acknowledge() {
	for len(r.acks) > 0 && r.acks[0].end <= r.hw {
		a := r.acks[0]
		r.acks = r.acks[1:]
		a.done(true)
	}
}

func (r *replica) refuse() {
	list := r.acks
	r.acks = nil
	for _, a := range list {
		a.done(false)
	}
}

// leave ends all that the replica does here. What it has sent may be on its way still.
func (r *replica) leave() {
	r.lead, r.fol, r.next = nil, nil, nil
	r.asks++
	r.role = role{leader: -1, epoch: r.role.epoch}
	r.refuse()
}

// setRole is Partition.setRole.
func (r *replica) setRole(meta *raftmeta.Partition, former bool) {
	if r.cutting {
		r.next = meta
		return
	}
	old := r.role
	if meta.LeaderEpoch < old.epoch {
		return
	}
	next := role{leader: meta.Leader, epoch: meta.LeaderEpoch, partitionEpoch: meta.PartitionEpoch, replicas: meta.Replicas, isr: meta.ISR}
	next.former = former && len(meta.Replicas) > 1 && meta.Leader == r.n.id
	next.leads = meta.Leader == r.n.id && !next.former
	next.follows = meta.Leader != r.n.id && meta.Leader >= 0
	if old.former && next.epoch == old.epoch && next.leads {
		next.leads, next.former = false, true
	}
	began := next.leads && (!old.leads || old.epoch != next.epoch)
	r.role = next
	switch {
	case began:
		r.begin()
	case next.leads:
		r.outcome(r.lead.Updated(next.partitionEpoch, next.isr, next.replicas, r.n.w.now))
	case old.leads:
		r.lead = nil
		r.refuse()
	}
	if !next.leads {
		r.epochs.TruncateEnd(r.end())
	}
	if r.lead != nil && !r.lead.Enough() {
		r.refuse()
	}
	if !next.follows {
		r.fol = nil
	} else if r.fol == nil || r.fol.Epoch() != next.epoch || old.leader != next.leader {
		r.fol = machine.NewFollower(next.epoch)
		r.asks++
		r.ask(r.asks)
	}
}

// begin begins a leadership.
func (r *replica) begin() {
	r.refuse()
	r.start0 = r.end()
	r.epochs.Assign(r.role.epoch, r.end())
	r.lead = machine.NewLeader(machine.LeaderConfig{
		Self: r.n.id, Epoch: r.role.epoch, PartitionEpoch: r.role.partitionEpoch, Replicas: r.role.replicas, ISR: r.role.isr,
		MinISR: minISR, Start: r.start0, HW: r.hw, Durable: r.durable, LagMax: lagMax,
	}, r.n.w.now)
	r.n.w.model.elected(r)
	r.raise(r.lead.HW())
	r.tick(r.lead)
}

// tick looks for laggards as long as this leadership lasts.
func (r *replica) tick(of *machine.Leader) {
	r.n.do(lagMax/4, "tick", func() {
		if r.lead == of {
			r.outcome(of.Tick(r.n.w.now, r.end()))
			r.tick(of)
		}
	})
}

func (r *replica) outcome(o machine.Outcome) {
	r.raise(o.HW)
	if o.Propose != nil {
		r.propose(o.Propose)
	}
}

// propose asks the controller for other in-sync replicas.
func (r *replica) propose(c *machine.ISRChange) {
	lead := r.lead
	if lead == nil || lead.Proposed() != c {
		return
	}
	members := make([]ctl.ISRMember, len(c.ISR))
	for i, m := range c.ISR {
		members[i] = ctl.ISRMember(m)
		if m.ID == r.n.id {
			members[i].BrokerEpoch = r.n.epoch
		}
	}
	if r.n.controllerID < 0 {
		r.again(lead, c)
		return
	}
	op := &ctl.AlterISR{Broker: r.n.id, BrokerEpoch: r.n.epoch, Changes: []ctl.ISRChange{{
		TopicID: r.key.topic, Partition: r.key.index, LeaderEpoch: c.Epoch, PartitionEpoch: c.PartitionEpoch, ISR: members}}}
	r.n.ask(r.n.controllerID, "alter ISR", op, func(v any, err error) {
		if r.lead != lead || lead.Proposed() != c {
			return
		}
		var result ctl.ISRResult
		if list, ok := v.([]ctl.ISRResult); ok && err == nil {
			result = list[0]
			err = result.Err
		}
		r.altered(lead, c, result, err)
	})
}

// altered is Partition.altered.
func (r *replica) altered(lead *machine.Leader, c *machine.ISRChange, result ctl.ISRResult, err error) {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
	}
	switch {
	case err == nil && result.LeaderEpoch == c.Epoch && result.PartitionEpoch == c.PartitionEpoch:
		r.outcome(lead.Confirmed(c))
	case err == nil:
	case is(ctl.ErrFencedLeaderEpoch, ctl.ErrInvalidUpdate):
		r.outcome(lead.Refused(c, machine.RefusedStale, r.n.w.now))
	case is(ctl.ErrIneligibleReplica):
		r.outcome(lead.Refused(c, machine.RefusedIneligible, r.n.w.now))
	default:
		lead.Refused(c, machine.RefusedRetry, r.n.w.now)
		r.again(lead, c)
	}
}

func (r *replica) again(lead *machine.Leader, c *machine.ISRChange) {
	r.n.do(r.n.w.between(50*time.Millisecond, 300*time.Millisecond), "propose again", func() {
		if r.lead == lead {
			r.propose(c)
		}
	})
}

// append is a produce with acks=all of one value.
func (r *replica) append(value uint64, done func(offset int64, ok bool)) {
	if !r.role.leads || r.lead == nil || !r.lead.Enough() || r.cutting {
		done(-1, false)
		return
	}
	offset := r.end()
	r.log = append(r.log, rec{r.role.epoch, value})
	r.n.w.model.wrote(r)
	r.acks = append(r.acks, ack{offset + 1, func(ok bool) { done(offset, ok) }})
	r.flush()
}

// fetched is what a leader answers.
type fetched struct {
	answer  machine.Answer
	records []rec
}

// ask is the fetcher's loop for one following.
func (r *replica) ask(number int) {
	fol := r.fol
	if fol == nil || r.asks != number || r.cutting {
		return
	}
	ask, ok := fol.Ask(r.state())
	if !ok {
		if fol.Phase() != machine.Fenced {
			r.n.do(5*time.Millisecond, "not the time to ask", func() { r.ask(number) })
		}
		return
	}
	me, epoch := r.n.id, r.n.epoch
	r.n.w.net.call(r.n, r.role.leader, "fetch", 700*time.Millisecond, func(l *node, reply func(any)) {
		reply(l.serveFetch(r.key, me, epoch, ask))
	}, func(v any, err error) {
		if r.fol != fol || r.asks != number {
			return
		}
		f, ok := v.(fetched)
		if !ok {
			r.n.do(r.n.w.between(5*time.Millisecond, 50*time.Millisecond), "fetch again", func() { r.ask(number) })
			return
		}
		f.answer.Epoch, f.answer.Offset = ask.CurrentEpoch, ask.Offset
		r.take(number, f)
	})
}

// take does what an answer says, as fetcher.take.
func (r *replica) take(number int, f fetched) {
	act := r.fol.Answer(f.answer, r.state())
	pause := r.n.w.between(0, time.Millisecond)
	switch act.Do {
	case machine.DoAsk:
		r.progress(act.HW)
		pause = r.n.w.between(time.Millisecond, fetchIdle)
	case machine.DoAppend:
		r.appendFetched(f)
		r.await(number, act.HW)
		return
	case machine.DoTruncate, machine.DoReset:
		r.cut(number, act)
		return
	case machine.DoPause:
		pause = r.n.w.between(5*time.Millisecond, 50*time.Millisecond)
	case machine.DoWait:
		return
	}
	r.n.do(pause, "ask", func() { r.ask(number) })
}

// appendFetched appends what is new.
func (r *replica) appendFetched(f fetched) {
	for i, x := range f.records {
		at := f.answer.Offset + int64(i)
		if at < r.end() {
			continue
		}
		r.log = append(r.log, x)
		if latest, _, ok := r.epochs.Latest(); !ok || x.epoch > latest {
			r.epochs.Assign(x.epoch, at)
		}
	}
	r.flush()
}

// await asks again when all is durable.
func (r *replica) await(number int, hw int64) {
	if r.asks != number || r.fol == nil {
		return
	}
	if r.durable < r.end() {
		r.n.do(500*time.Microsecond, "not durable yet", func() { r.await(number, hw) })
		return
	}
	r.progress(hw)
	r.ask(number)
}

func (r *replica) progress(hw int64) {
	if hw >= 0 && r.role.follows {
		r.raise(machine.SafeHW(hw, r.state()))
	}
}

// cut truncates the log: a record of it is written first, which takes as long as any other; roles wait.
func (r *replica) cut(number int, act machine.Action) {
	r.cutting = true
	r.epochs.TruncateEnd(act.Offset)
	fol := r.fol
	var finish func()
	finish = func() {
		if r.n.stalled {
			r.n.do(20*time.Millisecond, "cut stalls", finish)
			return
		}
		if act.Do == machine.DoReset || act.Offset < r.hw {
			r.n.w.fail("node %d truncates %v to %d below its high watermark %d", r.n.id, r.key, act.Offset, r.hw)
		}
		r.log = r.log[:min(act.Offset, r.end())]
		r.durable = min(r.durable, r.end())
		r.savedHW = min(r.savedHW, r.end())
		r.cutting = false
		fol.Truncated()
		if next := r.next; next != nil {
			r.next = nil
			r.setRole(next, false)
		}
		if r.fol == fol {
			r.ask(number)
		}
	}
	r.n.do(r.n.w.between(time.Millisecond, 10*time.Millisecond), "cut", finish)
}

// serveFetch is the leader's side, as Partition.FollowerFetched and what broker/fetch does around it.
func (n *node) serveFetch(k key, from int32, brokerEpoch int64, ask machine.Ask) fetched {
	r := n.replicas[k]
	no := func(reply machine.Reply) fetched {
		return fetched{answer: machine.Answer{Reply: reply, HW: -1, LogStart: -1}}
	}
	switch {
	case r == nil || !n.open:
		return no(machine.ReplyUnknown)
	case ask.CurrentEpoch < r.role.epoch:
		return no(machine.ReplyFenced)
	case ask.CurrentEpoch > r.role.epoch || !r.role.leads || r.lead == nil || !slices.Contains(r.role.replicas, from):
		return no(machine.ReplyUnknown)
	}
	if ask.LastEpoch >= 0 {
		if epoch, at := r.epochs.EndFor(ask.LastEpoch, r.end()); epoch < ask.LastEpoch || at < ask.Offset {
			return fetched{answer: machine.Answer{Reply: machine.ReplyOK, HW: r.hw, Diverges: true, DivergingEpoch: epoch, DivergingEnd: at}}
		}
	}
	if ask.Offset > r.end() {
		return no(machine.ReplyOutOfRange)
	}
	r.outcome(r.lead.Fetched(machine.Fetched{Replica: from, BrokerEpoch: brokerEpoch, Offset: ask.Offset, LogEnd: r.end()}, n.w.now))
	records := slices.Clone(r.log[ask.Offset:min(r.end(), ask.Offset+1+n.w.rng.Int64N(fetchMax))])
	return fetched{machine.Answer{Reply: machine.ReplyOK, HW: r.hw, HasRecords: len(records) > 0}, records}
}
