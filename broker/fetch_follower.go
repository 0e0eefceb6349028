package broker

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/netproto"
	"weir/replica"
	"weir/segment"
)

// Fetch by followers, on the listener for nodes. A follower fetches from its durable end, so each fetch is also the proof of what it has: that
// is noted, and can raise the high watermark and end the waiting of acks=all, before anything is read. It gets records up to the log's end, durable here or
// not, and, where its log has gone another way, the epoch to cut it back to instead. It waits, at the most as long as it says, for an
// append, a new high watermark or log start, or a change of leader.
//
// Followers do not compete with consumers: their sessions are their own (follower_session.go), each has one answer under way at a time,
// of at most replica.fetch.response.max.bytes, and the memory for that is reserved.

// followerFetch is one request of a follower.
type followerFetch struct {
	s        *followerSession
	r        *netproto.Request
	single   bool // without a session
	maxBytes int
	minBytes int
	until    time.Time
	soon     bool // until was brought forward, because of a high watermark
	timer    clock.Timer
}

// highWatermarkDelay is for how long a follower is not told of a new high watermark if there is nothing else to tell: the next records bring it along. Told at
// once, it would keep the follower on its way with nothing just when producers, who were waiting for that high watermark, send what is next.
const highWatermarkDelay = 5 * time.Millisecond

// hasten has a fetch that has a high watermark to tell wait no longer than for that. It reports whether that is new.
func (f *followerFetch) hasten(now time.Time) bool {
	at := now.Add(highWatermarkDelay)
	if f.soon || !at.Before(f.until) {
		return false
	}
	f.soon, f.until = true, at
	return true
}

// followerRow is what a fetch found of one partition.
type followerRow struct {
	part      *followedPart
	hw, start int64
	epoch     int32 // this node's
	diverging *replica.EpochEnd
	err       error
	rng       *segment.Range
	unread    bool // there are records, but no room for the first batch
	rose      bool // the follower does not know the high watermark
}

func (c *call) followerFetch(req *netproto.FetchRequest) {
	state := c.r.Conn.State.(*connState)
	if req.ReplicaID != c.peer || req.Version < 13 {
		c.r.Close(fmt.Errorf("%w: node %d fetches as replica %d in version %d", netproto.ErrMalformed, c.peer, req.ReplicaID, req.Version))
		return
	}
	s, err := c.followerSession(state, req)
	if err != nil {
		c.r.RespondFetch(&netproto.FetchResponse{ErrorCode: codeOf(err)})
		return
	}
	now := c.b.clk.Now()
	f := &followerFetch{
		s: s, r: c.r, single: req.SessionEpoch == sessionEpochFinal, minBytes: int(req.MinBytes),
		maxBytes: min(int(max(req.MaxBytes, 0)), c.b.cfg.ReplicaFetchResponseMaxBytes), until: now.Add(time.Duration(max(req.MaxWaitMs, 0)) * time.Millisecond),
	}
	s.again()
	s.forget(req)
	named := s.name(req)
	f.serve(s.note(named)) // all of them before the first is read: producers wait for that
}

// followerSession finds or makes the session that a request belongs to. Whatever waited on the connection is answered.
func (c *call) followerSession(state *connState, req *netproto.FetchRequest) (*followerSession, error) {
	s := state.follower
	if req.SessionEpoch == sessionEpochInitial || req.SessionEpoch == sessionEpochFinal {
		if s != nil {
			s.close()
		}
		state.follower = c.b.newFollowerSession(c.peer)
		state.follower.mu.busy = true
		return state.follower, nil
	}
	if s == nil || s.id != req.SessionID {
		return nil, fmt.Errorf("fetch session %d: %w", req.SessionID, kerr.FetchSessionIDNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.busy || s.mu.epoch != req.SessionEpoch {
		return nil, fmt.Errorf("fetch session %d: epoch %d, want %d (busy: %v): %w", s.id, req.SessionEpoch, s.mu.epoch, s.mu.busy, kerr.InvalidFetchSessionEpoch)
	}
	s.mu.epoch, s.mu.busy = nextEpoch(s.mu.epoch), true
	return s, nil
}

// note tells the partition of the follower's position.
func (row *followerRow) note() {
	part := row.part
	if part.partition == nil {
		row.err = part.missing()
		return
	}
	part.s.mu.Lock()
	at := part.at
	part.s.mu.Unlock()
	row.diverging, row.err = part.partition.FollowerFetched(at)
	part.s.mu.Lock()
	part.diverging = row.diverging // also for a look that comes later, because this answer is full
	part.s.mu.Unlock()
}

// missing is why there is no such partition here.
func (part *followedPart) missing() error {
	switch t := part.s.b.meta.Image().TopicByID(part.key.topic); {
	case t == nil:
		return kerr.UnknownTopicID
	case part.key.index < 0 || int(part.key.index) >= len(t.Partitions):
		return kerr.UnknownTopicOrPartition
	}
	return kerr.NotLeaderForPartition
}

// serve answers, or waits. noted are the partitions that this request names.
func (f *followerFetch) serve(noted []followerRow) {
	for {
		rows, seen, enough := f.look(noted)
		now := f.s.b.clk.Now()
		f.r.Lap(budget.Read, now)
		if enough || f.s.b.closing.Load() || !now.Before(f.until) {
			f.respond(rows)
			return
		}
		for i := range rows {
			if rows[i].rose {
				f.hasten(now)
			}
		}
		f.putBack(rows)
		if f.park(seen) {
			return
		}
		noted = nil
	}
}

// look takes what has news and reads it. enough says that it is worth an answer.
func (f *followerFetch) look(noted []followerRow) (rows []followerRow, seen uint64, enough bool) {
	s := f.s
	s.mu.Lock()
	news := s.mu.news
	s.mu.news, seen = nil, s.mu.seen
	for _, part := range news {
		part.listed = false
	}
	s.mu.Unlock()
	byPart := make(map[*followedPart]*followerRow, len(noted))
	for i := range noted {
		byPart[noted[i].part] = &noted[i]
	}
	share := s.reader.Share()
	defer share.Close()
	size := 0
	for i, part := range news {
		if size >= f.maxBytes && size > 0 {
			f.later(news[i:])
			break
		}
		row := followerRow{part: part}
		if before := byPart[part]; before != nil {
			row = *before
		}
		urgent, ok := f.read(&row, &share, f.maxBytes-size, size == 0)
		if row.unread {
			f.later(news[i : i+1])
		}
		if !ok {
			continue
		}
		if row.rng != nil {
			size += row.rng.Size()
		}
		enough = enough || urgent
		rows = append(rows, row)
	}
	return rows, seen, enough || size > 0 && size >= f.minBytes
}

// read fills in a row; ok is false if there is nothing to tell, urgent is true if there is what must not wait, other than records.
func (f *followerFetch) read(row *followerRow, share *segment.Share, left int, one bool) (urgent, ok bool) {
	part, p, s := row.part, row.part.partition, f.s
	s.mu.Lock()
	at, told, start, sent, gone, limit := part.at, part.told, part.start, part.sent, part.gone, part.maxBytes
	row.diverging = part.diverging
	s.mu.Unlock()
	if gone {
		return false, false
	}
	if p == nil {
		row.err = part.missing()
	} else {
		row.epoch = p.LeaderEpoch()
	}
	if row.err == nil && (!p.IsLeader() || row.epoch != at.CurrentEpoch) { // changed since it was noted
		row.note()
	}
	if row.err != nil {
		row.hw, row.start = -1, -1
		if errors.Is(row.err, replica.ErrOffsetOutOfRange) { // where the log begins is where the follower has to
			row.hw, row.start = p.HighWatermark(), p.LogStart()
		}
		return true, true
	}
	row.hw, row.start = p.HighWatermark(), p.LogStart()
	if row.diverging != nil {
		return true, true
	}
	if !sent && at.Offset < p.End() {
		row.rng, row.err = p.ReadReplica(share, at.Offset, min(left, int(limit)), one)
		if row.rng != nil && row.rng.Size() == 0 {
			row.rng.Release()
			row.rng = nil
		}
		if row.err != nil {
			f.failed(row)
			return true, true
		}
		row.unread = row.rng == nil
	} else if at.Offset > p.End() {
		row.err = fmt.Errorf("%w: %s-%d: %d is not in %d to %d", replica.ErrOffsetOutOfRange, p.Topic(), p.Index(), at.Offset, row.start, p.End())
		return true, true
	}
	urgent, row.rose = row.start != start, row.hw != told
	return urgent, urgent || row.rose || row.rng != nil
}

// failed says in the log what nobody asked for.
func (f *followerFetch) failed(row *followerRow) {
	if errors.Is(row.err, replica.ErrOffsetOutOfRange) {
		return
	}
	p := row.part.partition
	f.s.b.faults.Warn("a follower's fetch failed", p.Topic(), "topic", p.Topic(), "partition", p.Index(), "offset", row.part.at.Offset, "follower", f.s.node, "err", row.err)
}

// later has partitions looked at first by the next request: this one's answer is full.
func (f *followerFetch) later(parts []*followedPart) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	for _, part := range parts {
		f.s.putBackLocked(part)
	}
}

// putBack gives up what was read: it is less than the follower wants to be woken for.
func (f *followerFetch) putBack(rows []followerRow) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		row := &rows[i]
		if row.rng != nil {
			row.rng.Release()
			row.rng = nil
		}
		s.putBackLocked(row.part)
	}
}

// park makes the fetch wait for news; false: there has been some since the look that saw as much as seen says, or it must not wait.
func (f *followerFetch) park(seen uint64) bool {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.seen != seen {
		return false
	}
	if s.mu.closed || s.b.closing.Load() {
		f.until = time.Time{}
		return false
	}
	wait := f.until.Sub(s.b.clk.Now())
	if f.timer == nil {
		f.timer = s.b.clk.AfterFunc(wait, f.expire)
	} else {
		f.timer.Reset(wait)
	}
	s.mu.parked = f
	return true
}

// expire is the timer's: whoever takes the fetch out of its place answers it.
func (f *followerFetch) expire() {
	f.s.mu.Lock()
	mine := f.s.mu.parked == f
	if mine {
		f.s.mu.parked = nil
	}
	f.s.mu.Unlock()
	if mine {
		f.resume()
	}
}

// resume goes on after a wait.
func (f *followerFetch) resume() {
	f.timer.Stop()
	f.r.Lap(budget.Wait, f.s.b.clk.Now())
	// One append woke this fetch. Whoever else has one at hand goes first, so that one answer takes them all.
	runtime.Gosched()
	f.serve(nil)
}

// respond answers with what was read, takes it over, and remembers what the follower is told.
func (f *followerFetch) respond(rows []followerRow) {
	s := f.s
	resp := netproto.FetchResponse{SessionID: s.id}
	if f.single {
		resp.SessionID = 0
	}
	var hints leaderHints
	for i := range rows {
		f.appendRow(&resp, &rows[i], &hints)
	}
	resp.Nodes = hints.nodes
	s.mu.Lock()
	for i := range rows {
		row := &rows[i]
		part := row.part
		part.told, part.start, part.epoch = row.hw, row.start, row.epoch
		part.stuck = row.err != nil || row.diverging != nil
		if row.rng != nil {
			part.sent = true
			s.mu.sent = append(s.mu.sent, part)
		}
	}
	s.mu.busy = false
	s.mu.Unlock()
	f.r.RespondFetch(&resp)
}

func (f *followerFetch) appendRow(resp *netproto.FetchResponse, row *followerRow, hints *leaderHints) {
	key := row.part.key
	last := len(resp.Topics) - 1
	if last < 0 || resp.Topics[last].ID != key.topic {
		resp.Topics = append(resp.Topics, netproto.FetchTopicResult{ID: key.topic})
		last++
	}
	out := netproto.FetchPartitionResult{
		Index: key.index, ErrorCode: codeOf(row.err), HighWatermark: row.hw, LastStableOffset: -1, LogStartOffset: row.start, PreferredReadReplica: -1,
	}
	if d := row.diverging; d != nil && row.err == nil {
		out.DivergingEpoch = &netproto.EpochEndOffset{Epoch: d.Epoch, EndOffset: d.End}
	}
	if misled(out.ErrorCode) {
		if hints.img == nil {
			*hints = f.s.b.newLeaderHints()
		}
		out.CurrentLeader = hints.of(hints.img.TopicByID(key.topic), key.index, out.ErrorCode)
	}
	if row.rng != nil {
		out.Records, out.Owner = row.rng.Buffers(), row.rng
		f.s.b.metrics.bytesReplicated.Add(float64(row.rng.Size()))
	}
	resp.Topics[last].Partitions = append(resp.Topics[last].Partitions, out)
}
