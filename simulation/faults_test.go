package simulation

import (
	"time"

	"weir/controller/machine"
	"weir/raftmeta"
)

// faults makes trouble now and then until calm. Whatever it breaks, it mends some time later.
func (w *world) faults() {
	if w.calm {
		return
	}
	w.after(w.between(50*time.Millisecond, 2500*time.Millisecond), "fault", func() {
		if w.calm {
			return
		}
		w.fault()
		w.faults()
	})
}

func (w *world) fault() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	lasts := w.between(20*time.Millisecond, 5*time.Second)
	switch kind := w.rng.IntN(12); kind {
	case 0, 1, 2:
		w.crash(n, lasts)
	case 3: // all at once
		for _, n := range w.nodes {
			w.crash(n, w.between(10*time.Millisecond, 2*time.Second))
		}
	case 4:
		if n.up && !n.paused {
			w.note("node %d stands still", n.id)
			life := n.life
			n.pause()
			w.after(lasts, "goes on", func() { w.wakeUp(n, life) })
		}
	case 5, 6:
		w.note("the disk of node %d stalls", n.id)
		n.stalled = true
		w.after(lasts, "disk answers", func() { n.stalled = false })
	case 7, 8, 9:
		w.isolate(n, kind, lasts)
	case 10:
		w.reassign()
	case 11:
		w.elect()
	}
}

func (w *world) wakeUp(n *node, life int) {
	if n.up && n.life == life && n.paused {
		n.resume()
	}
}

// crash ends a process and starts it again.
func (w *world) crash(n *node, later time.Duration) {
	if !n.up {
		return
	}
	n.crash()
	w.after(later, "restart", n.boot)
}

// isolate cuts a node off: from all, or from one, in both directions or in one.
func (w *world) isolate(n *node, kind int, lasts time.Duration) {
	w.note("node %d is cut off, kind %d", n.id, kind)
	var cut []link
	for _, m := range w.nodes {
		if m == n || kind == 9 && w.chance(2) {
			continue
		}
		if kind != 8 || w.chance(2) {
			cut = append(cut, link{n.id, m.id})
		}
		if kind != 8 || len(cut) == 0 || cut[len(cut)-1].to != m.id {
			cut = append(cut, link{m.id, n.id})
		}
	}
	for _, l := range cut {
		w.net.cut[l] = true
	}
	w.after(lasts, "link is back", func() {
		for _, l := range cut {
			delete(w.net.cut, l)
		}
	})
}

// admin gives the controller something to do.
func (w *world) admin(op machine.Op, done func(any, error)) {
	if w.quorum.leader < 0 {
		done(nil, errNotLeader)
		return
	}
	n := w.node(w.quorum.leader)
	n.do(0, "admin", func() { n.request(op, done) })
}

// anyPartition draws one.
func (w *world) anyPartition() (t *raftmeta.Topic, index int32) {
	all := make([]*raftmeta.Topic, 0, 4)
	for t := range w.quorum.newest().Topics() {
		all = append(all, t)
	}
	if len(all) == 0 {
		return nil, 0
	}
	t = all[w.rng.IntN(len(all))]
	return t, w.rng.Int32N(int32(len(t.Partitions)))
}

// reassign moves a partition to other nodes, if there are any, or to the same in another order.
func (w *world) reassign() {
	t, index := w.anyPartition()
	if t == nil {
		return
	}
	ids := w.rng.Perm(len(w.nodes))
	replicas := make([]int32, len(t.Partitions[index].Replicas)-len(t.Partitions[index].Adding))
	for i := range replicas {
		replicas[i] = int32(ids[i] + 1)
	}
	if w.chance(4) {
		replicas = nil // cancel
	}
	w.note("reassign %s-%d to %v", t.Name, index, replicas)
	w.admin(&machine.Reassign{Partitions: []machine.Reassignment{{Topic: t.Name, Partition: index, Replicas: replicas}}}, func(any, error) {})
}

// elect asks for preferred leaders.
func (w *world) elect() {
	w.note("preferred leaders are asked for")
	w.admin(&machine.ElectLeaders{}, func(any, error) {})
}
