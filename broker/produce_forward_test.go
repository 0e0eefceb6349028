package broker

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/clock"
	"weir/internal/iobuf"
	"weir/netproto"
)

// heldForward is a forward of the partitions 4 and 5 of a topic and 0 of another, whose produce request does not end with it.
func heldForward() *forward {
	b := &Broker{clk: clock.Real{}, metrics: newMetrics(nil, func() int64 { return 0 }, func() int64 { return 0 }, func() int { return 0 })}
	p := &produce{b: b, peer: clientPeer}
	p.req.Version, p.req.Acks, p.req.TimeoutMs = 9, acksAll, 1000
	p.req.Topics = []netproto.ProduceTopic{
		{Name: []byte("a"), Partitions: []netproto.ProducePartition{{Index: 4, Records: []byte("four")}, {Index: 9}, {Index: 5, Records: []byte("five")}}},
		{Name: []byte("b"), Partitions: []netproto.ProducePartition{{Index: 0, Records: []byte("zero")}}},
	}
	p.layOut()
	p.pending.Store(2)
	f := &forward{p: p, leader: 2, cancel: func() {}, parts: []forwardedPart{
		{0, 0, [16]byte{1}}, {0, 2, [16]byte{1}}, {1, 0, [16]byte{2}},
	}}
	for i := range f.parts {
		f.row(i).ErrorCode = unanswered
	}
	return f
}

func response(resp *netproto.ProduceResponse) *netproto.PeerResponse {
	b := netproto.AppendProduceResponse(nil, netproto.ProduceForwardVersion, resp)
	buf := iobuf.Get(len(b))
	copy(buf.Bytes(), b)
	return &netproto.PeerResponse{Body: buf.Bytes(), Buf: buf}
}

// TestForwardEncoding: what is sent has the partitions that the leader leads, and no others.
func TestForwardEncoding(t *testing.T) {
	f := heldForward()
	var body []byte
	for _, piece := range f.encode() {
		body = append(body, piece...)
	}
	req, err := netproto.ParseProduce(netproto.ProduceForwardVersion, body)
	if err != nil {
		t.Fatal(err)
	}
	if req.Acks != acksAll || req.TimeoutMs != 1000 || len(req.Topics) != 2 || len(req.Topics[0].Partitions) != 2 || len(req.Topics[1].Partitions) != 1 ||
		req.Topics[0].ID != f.parts[0].id || string(req.Topics[0].Partitions[1].Records) != "five" || string(req.Topics[1].Partitions[0].Records) != "zero" {
		t.Errorf("%+v", req)
	}
	f.p.req.Acks = acksNone
	body = body[:0]
	for _, piece := range f.encode() {
		body = append(body, piece...)
	}
	if req, err = netproto.ParseProduce(netproto.ProduceForwardVersion, body); err != nil || req.Acks != acksOne {
		t.Errorf("acks=0 is forwarded with acks %d, %v", req.Acks, err)
	}
}

// TestForwardResults: each partition gets the leader's code, in whatever order; what is missing, or was not asked for, does not pass as success.
func TestForwardResults(t *testing.T) {
	row := func(index int32, code int16, offset int64) netproto.ProducePartitionResult {
		return netproto.ProducePartitionResult{Index: index, ErrorCode: code, BaseOffset: offset, LogAppendTimeMs: -1, LogStartOffset: 3}
	}
	a, b := [16]byte{1}, [16]byte{2}
	lost := kerr.NetworkException.Code
	for _, tt := range []struct {
		name   string
		topics []netproto.ProduceTopicResult
		codes  [3]int16
	}{
		{"all", []netproto.ProduceTopicResult{{ID: a, Partitions: []netproto.ProducePartitionResult{row(4, 0, 40), row(5, 19, -1)}}, {ID: b, Partitions: []netproto.ProducePartitionResult{row(0, 0, 1)}}}, [3]int16{0, 19, 0}},
		{"another order", []netproto.ProduceTopicResult{{ID: b, Partitions: []netproto.ProducePartitionResult{row(0, 7, -1)}}, {ID: a, Partitions: []netproto.ProducePartitionResult{row(5, 0, 5), row(4, 0, 40)}}}, [3]int16{0, 0, 7}},
		{"one is missing", []netproto.ProduceTopicResult{{ID: a, Partitions: []netproto.ProducePartitionResult{row(4, 0, 40), row(5, 6, -1)}}}, [3]int16{0, 6, lost}},
		{"one too many", []netproto.ProduceTopicResult{{ID: a, Partitions: []netproto.ProducePartitionResult{row(4, 0, 40), row(4, 0, 41)}}}, [3]int16{0, lost, lost}},
		{"not asked for", []netproto.ProduceTopicResult{{ID: b, Partitions: []netproto.ProducePartitionResult{row(9, 0, 40)}}}, [3]int16{lost, lost, lost}},
		{"none", nil, [3]int16{lost, lost, lost}},
	} {
		f := heldForward()
		f.done(response(&netproto.ProduceResponse{Topics: tt.topics}), nil)
		for i, want := range tt.codes {
			got := f.row(i)
			if got.ErrorCode != want || (got.BaseOffset >= 0) != (want == 0) || got.Index != f.p.req.Topics[f.parts[i].topic].Partitions[f.parts[i].partition].Index {
				t.Errorf("%s: partition %d: %+v, want code %d", tt.name, i, got, want)
			}
		}
		if f.p.pending.Load() != 1 {
			t.Errorf("%s: %d are pending", tt.name, f.p.pending.Load())
		}
	}
}

// TestForwardFailures: a client may look for the leader again if nothing was sent; else it learns that the outcome is not known.
func TestForwardFailures(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want *kerr.Error
	}{
		{&netproto.PeerError{Err: netproto.ErrPeerBusy}, kerr.NotLeaderForPartition},
		{&netproto.PeerError{Err: netproto.ErrPeerDown}, kerr.NotLeaderForPartition},
		{&netproto.PeerError{Err: netproto.ErrPeerUnknown}, kerr.NotLeaderForPartition},
		{&netproto.PeerError{Err: netproto.ErrPeerTimeout}, kerr.NotLeaderForPartition},
		{&netproto.PeerError{Err: netproto.ErrPeerTimeout, Sent: true}, kerr.RequestTimedOut},
		{&netproto.PeerError{Err: context.DeadlineExceeded, Sent: true}, kerr.RequestTimedOut},
		{&netproto.PeerError{Err: netproto.ErrPeerLost, Sent: true}, kerr.NetworkException},
		{errors.New("something else"), kerr.NetworkException},
	} {
		f := heldForward()
		f.done(nil, tt.err)
		for i := range f.parts {
			if got := f.row(i); got.ErrorCode != tt.want.Code || got.BaseOffset != -1 || got.ErrorMessage == "" {
				t.Errorf("%v: %+v, want %v", tt.err, got, tt.want)
			}
		}
	}
	f := heldForward()
	f.done(&netproto.PeerResponse{Body: []byte("garbage")}, nil)
	if got := f.row(0).ErrorCode; got != kerr.NetworkException.Code {
		t.Errorf("garbage: code %d", got)
	}
}
