package broker

import (
	"math"
	"math/rand/v2"
	"slices"

	"weir/internal/budget"
	"weir/internal/lockmeter"
	"weir/netproto"
	"weir/replica"
	"weir/segment"
)

// A follower's fetch session. It belongs to the connection on which the follower fetches, so nothing evicts it, least of all consumers, and it
// ends with the connection. Unlike a consumer's it is registered at its partitions for as long as it lives: a partition that has news puts itself into the
// session's list, and a fetch looks at that list only. Thousands of idle partitions cost a fetch nothing.
//
// The follower names a partition when something about it changed: its position, the epoch that it believes in. What the leader knows from earlier
// requests holds until then. After records were sent the leader waits for the new position; if the next request does not bring it, the follower has
// not taken them, and they are sent again.

// followerSession is what a leader remembers of a follower.
type followerSession struct {
	b      *Broker
	node   int32
	id     int32
	reader *segment.Reader // what its answers hold of the memory for reads
	// The connection's reader goroutine's.
	parts   map[followedKey]*followedPart
	outside map[*followedPart]struct{} // of them, where the follower is not in sync: the leader hears of it with each request

	mu struct {
		lockmeter.Mutex
		epoch  int32 // the next request must have it
		busy   bool  // a request is being served
		closed bool
		news   []*followedPart // that a look is due at; each once
		seen   uint64          // counts what was put there
		sent   []*followedPart // records of these are on their way
		parked *followerFetch
	}
}

// followedKey names a partition in a session.
type followedKey struct {
	topic [16]byte
	index int32
}

// followedPart is one partition that a follower follows.
type followedPart struct {
	s         *followerSession
	key       followedKey
	partition *replica.Partition // nil: not here
	waiter    replica.Waiter

	// What the follower said last, and what it was told last. Guarded by the session's lock.
	at       replica.FollowerFetch
	maxBytes int32
	told     int64 // high watermark, -1: none
	start    int64 // log start, -1: none
	listed   bool  // in news
	sent     bool  // records from at.Offset on are on their way
	// diverging: the follower's log goes another way, so that no records are to be sent to where it is. Until it names another position.
	diverging *replica.EpochEnd
	stuck     bool  // answered with an error or a divergence: it is the follower's turn, unless the leader changes
	epoch     int32 // leader epoch at the last look
	gone      bool  // not in the session any more
}

func (b *Broker) newFollowerSession(node int32) *followerSession {
	s := &followerSession{b: b, node: node, reader: b.parts.NewFollowerReader(), parts: map[followedKey]*followedPart{}, outside: map[*followedPart]struct{}{}}
	for s.id == 0 {
		s.id = rand.Int32N(math.MaxInt32)
	}
	s.mu.MeterBy(b.locks, lockmeter.FetchSession)
	s.mu.epoch = nextEpoch(sessionEpochInitial)
	return s
}

// name notes what the follower says about partitions, and returns them.
func (s *followerSession) name(req *netproto.FetchRequest) []*followedPart {
	var named []*followedPart
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			named = append(named, s.nameOne(req, t.ID, &t.Partitions[j]))
		}
	}
	return named
}

func (s *followerSession) nameOne(req *netproto.FetchRequest, topic [16]byte, in *netproto.FetchPartition) *followedPart {
	key := followedKey{topic, in.Index}
	part := s.parts[key]
	if part == nil {
		part = &followedPart{s: s, key: key, told: -1, start: -1}
		s.parts[key] = part
	}
	if part.partition == nil || part.partition.Closed() {
		part.find()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	part.at = replica.FollowerFetch{
		Replica: req.ReplicaID, BrokerEpoch: req.ReplicaEpoch, CurrentEpoch: in.CurrentLeaderEpoch, Offset: in.FetchOffset,
		LastEpoch: in.LastFetchedEpoch, LogStart: in.LogStartOffset, HighWatermark: in.HighWatermark,
	}
	part.maxBytes, part.sent, part.stuck, part.diverging = in.MaxBytes, false, false, nil
	s.listLocked(part)
	return part
}

// find looks the partition up, and registers the session there.
func (part *followedPart) find() {
	part.waiter.Stop()
	p := part.s.b.parts.Partition(part.key.topic, part.key.index)
	part.partition = p
	if p != nil {
		part.waiter = replica.Waiter{Wake: func() { part.woken(p) }}
		p.WaitAppend(&part.waiter)
	}
}

// forget takes partitions out of the session.
func (s *followerSession) forget(req *netproto.FetchRequest) {
	for i := range req.Forgotten {
		t := &req.Forgotten[i]
		for _, index := range t.Partitions {
			key := followedKey{t.ID, index}
			part := s.parts[key]
			if part == nil {
				continue
			}
			delete(s.parts, key)
			delete(s.outside, part)
			part.waiter.Stop()
			s.mu.Lock()
			part.gone = true
			s.mu.Unlock()
		}
	}
}

// note tells the leader's half of each partition how far the follower is. A follower that is not in sync is told of with every request, also where
// it has nothing new to say: that it still has everything is what lets it in when the controller had no use for it a moment ago.
func (s *followerSession) note(named []*followedPart) []followerRow {
	rows := make([]followerRow, len(named))
	for i, part := range named {
		rows[i] = followerRow{part: part}
		rows[i].note()
		delete(s.outside, part)
	}
	for part := range s.outside {
		if !part.inSync() {
			again := followerRow{part: part}
			again.note() // what it says, if anything, is told when the follower names it
		}
		delete(s.outside, part)
		named = append(named, part)
	}
	for _, part := range named {
		if part.partition != nil && !part.gone && !part.inSync() {
			s.outside[part] = struct{}{}
		}
	}
	return rows
}

func (part *followedPart) inSync() bool {
	return slices.Contains(part.partition.ISR(), part.s.node)
}

// listLocked puts a partition where the next look finds it.
func (s *followerSession) listLocked(part *followedPart) {
	s.mu.seen++
	s.putBackLocked(part)
}

// putBackLocked is listLocked for what a look has seen: it is no reason for another one now.
func (s *followerSession) putBackLocked(part *followedPart) {
	if !part.listed && !part.gone {
		part.listed = true
		s.mu.news = append(s.mu.news, part)
	}
}

// again has records sent once more that the follower has not taken: it does not name their partitions with a new position. It is called before
// the request's partitions are noted.
func (s *followerSession) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, part := range s.mu.sent {
		if part.sent {
			part.sent = false
			s.listLocked(part)
		}
		s.mu.sent[i] = nil
	}
	s.mu.sent = s.mu.sent[:0]
}

// woken runs on the WAL's thread, or a producer's, whenever something about the partition changed.
func (part *followedPart) woken(p *replica.Partition) {
	s := part.s
	end, hw, start, epoch := p.End(), p.HighWatermark(), p.LogStart(), p.LeaderEpoch()
	s.mu.Lock()
	news := epoch != part.epoch || !part.stuck && (!part.sent && end > part.at.Offset || start != part.start) || s.b.closing.Load()
	rose := !part.stuck && hw != part.told
	if !news && !rose {
		s.mu.Unlock()
		return
	}
	s.listLocked(part)
	f := s.mu.parked
	if !news { // it can wait a little
		if f != nil && f.hasten(s.b.clk.Now()) {
			f.timer.Reset(highWatermarkDelay)
		}
		s.mu.Unlock()
		return
	}
	s.mu.parked = nil
	s.mu.Unlock()
	if f != nil {
		go f.resume()
	}
}

// close ends the session: it is told of nothing any more, and a fetch that waits is answered with nothing. It is called by the connection's reader
// goroutine, or when that has ended.
func (s *followerSession) close() {
	for _, part := range s.parts {
		part.waiter.Stop()
	}
	s.mu.Lock()
	s.mu.closed = true
	s.mu.news, s.mu.sent = nil, nil
	f := s.mu.parked
	s.mu.parked = nil
	s.mu.Unlock()
	if f != nil {
		f.timer.Stop()
		f.r.Lap(budget.Wait, s.b.clk.Now())
		f.respond(nil)
	}
}
