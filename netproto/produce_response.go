package netproto

// ProduceResponse is the answer to a produce request. The zero values of optional parts mean that they are absent.
type ProduceResponse struct {
	Topics     []ProduceTopicResult
	ThrottleMs int32
	Nodes      []NodeEndpoint // addresses of the leaders named, from version 10 on
}

// ProduceTopicResult is one topic of a produce response.
type ProduceTopicResult struct {
	Name       []byte   // up to version 12
	ID         [16]byte // from version 13 on
	Partitions []ProducePartitionResult
}

// ProducePartitionResult is what became of one partition's records.
type ProducePartitionResult struct {
	Index           int32
	ErrorCode       int16
	BaseOffset      int64 // -1 with an error
	LogAppendTimeMs int64 // -1 unless the topic stamps LogAppendTime
	LogStartOffset  int64 // -1: unknown; from version 5 on
	RecordErrors    []RecordError
	ErrorMessage    string          // "": null; from version 8 on
	CurrentLeader   *LeaderAndEpoch // nil: not told; from version 10 on
}

// RecordError says which record of the batch was at fault.
type RecordError struct {
	BatchIndex int32
	Message    string // "": null
}

// AppendProduceResponse appends the encoded response, in a version from ProduceVersionMin to ProduceVersionMax.
func AppendProduceResponse(b []byte, version int16, resp *ProduceResponse) []byte {
	flexible := version >= produceFlexible
	b = appendCount(b, flexible, len(resp.Topics))
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if version >= produceTopicIDs {
			b = append(b, t.ID[:]...)
		} else {
			b = appendString(b, flexible, t.Name)
		}
		b = appendCount(b, flexible, len(t.Partitions))
		for j := range t.Partitions {
			b = t.Partitions[j].append(b, version, flexible)
		}
		b = appendNoTags(b, flexible)
	}
	b = appendInt32(b, resp.ThrottleMs)
	switch {
	case version >= 10:
		return appendEndTags(b, resp.Nodes)
	default:
		return appendNoTags(b, flexible)
	}
}

func (p *ProducePartitionResult) append(b []byte, version int16, flexible bool) []byte {
	b = appendInt32(b, p.Index)
	b = appendInt16(b, p.ErrorCode)
	b = appendInt64(b, p.BaseOffset)
	b = appendInt64(b, p.LogAppendTimeMs)
	if version >= 5 {
		b = appendInt64(b, p.LogStartOffset)
	}
	if version >= 8 {
		b = appendCount(b, flexible, len(p.RecordErrors))
		for i := range p.RecordErrors {
			e := &p.RecordErrors[i]
			b = appendInt32(b, e.BatchIndex)
			b = appendNullable(b, flexible, e.Message)
			b = appendNoTags(b, flexible)
		}
		b = appendNullable(b, flexible, p.ErrorMessage)
	}
	if version >= 10 && p.CurrentLeader != nil {
		b = append(b, 1)
		return appendLeaderTag(b, 0, p.CurrentLeader)
	}
	return appendNoTags(b, flexible)
}

// RespondProduce answers with a produce response in the request's version. resp is not kept.
func (r *Request) RespondProduce(resp *ProduceResponse) {
	p := NewPayload()
	p.SetOwn(AppendProduceResponse(p.Own(), r.Version, resp))
	r.Respond(p)
}
