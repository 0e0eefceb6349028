package replica

import (
	"context"
	"sync/atomic"
	"time"

	"weir/internal/faultlog"
	"weir/internal/lockmeter"
	"weir/replica/machine"
)

// fetchers is the follower half of a node: one fetcher for each node that leads a partition followed here. Roles come from the metadata, and touch memory only.
type fetchers struct {
	m       *Manager
	catchUp catchUpBudget
	faults  *faultlog.Log
	mu      struct {
		lockmeter.Mutex
		byNode map[int32]*fetcher
		of     map[*Partition]*followed
		// One change of the metadata can be of thousands of partitions. Their fetchers are told when it is over.
		holding bool
		touched map[*fetcher]bool
	}
}

// hold has fetchers told of changes only by the release that follows.
func (fs *fetchers) hold() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.mu.holding = true
}

func (fs *fetchers) release() {
	fs.mu.Lock()
	touched := fs.mu.touched
	fs.mu.holding, fs.mu.touched = false, nil
	fs.mu.Unlock()
	for f := range touched {
		f.tell()
	}
}

// handLocked gives a partition to its fetcher, or takes it away.
func (fs *fetchers) handLocked(fl *followed, add bool) {
	fl.f.hand(fl, add)
	if !fs.mu.holding {
		fl.f.tell()
		return
	}
	if fs.mu.touched == nil {
		fs.mu.touched = map[*fetcher]bool{}
	}
	fs.mu.touched[fl.f] = true
}

// followed is one partition's following of one leader in one epoch: another epoch is another followed.
type followed struct {
	p     *Partition
	f     *fetcher
	epoch int32
	lag   atomic.Int64 // offsets that the leader's consumers see and this log does not have
	wait  Waiter       // pokes the fetcher when the log's durable end moves

	settling atomic.Bool // the fetcher waits for that, to ask for the first time

	// The fetcher goroutine's:
	machine  *machine.Follower
	gone     bool // not followed any more
	queued   bool // in fetcher.dirty
	named    bool // in the session, as in asked
	asked    AskPart
	catching bool          // not in sync: its bytes are bounded
	leaderHW int64         // in the last answer with records; -1: there was none
	credit   int           // bytes by which the leader's log grew, about, and that were not fetched since
	due      time.Time     // zero, or: not asked for before
	pause    time.Duration // of the next failure
	failing  time.Time     // since when it fails, if pause is not 0
}

// current reports whether the partition is still followed as it was when it was asked for. If not, another leader's fetcher may have cut the log.
func (fl *followed) current() bool {
	r := fl.p.role.Load()
	return r.follows && r.epoch == fl.epoch
}

func (fl *followed) key() PartKey { return PartKey{fl.p.id, fl.p.index} }

// set follows, or stops following, as the role says. The partition's lock is held.
func (fs *fetchers) set(p *Partition, r *role) {
	if fs.m.source == nil {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	old := fs.mu.of[p]
	if old != nil && r.follows && old.f.leader == r.leader && old.epoch == r.epoch {
		return
	}
	if old != nil {
		delete(fs.mu.of, p)
		fs.handLocked(old, false)
	}
	if !r.follows {
		return
	}
	f := fs.mu.byNode[r.leader]
	if f == nil {
		if !fs.m.background.enter() {
			return // closing
		}
		f = newFetcher(fs.m, r.leader)
		fs.mu.byNode[r.leader] = f
		go f.run()
	}
	fl := &followed{p: p, f: f, epoch: r.epoch, machine: machine.NewFollower(r.epoch), leaderHW: machine.None}
	fl.wait.Wake = fl.poke
	fs.mu.of[p] = fl
	fs.handLocked(fl, true)
}

// forget stops following a partition that goes away.
func (fs *fetchers) forget(p *Partition) { fs.set(p, &role{}) }

// ends lets an idle fetcher go, unless work has come meanwhile.
func (fs *fetchers) ends(f *fetcher) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.mu.added) > 0 && f.ctx.Err() == nil {
		return false
	}
	delete(fs.mu.byNode, f.leader)
	return true
}

// lag is the furthest that a followed partition is behind its leader, in offsets.
func (fs *fetchers) lag() (furthest int64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, fl := range fs.mu.of {
		furthest = max(furthest, fl.lag.Load())
	}
	return furthest
}

// poke is called when something moved in the partition: the fetcher may wait for just that.
func (fl *followed) poke() {
	fl.f.poke()
	if fl.settling.Load() {
		fl.f.interrupt()
	}
}

// cost is what an answer of n bytes up to end brings the follower closer to its leader: what the leader's log grew by since the answer before, about, is
// free, now or later.
func (fl *followed) cost(hw, end int64, n int) int {
	moved, before := hw-fl.leaderHW, fl.leaderHW
	fl.leaderHW = hw
	if records := end - fl.asked.Offset; before >= 0 && moved > 0 && records > 0 {
		fl.credit += int(float64(moved) / float64(records) * float64(n))
	}
	free := min(n, fl.credit)
	fl.credit -= free
	return n - free
}

// catchUpBudget bounds what replicas that are not in sync fetch together in a second, beyond what their leaders' logs grow by: a node that comes back after hours must
// not take the disks and the network from those that serve clients, and must come closer all the same, however much they produce.
type catchUpBudget struct {
	perSecond int64 // 0: no bound
	mu        struct {
		lockmeter.Mutex
		left int64 // may be negative: an answer is taken whole
		at   time.Time
	}
}

// take counts n bytes; with 0 it only looks. It says for how long nothing should be asked for.
func (b *catchUpBudget) take(n int, now time.Time) (wait time.Duration) {
	if b.perSecond <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.at.IsZero() {
		b.mu.left, b.mu.at = b.perSecond/4, now
	}
	if passed := min(now.Sub(b.mu.at), time.Minute); passed > 0 {
		b.mu.left = min(b.mu.left+int64(passed.Seconds()*float64(b.perSecond)), b.perSecond/4)
		b.mu.at = now
	}
	if b.mu.left -= int64(n); b.mu.left > 0 {
		return 0
	}
	return time.Duration(float64(1-b.mu.left)/float64(b.perSecond)*float64(time.Second)) + time.Millisecond
}

// fetcher follows one leader node: one goroutine, one ask at a time. What it is handed comes through mu; all else is the goroutine's.
type fetcher struct {
	m      *Manager
	leader int32
	ctx    context.Context
	woken  chan struct{} // something is to be looked at

	mu struct {
		lockmeter.Mutex
		added, removed []*followed
		cancel         context.CancelFunc // of the ask under way; nil: none is
	}

	set     map[PartKey]*followed
	dirty   []*followed // to be asked for anew
	waiting []*followed // to be looked at later: paused, settling, throttled
	forget  []PartKey
	full    bool // the next ask begins a session
	pause   time.Duration
	written []target // of the answer at hand
}

// target is a log end that has to become durable, and what the leader said with it.
type target struct {
	fl           *followed
	end          int64
	hw, logStart int64
}

func newFetcher(m *Manager, leader int32) *fetcher {
	f := &fetcher{m: m, leader: leader, ctx: m.ctx, woken: make(chan struct{}, 1), set: map[PartKey]*followed{}, full: true}
	f.mu.MeterBy(m.locks, lockmeter.Followers)
	return f
}

func (f *fetcher) poke() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// interrupt ends the ask under way, which may wait at the leader for data of the partitions that it names.
func (f *fetcher) interrupt() {
	f.mu.Lock()
	cancel := f.mu.cancel
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// hand gives the fetcher a partition, or takes it away. It is to be told of that.
func (f *fetcher) hand(fl *followed, add bool) {
	f.mu.Lock()
	if add {
		f.mu.added = append(f.mu.added, fl)
	} else {
		f.mu.removed = append(f.mu.removed, fl)
	}
	f.mu.Unlock()
}

// tell has the fetcher look at what it was handed.
func (f *fetcher) tell() {
	f.interrupt()
	f.poke()
}

// takeChanges brings the set up to date.
func (f *fetcher) takeChanges() {
	f.mu.Lock()
	added, removed := f.mu.added, f.mu.removed
	f.mu.added, f.mu.removed = nil, nil
	f.mu.Unlock()
	for _, fl := range added {
		f.set[fl.key()] = fl
		fl.p.WaitAppend(&fl.wait)
		f.requeue(fl)
	}
	for _, fl := range removed {
		fl.gone = true
		fl.wait.Stop()
		if f.set[fl.key()] == fl {
			delete(f.set, fl.key())
		}
		f.drop(fl)
	}
}

// requeue has the partition asked for anew with the next ask.
func (f *fetcher) requeue(fl *followed) {
	if !fl.queued && !fl.gone {
		fl.queued = true
		f.dirty = append(f.dirty, fl)
	}
}

// drop takes a partition out of the session.
func (f *fetcher) drop(fl *followed) {
	if fl.named {
		fl.named = false
		f.forget = append(f.forget, fl.key())
	}
}
