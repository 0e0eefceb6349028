package netproto

// FetchResponse is the answer to a fetch request.
type FetchResponse struct {
	ThrottleMs int32
	ErrorCode  int16 // from version 7 on
	SessionID  int32 // from version 7 on
	Topics     []FetchTopicResult
	Nodes      []NodeEndpoint // addresses of the leaders named, from version 16 on
}

// FetchTopicResult is one topic of a fetch response.
type FetchTopicResult struct {
	Name       []byte   // up to version 12
	ID         [16]byte // from version 13 on
	Partitions []FetchPartitionResult
}

// FetchPartitionResult is what there is of one partition. Mind PreferredReadReplica, whose "none" is -1.
type FetchPartitionResult struct {
	Index                int32
	ErrorCode            int16
	HighWatermark        int64
	LastStableOffset     int64                // -1: unknown
	LogStartOffset       int64                // -1: unknown; from version 5 on
	Aborted              []AbortedTransaction // nil: null
	PreferredReadReplica int32                // -1: none; from version 11 on
	DivergingEpoch       *EpochEndOffset      // nil: none; from version 12 on
	CurrentLeader        *LeaderAndEpoch      // nil: not told; from version 12 on

	// Records are the batches, in pieces that are sent as they are; none is an empty record set. Owner (may be nil) is released
	// when they have been sent.
	Records [][]byte
	Owner   Releaser
}

// AbortedTransaction tells a reader of committed records what to leave out.
type AbortedTransaction struct {
	ProducerID  int64
	FirstOffset int64
}

// EpochEndOffset is where the log of a fetching replica diverges.
type EpochEndOffset struct {
	Epoch     int32
	EndOffset int64
}

// AppendTo appends the encoded response to p in a version from FetchVersionMin to FetchVersionMax: records by reference, everything else
// copied, so that only the records and their owners need to stay.
func (resp *FetchResponse) AppendTo(p *Payload, version int16) {
	flexible := version >= fetchFlexible
	b := p.Own()
	b = appendInt32(b, resp.ThrottleMs)
	if version >= 7 {
		b = appendInt16(b, resp.ErrorCode)
		b = appendInt32(b, resp.SessionID)
	}
	b = appendCount(b, flexible, len(resp.Topics))
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if version >= fetchTopicIDs {
			b = append(b, t.ID[:]...)
		} else {
			b = appendString(b, flexible, t.Name)
		}
		b = appendCount(b, flexible, len(t.Partitions))
		for j := range t.Partitions {
			part := &t.Partitions[j]
			b = part.appendHead(b, version, flexible)
			if len(part.Records) > 0 {
				p.SetOwn(b)
				p.RefOwned(part.Records, part.Owner)
				b = p.Own()
			} else {
				p.AddOwner(part.Owner)
			}
			b = part.appendTags(b, flexible)
		}
		b = appendNoTags(b, flexible)
	}
	switch {
	case version >= 16:
		b = appendEndTags(b, resp.Nodes)
	default:
		b = appendNoTags(b, flexible)
	}
	p.SetOwn(b)
}

// appendHead writes a partition up to its records' length.
func (p *FetchPartitionResult) appendHead(b []byte, version int16, flexible bool) []byte {
	b = appendInt32(b, p.Index)
	b = appendInt16(b, p.ErrorCode)
	b = appendInt64(b, p.HighWatermark)
	b = appendInt64(b, p.LastStableOffset)
	if version >= 5 {
		b = appendInt64(b, p.LogStartOffset)
	}
	if p.Aborted == nil {
		b = appendCount(b, flexible, -1)
	} else {
		b = appendCount(b, flexible, len(p.Aborted))
	}
	for i := range p.Aborted {
		b = appendInt64(b, p.Aborted[i].ProducerID)
		b = appendInt64(b, p.Aborted[i].FirstOffset)
		b = appendNoTags(b, flexible)
	}
	if version >= 11 {
		b = appendInt32(b, p.PreferredReadReplica)
	}
	size := 0
	for _, piece := range p.Records {
		size += len(piece)
	}
	return appendCount(b, flexible, size)
}

// appendTags writes what follows the records.
func (p *FetchPartitionResult) appendTags(b []byte, flexible bool) []byte {
	if !flexible {
		return b
	}
	n := 0
	if p.DivergingEpoch != nil {
		n++
	}
	if p.CurrentLeader != nil {
		n++
	}
	b = append(b, byte(n))
	if e := p.DivergingEpoch; e != nil {
		b = append(b, 0, 4+8+1)
		b = appendInt32(b, e.Epoch)
		b = appendInt64(b, e.EndOffset)
		b = append(b, 0)
	}
	if p.CurrentLeader != nil {
		b = appendLeaderTag(b, 1, p.CurrentLeader)
	}
	return b
}

// RespondFetch answers with a fetch response in the request's version. resp is not kept; its records' owners are released
// when the response was sent or dropped.
func (r *Request) RespondFetch(resp *FetchResponse) {
	p := NewPayload()
	resp.AppendTo(p, r.Version)
	r.Respond(p)
}
