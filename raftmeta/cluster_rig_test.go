package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/vfs"
	"weir/uring"
)

// The rig runs several nodes in one process, in a bubble of testing/synctest: time passes only when all of them wait, so a test of minutes
// takes milliseconds and no bound on a wait depends on the machine.

// network carries messages between the nodes of a rig.
type network struct {
	mu struct {
		sync.Mutex
		nodes map[string]*Meta
		cut   map[[2]int32]bool // from, to
		loss  float64           // of messages, answers too
		rng   *rand.Rand
		delay time.Duration
		sent  map[RPC]int
		from  map[int32]map[RPC]int
		votes map[vote]int32 // for whom
		twice []string       // votes for two in one term
	}
}

// vote is one that a node has in a term.
type vote struct {
	node int32
	term uint64
}

// cast notes that a node has voted. It has one vote in a term, however often it is started anew.
func (n *network) cast(node int32, term uint64, candidate int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := vote{node, term}
	if before, voted := n.mu.votes[v]; voted && before != candidate {
		n.mu.twice = append(n.mu.twice, fmt.Sprintf("node %d voted for node %d and for node %d in term %d", node, before, candidate, term))
	}
	n.mu.votes[v] = candidate
}

func (n *network) voted() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.mu.votes)
}

// checkVotes fails if a node has voted for two in one term.
func (r *rig) checkVotes() {
	r.t.Helper()
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	for _, t := range r.net.mu.twice {
		r.t.Error(t)
	}
}

var errLost = errors.New("message lost")

func newNetwork(seed uint64) *network {
	n := &network{}
	n.mu.nodes = make(map[string]*Meta)
	n.mu.cut = make(map[[2]int32]bool)
	n.mu.votes = make(map[vote]int32)
	n.mu.rng = rand.New(rand.NewPCG(seed, 1))
	n.mu.delay = 100 * time.Microsecond
	n.reset()
	return n
}

func (n *network) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.sent, n.mu.from = make(map[RPC]int), make(map[int32]map[RPC]int)
}

// passes takes the time of a message, and says whether it arrives. One that does not is only missed: its sender waits.
func (n *network) passes(ctx context.Context, from, to int32) error {
	n.mu.Lock()
	lost := n.mu.cut[[2]int32{from, to}] || n.mu.rng.Float64() < n.mu.loss
	delay := n.mu.delay
	n.mu.Unlock()
	if lost {
		<-ctx.Done()
		return errLost
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// line is one node's way to the others.
type line struct {
	n    *network
	from int32
}

func (l line) Send(ctx context.Context, node int32, addr string, rpc RPC, body []byte) ([]byte, error) {
	n := l.n
	if len(body) > MessageBytesMax {
		return nil, fmt.Errorf("BUG: message of %d bytes", len(body))
	}
	n.mu.Lock()
	n.mu.sent[rpc]++
	if n.mu.from[l.from] == nil {
		n.mu.from[l.from] = make(map[RPC]int)
	}
	n.mu.from[l.from][rpc]++
	n.mu.Unlock()
	if err := n.passes(ctx, l.from, node); err != nil {
		return nil, err
	}
	n.mu.Lock()
	m := n.mu.nodes[addr]
	n.mu.Unlock()
	if m == nil {
		return nil, errors.New("connection refused")
	}
	answer, err := m.HandleRPC(ctx, rpc, slices.Clone(body))
	if err != nil {
		return nil, err
	}
	if rpc == RPCRequestVote {
		_ = decodeAnswer(answer, func(d *decoder) {
			if d.uint(); d.bool() {
				n.cast(node, votedIn(body), l.from)
			}
		})
	}
	if err := n.passes(ctx, node, l.from); err != nil {
		return nil, err
	}
	return answer, nil
}

// votedIn is the term of a request for a vote.
func votedIn(body []byte) uint64 {
	d := &decoder{b: body}
	return decodeVote(d, decodeHead(d)).Term
}

// isolate cuts a node off, or not.
func (n *network) isolate(node int32, cut bool, nodes ...int32) {
	for _, other := range nodes {
		n.cut(node, other, cut)
		n.cut(other, node, cut)
	}
}

func (n *network) cut(from, to int32, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cut[[2]int32{from, to}] = cut
}

func (n *network) attach(addr string, m *Meta) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m == nil {
		delete(n.mu.nodes, addr)
	} else {
		n.mu.nodes[addr] = m
	}
}

func (n *network) count(from int32, rpc RPC) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.from[from][rpc]
}

// rig is a cluster.
type rig struct {
	t      *testing.T
	net    *network
	nodes  map[int32]*node
	change func(*Options)
}

type node struct {
	*Meta
	id     int32
	fs     *faultFS
	office []string // what OnOffice said
	mu     sync.Mutex
}

func addrOf(id int32) string { return fmt.Sprintf("node%d:9192", id) }

// cluster runs fn with n nodes that are all voters.
func cluster(t *testing.T, n int, fn func(t *testing.T, r *rig)) { clusterWith(t, n, nil, fn) }

func clusterWith(t *testing.T, n int, change func(*Options), fn func(t *testing.T, r *rig)) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, net: newNetwork(seed), nodes: make(map[int32]*node), change: change}
		var voters []Voter
		for id := range int32(n) {
			voters = append(voters, Voter{id + 1, addrOf(id + 1)})
		}
		for id := range int32(n) {
			r.nodes[id+1] = &node{id: id + 1, fs: &faultFS{FS: vfs.NewMem()}}
			r.start(id+1, voters)
		}
		defer r.stopAll()
		fn(t, r)
		r.checkVotes()
	})
}

func (r *rig) start(id int32, voters []Voter) *node {
	r.t.Helper()
	x := r.nodes[id]
	if x == nil {
		x = &node{id: id, fs: &faultFS{FS: vfs.NewMem()}}
		r.nodes[id] = x
	}
	o := r.options(id, voters)
	m, err := Open(o)
	if err != nil {
		r.t.Fatalf("node %d: %v", id, err)
	}
	x.Meta = m
	r.net.attach(o.PeerAddr, m)
	return x
}

func (r *rig) options(id int32, voters []Voter) Options {
	x := r.nodes[id]
	o := Options{
		FS: x.fs, Dir: "/data/meta", NodeID: id, Sender: line{r.net, id}, PeerAddr: addrOf(id), Voters: voters,
		FileBytes: logFileBytesMin, FilesMax: logFilesMin, Ring: uring.Options{Backend: uring.BackendPortable},
		Logger: slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", id),
		OnOffice: func(term uint64, leading bool) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.office = append(x.office, fmt.Sprint(term, leading))
			if leading {
				r.net.cast(id, term, id)
			}
		},
	}
	if r.change != nil {
		r.change(&o)
	}
	return o
}

// stop ends a node in order.
func (r *rig) stop(id int32) {
	r.t.Helper()
	x := r.nodes[id]
	if x.Meta == nil {
		return
	}
	err := x.Close()
	r.net.attach(x.o.PeerAddr, nil)
	if err != nil && x.Poisoned() == nil {
		r.t.Errorf("close node %d: %v", id, err)
	}
	x.Meta = nil
}

func (r *rig) stopAll() {
	for _, x := range r.nodes {
		if x.Meta != nil {
			x.fs.heal()
			r.stop(x.id)
		}
	}
}

// running are the nodes that are up and not poisoned, by id.
func (r *rig) running() []*node {
	var up []*node
	for id := range int32(16) {
		if x := r.nodes[id]; x != nil && x.Meta != nil && x.Poisoned() == nil {
			up = append(up, x)
		}
	}
	return up
}

// until waits for what must become true, of simulated time only.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	const patience = 2 * time.Minute
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			for _, x := range r.running() {
				first, _ := x.store.FirstIndex()
				last, _ := x.store.LastIndex()
				snapped, _ := x.snaps.anchor()
				y := x.raft()
				r.t.Logf("node %d: %s of term %d, log %d to %d, last %d, commit %d, applied %d, snapshot %d, image %d, quorum %+v", x.id, y.State(), y.CurrentTerm(),
					first, last, y.LastIndex(), y.CommitIndex(), y.AppliedIndex(), snapped, x.Image().Version, x.Quorum())
			}
			r.t.Fatalf("not within %s of simulated time: %s", patience, what)
		}
	}
}

// leader waits for the node in office, among those given or all.
func (r *rig) leader(among ...int32) *node {
	r.t.Helper()
	var found *node
	r.until("a leader", func() bool {
		for _, x := range r.running() {
			if x.Leading() && (len(among) == 0 || slices.Contains(among, x.id)) {
				found = x
				return true
			}
		}
		return false
	})
	return found
}

func (r *rig) others(id int32) []int32 {
	var ids []int32
	for _, x := range r.running() {
		if x.id != id {
			ids = append(ids, x.id)
		}
	}
	return ids
}

// allReady waits until every node is ready.
func (r *rig) allReady() {
	r.t.Helper()
	for _, x := range r.running() {
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
		if err := x.Ready(ctx); err != nil {
			r.t.Fatalf("node %d: %v", x.id, err)
		}
		cancel()
	}
}

// create makes a topic at whoever leads, and tries again where it is not known whether that has worked.
func (r *rig) create(name string) *Topic {
	r.t.Helper()
	var topic *Topic
	r.until("topic "+name, func() bool {
		for _, x := range r.running() {
			results, err := x.Propose(r.t.Context(), CreateTopic{Name: name, Assignment: [][]int32{{1}}})
			switch {
			case err != nil:
			case results[0].Err == nil:
				topic = results[0].Topic
			case errors.Is(results[0].Err, ErrTopicExists):
				topic = x.Image().Topic(name)
			default:
				r.t.Fatalf("create %s: %v", name, results[0].Err)
			}
		}
		return topic != nil
	})
	return topic
}

// converged waits until all nodes have the same image, and returns it.
func (r *rig) converged() *Image {
	r.t.Helper()
	r.until("equal images", func() bool {
		up := r.running()
		for _, x := range up[1:] {
			if x.Image().Version != up[0].Image().Version {
				return false
			}
		}
		return true
	})
	up := r.running()
	for _, x := range up[1:] {
		if !x.Image().equal(up[0].Image()) {
			r.t.Fatalf("nodes %d and %d have different images of version %d", up[0].id, x.id, x.Image().Version)
		}
	}
	return up[0].Image()
}

// crash cuts a node's power: it starts again on what was on disk at that moment.
func (r *rig) crash(id int32, rng *rand.Rand) { r.crashTo(id, rng, nil) }

func (r *rig) crashTo(id int32, rng *rand.Rand, voters []Voter) {
	r.t.Helper()
	x := r.nodes[id]
	r.net.attach(x.o.PeerAddr, nil)
	r.net.isolate(id, true, r.others(id)...) // what it says after its end it has not said
	left := x.fs.FS.(*vfs.MemFS).CrashClone(rng, rng.Float64())
	_ = x.Close()
	x.Meta = nil
	r.net.isolate(id, false, r.others(id)...)
	x.fs = &faultFS{FS: left}
	r.start(id, voters)
}
