package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/budget"
	"weir/netproto"
	"weir/replica"
	"weir/segment"
)

// Fetch (key 1) v4-18. v4 brought isolation levels, v5 the log start offset, v7 sessions (KIP-227), v9 leader epochs (KIP-320),
// v11 racks (KIP-392), v12 the leader in errors and flexible encoding, v13 topic ids (KIP-516), v15 the replica's epoch as a
// tag, v16 leaders' addresses (KIP-951), v17 directory ids, v18 the follower's high watermark (KIP-1166).
//
// Records go from the log's memory, or from buffers that a file was read into and verified, to the socket; the response owns the ranges and
// releases them when it was written. A request that finds fewer than min.bytes waits in the purgatory. So does one for which there is no
// memory: what all responses hold is bounded (fetch.memory.max.bytes), and a connection gets a part of what is free.

// fetch is one request that is being served.
type fetch struct {
	b       *Broker
	r       *netproto.Request
	state   *connState
	minSize int64
	maxSize int
	wait    time.Duration
	stable  bool // read_committed
	replica int32
	byID    bool
	rack    string // where the consumer is, if it would rather read from a replica near it; else ""

	session     *fetchSession // nil: none
	incremental bool          // answer only what changed
	parts       []*fetchPart  // what to read, in this order
	share       segment.Share // of the memory for reads

	parked
}

// fetchLeaderVersion is the first fetch version whose answers tell who leads, with the address (KIP-951).
const fetchLeaderVersion = 16

// fetchWaitMax bounds how long a fetch waits, whatever it asks for: a connection whose client has gone without a word is found by its answer.
const fetchWaitMax = 10 * time.Minute

// fetchWait is how long a fetch with this max_wait_ms waits.
func fetchWait(maxWaitMs int32) time.Duration {
	return min(time.Duration(max(maxWaitMs, 0))*time.Millisecond, fetchWaitMax)
}

// starvedMax is how many partitions may lack memory before the rest are not looked at.
const starvedMax = 8

// fetched is what reading one partition gave.
type fetched struct {
	part                            *fetchPart
	partition                       *replica.Partition
	highWatermark, stable, logStart int64
	nearer                          int32 // the replica that the client should rather read from, noReplica: none
	err                             error
	rng                             *segment.Range
}

// noReplica is the id of no broker.
const noReplica = -1

func (c *call) fetch() {
	req, err := netproto.ParseFetch(c.r.Version, c.r.Body)
	if err != nil {
		c.r.Close(err)
		return
	}
	if req.ReplicaID >= 0 && c.peer != clientPeer {
		c.followerFetch(&req)
		return
	}
	f := &fetch{
		b: c.b, r: c.r, state: c.r.Conn.State.(*connState),
		minSize: int64(req.MinBytes), maxSize: min(int(max(req.MaxBytes, 0)), c.b.cfg.FetchMaxBytes),
		wait: fetchWait(req.MaxWaitMs), stable: req.IsolationLevel == 1,
		replica: req.ReplicaID, byID: req.Version >= 13,
	}
	if c.b.cfg.ReplicaSelectorClass != "" {
		f.rack = string(req.RackID)
	}
	f.share = f.state.share(c.b)
	if err := f.open(&req); err != nil {
		f.refuse(err)
		return
	}
	f.r.Lap(budget.Handle, f.b.clk.Now())
	results, size, final := f.read()
	f.r.Lap(budget.Read, f.b.clk.Now())
	// A response that is smaller than it should be for lack of memory goes out: waiting would not make it larger.
	if final || size >= f.minSize || f.wait == 0 || size > 0 && f.share.Starved() {
		f.respond(results)
		return
	}
	release(results)
	f.park(size)
}

// open finds or makes the session and with it the partitions to read.
func (f *fetch) open(req *netproto.FetchRequest) error {
	named := f.partsOf(req)
	cache := f.b.sessions
	switch {
	case req.SessionEpoch == sessionEpochFinal || req.SessionEpoch == sessionEpochInitial:
		if req.SessionID != 0 {
			cache.remove(req.SessionID)
		}
		f.parts = make([]*fetchPart, len(named))
		for i := range named {
			f.parts[i] = &named[i]
		}
		if req.SessionEpoch == sessionEpochInitial && len(named) > 0 {
			// The session gets copies: this request goes on to read its own parts without a lock.
			kept := make([]*fetchPart, len(named))
			for i := range named {
				part := named[i]
				kept[i] = &part
			}
			f.session = cache.create(f.r.ClientID, f.byID, kept)
		}
		return nil
	}
	s := cache.get(req.SessionID)
	if s == nil {
		return fmt.Errorf("fetch session %d: %w", req.SessionID, kerr.FetchSessionIDNotFound)
	}
	if s.byID != f.byID {
		return fmt.Errorf("fetch session %d: %w", req.SessionID, kerr.FetchSessionTopicIDError)
	}
	return f.resume(req, s, named)
}

// resume applies an incremental request to its session and takes a copy of what is to be read.
func (f *fetch) resume(req *netproto.FetchRequest, s *fetchSession, named []fetchPart) error {
	s.mu.Lock()
	if s.mu.epoch != req.SessionEpoch {
		want := s.mu.epoch
		s.mu.Unlock()
		return fmt.Errorf("fetch session %d: epoch %d, want %d: %w", s.id, req.SessionEpoch, want, kerr.InvalidFetchSessionEpoch)
	}
	var forget []partKey
	for i := range req.Forgotten {
		t := &req.Forgotten[i]
		for _, index := range t.Partitions {
			forget = append(forget, partKey{name: string(t.Name), id: t.ID, partition: index})
		}
	}
	s.updateLocked(named, forget)
	s.mu.epoch = nextEpoch(s.mu.epoch)
	f.parts = make([]*fetchPart, len(s.mu.parts))
	copies := make([]fetchPart, len(s.mu.parts))
	for i, part := range s.mu.parts {
		copies[i] = *part
		f.parts[i] = &copies[i]
	}
	size := len(s.mu.parts)
	s.mu.Unlock()
	if size == 0 {
		f.b.sessions.remove(s.id) // nothing left to fetch: the client gets session id 0
		return nil
	}
	f.b.sessions.resized(s, size)
	f.session, f.incremental = s, true
	return nil
}

func (f *fetch) partsOf(req *netproto.FetchRequest) []fetchPart {
	var named []fetchPart
	for i := range req.Topics {
		t := &req.Topics[i]
		name := string(t.Name)
		for j := range t.Partitions {
			in := &t.Partitions[j]
			named = append(named, fetchPart{
				partKey: partKey{name: name, id: t.ID, partition: in.Index},
				offset:  in.FetchOffset, maxBytes: in.MaxBytes, leaderEpoch: in.CurrentLeaderEpoch,
				highWatermark: -1, logStart: -1,
			})
		}
	}
	return named
}

// read reads what is there now. final says that the answer must not wait, because a partition has an error.
func (f *fetch) read() (results []fetched, size int64, final bool) {
	results = make([]fetched, len(f.parts))
	f.share.Retry()
	left, starved := f.maxSize, 0
	for i, part := range f.parts {
		r := &results[i]
		r.part = part
		enough := starved > 0 && (size > 0 || starved >= starvedMax)
		f.readPart(r, left, size == 0, enough)
		switch {
		case errors.Is(r.err, segment.ErrReadMemory):
			r.err = nil
			starved++
		case r.err != nil, r.nearer != noReplica:
			final = true
		case r.rng != nil:
			n := r.rng.Size()
			size, left = size+int64(n), left-n
		}
	}
	return results, size, final
}

// readPart reads one partition, at most left bytes, but with atLeastOne one batch however large it is. With enough it only looks at the
// partition's offsets.
func (f *fetch) readPart(r *fetched, left int, atLeastOne, enough bool) {
	r.highWatermark, r.stable, r.logStart, r.nearer = -1, -1, -1, noReplica
	r.partition, r.err = f.find(r.part)
	if r.err != nil {
		return
	}
	p := r.partition
	r.highWatermark, r.stable, r.logStart = p.HighWatermark(), p.LastStable(), p.LogStart()
	limit := r.highWatermark
	if f.stable {
		limit = r.stable
	}
	if f.rack != "" {
		if r.nearer, r.err = f.near(p, r.part.offset); r.err != nil || r.nearer != noReplica {
			return
		}
	}
	if enough {
		return
	}
	r.rng, r.err = p.ReadShare(&f.share, r.part.offset, limit, min(left, int(r.part.maxBytes)), atLeastOne)
	if r.rng != nil && r.rng.Size() == 0 {
		r.rng.Release()
		r.rng = nil
	}
	switch {
	case r.err == nil, errors.Is(r.err, segment.ErrReadMemory), errors.Is(r.err, replica.ErrOffsetOutOfRange), misled(codeOf(r.err)):
	case errors.Is(r.err, segment.ErrCorrupt): // the log of the store names each damaged place once
	default:
		f.b.faults.Warn("fetch failed", p.Topic(), "topic", p.Topic(), "partition", p.Index(), "offset", r.part.offset, "err", r.err)
	}
}

// find looks the partition up and checks that client and broker agree about its leader.
func (f *fetch) find(part *fetchPart) (p *replica.Partition, err error) {
	unknown := kerr.UnknownTopicOrPartition
	if f.byID {
		p = f.b.parts.Partition(part.id, part.partition)
		if p == nil && f.b.meta.Image().TopicByID(part.id) == nil {
			unknown = kerr.UnknownTopicID
		}
	} else {
		p = f.b.parts.ByName(part.name, part.partition)
	}
	switch {
	case p == nil && f.b.elsewhere(f.byID, part.partKey):
		return nil, kerr.NotLeaderForPartition
	case p == nil:
		return nil, unknown
	case f.replica >= 0:
		return nil, kerr.NotLeaderForPartition // who says to be a follower, and is none of the cluster's nodes
	}
	if err := p.CheckEpoch(part.leaderEpoch); err != nil {
		return nil, err
	}
	if f.rack == "" && !p.IsLeader() {
		return nil, kerr.NotLeaderForPartition
	}
	return p, nil
}

// elsewhere reports whether there is such a partition, on other nodes.
func (b *Broker) elsewhere(byID bool, key partKey) bool {
	img := b.meta.Image()
	t := img.TopicByID(key.id)
	if !byID {
		t = img.Topic(key.name)
	}
	return t != nil && key.partition >= 0 && int(key.partition) < len(t.Partitions)
}

// respond answers with what was read and takes the results over.
func (f *fetch) respond(results []fetched) {
	f.share.Close()
	f.note(results)
	resp := netproto.FetchResponse{}
	if f.session != nil {
		resp.SessionID = f.session.id
		results = f.told(results)
	}
	var hints leaderHints
	for i := range results {
		f.appendResult(&resp, &results[i], &hints)
	}
	resp.Nodes = hints.nodes
	f.r.RespondFetch(&resp)
}

// told remembers in the session what this response tells, and leaves out what an incremental one need not tell.
func (f *fetch) told(results []fetched) []fetched {
	gave := map[partKey]bool{}
	kept := results[:0]
	f.session.mu.Lock()
	for i := range results {
		r := &results[i]
		part := f.session.mu.byKey[r.part.partKey]
		if part == nil {
			part = r.part // forgotten meanwhile by a newer request
		}
		changed := r.err != nil || r.rng != nil || r.nearer != noReplica || part.highWatermark != r.highWatermark || part.logStart != r.logStart
		part.highWatermark, part.logStart = r.highWatermark, r.logStart
		if r.err != nil {
			part.highWatermark = -1 // told again when the error has gone
		}
		if r.rng != nil {
			gave[r.part.partKey] = true
		}
		if changed || !f.incremental {
			kept = append(kept, *r)
		}
	}
	f.session.mu.Unlock()
	if len(gave) > 0 && len(gave) < len(f.parts) {
		f.session.rotate(func(part *fetchPart) bool { return gave[part.partKey] })
	}
	return kept
}

// appendResult adds a partition to the response; consecutive ones of a topic share its entry.
func (f *fetch) appendResult(resp *netproto.FetchResponse, r *fetched, hints *leaderHints) {
	last := len(resp.Topics) - 1
	if last < 0 || string(resp.Topics[last].Name) != r.part.name || resp.Topics[last].ID != r.part.id {
		resp.Topics = append(resp.Topics, netproto.FetchTopicResult{Name: []byte(r.part.name), ID: r.part.id})
		last++
	}
	row := netproto.FetchPartitionResult{
		Index: r.part.partition, ErrorCode: codeOf(r.err),
		HighWatermark: r.highWatermark, LastStableOffset: r.stable, LogStartOffset: r.logStart,
		PreferredReadReplica: r.nearer,
	}
	if f.stable && r.err == nil {
		row.Aborted = []netproto.AbortedTransaction{}
	}
	if f.r.Version >= fetchLeaderVersion && misled(row.ErrorCode) {
		if hints.img == nil {
			*hints = f.b.newLeaderHints()
		}
		row.CurrentLeader = hints.of(hints.topic(f.byID, r.part.id, r.part.name), r.part.partition, row.ErrorCode)
	}
	if r.rng != nil {
		row.Records, row.Owner = r.rng.Buffers(), r.rng
		f.b.metrics.bytesOut.Add(float64(r.rng.Size()))
	}
	resp.Topics[last].Partitions = append(resp.Topics[last].Partitions, row)
}

// refuse answers a request whose session is wrong.
func (f *fetch) refuse(err error) {
	if f.r.Version < 7 { // these have no place for it, and no sessions
		f.r.Close(err)
		return
	}
	f.r.RespondFetch(&netproto.FetchResponse{ErrorCode: codeOf(err)})
}

func release(results []fetched) {
	for i := range results {
		if results[i].rng != nil {
			results[i].rng.Release()
			results[i].rng = nil
		}
	}
}
