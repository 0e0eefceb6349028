package raftmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func testHead() encoder {
	o := Options{NodeID: 3, PeerAddr: "peer:1", Sender: line{}}
	o.setDefaults()
	return newTransport(&o, func() string { return "cluster" }).head()
}

func headOf() raft.RPCHeader {
	h := messageHead{"cluster", 3, "peer:1"}
	return h.raft()
}

// messages has an example of every request, as raft has it and as it is sent.
func messages() map[RPC]struct {
	want any
	body []byte
} {
	type message = struct {
		want any
		body []byte
	}
	h := headOf()
	config := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1", Address: "a"}}})
	entries := &raft.AppendEntriesRequest{RPCHeader: h, Term: 9, PrevLogEntry: 4, PrevLogTerm: 8, LeaderCommitIndex: 3, Entries: []*raft.Log{
		{Index: 5, Term: 9, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(0, 12345)},
		{Index: 6, Term: 9, Type: raft.LogConfiguration, Data: config},
		{Index: 7, Term: 9, Type: raft.LogNoop},
	}}
	beat := &raft.AppendEntriesRequest{RPCHeader: h, Term: 9}
	vote := &raft.RequestVoteRequest{RPCHeader: h, Term: 9, LastLogIndex: 7, LastLogTerm: 8, LeadershipTransfer: true}
	pre := &raft.RequestPreVoteRequest{RPCHeader: h, Term: 9, LastLogIndex: 7, LastLogTerm: 8}
	chunk := &snapshotChunk{transfer: 77, offset: 10, data: []byte("chunk"), req: raft.InstallSnapshotRequest{
		RPCHeader: h, SnapshotVersion: 1, Size: 15, Term: 9, LastLogIndex: 7, LastLogTerm: 8, ConfigurationIndex: 2, Configuration: config,
	}}
	return map[RPC]message{
		RPCAppendEntries:   {entries, encodeAppend(testHead(), entries)},
		RPCHeartbeat:       {beat, encodeAppend(testHead(), beat)},
		RPCRequestVote:     {vote, encodeVote(testHead(), vote)},
		RPCPreVote:         {pre, encodePreVote(testHead(), pre)},
		RPCInstallSnapshot: {chunk, encodeChunk(testHead(), chunk)},
		RPCTimeoutNow:      {&raft.TimeoutNowRequest{RPCHeader: h}, testHead().b},
	}
}

// parse decodes a request as handle does.
func parse(rpc RPC, body []byte) (any, error) {
	d := &decoder{b: body}
	cmd, chunk := decodeCommand(d, rpc, decodeHead(d))
	if err := d.end(); err != nil {
		return nil, err
	}
	if chunk != nil {
		return chunk, nil
	}
	return cmd, nil
}

func TestMessagesRoundTrip(t *testing.T) {
	for rpc, m := range messages() {
		got, err := parse(rpc, m.body)
		if err != nil || fmt.Sprintf("%#v", deref(got)) != fmt.Sprintf("%#v", deref(m.want)) {
			t.Errorf("%s: got %+v, %v, want %+v", rpc, got, err, m.want)
		}
		for i := range m.body { // whatever is cut off is missed
			if _, err := parse(rpc, m.body[:i]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: %d of %d bytes: got %v, want ErrCorrupt", rpc, i, len(m.body), err)
			}
		}
	}
	if n := len(messages()); n != int(RPCTimeoutNow) {
		t.Fatalf("%d examples of %d messages", n, RPCTimeoutNow)
	}
}

// deref makes entries comparable: %#v prints pointers.
func deref(v any) any {
	a, ok := v.(*raft.AppendEntriesRequest)
	if !ok {
		return reflect.ValueOf(v).Elem().Interface()
	}
	flat := []any{a.RPCHeader, a.Term, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex}
	for _, l := range a.Entries {
		flat = append(flat, l.Index, l.Term, l.Type, string(l.Data), string(l.Extensions), l.AppendedAt.UnixNano())
	}
	return flat
}

func TestMessagesRefused(t *testing.T) {
	tests := []struct {
		name string
		rpc  RPC
		body []byte
		want error
	}{
		{"nothing", RPCHeartbeat, nil, ErrCorrupt},
		{"version", RPCHeartbeat, []byte{9}, ErrVersion},
		{"kind", 99, testHead().b, ErrCorrupt},
		{"heartbeat with an index", RPCHeartbeat, encodeAppend(testHead(), &raft.AppendEntriesRequest{Term: 1, LeaderCommitIndex: 4}), ErrCorrupt},
		{"gap between entries", RPCAppendEntries, encodeAppend(testHead(), &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 2}}}), ErrCorrupt},
		{"entry type", RPCAppendEntries, encodeAppend(testHead(), &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1, Type: 77}}}), ErrCorrupt},
		{"configuration", RPCAppendEntries, encodeAppend(testHead(), &raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1, Type: raft.LogConfiguration, Data: []byte("no")}}}), ErrCorrupt},
		{"too many entries", RPCAppendEntries, encodeAppend(testHead(), &raft.AppendEntriesRequest{Entries: slices.Repeat([]*raft.Log{{Index: 1}}, raftBatch+1)}), ErrCorrupt},
		{"trailing bytes", RPCTimeoutNow, append(testHead().b, 0), ErrCorrupt},
		{"empty snapshot", RPCInstallSnapshot, encodeChunk(testHead(), &snapshotChunk{}), ErrCorrupt},
		{"chunk beyond the end", RPCInstallSnapshot, encodeChunk(testHead(), &snapshotChunk{offset: 9, data: []byte("ab"), req: raft.InstallSnapshotRequest{Size: 10}}), ErrCorrupt},
		{"snapshot's configuration", RPCInstallSnapshot, encodeChunk(testHead(), &snapshotChunk{data: []byte("a"), req: raft.InstallSnapshotRequest{Size: 10, Configuration: []byte("no")}}), ErrCorrupt},
		{"snapshot beyond reason", RPCInstallSnapshot, encodeChunk(testHead(), &snapshotChunk{data: []byte("a"), req: raft.InstallSnapshotRequest{Size: snapshotBytesMax + 1}}), ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := parse(tt.rpc, tt.body); !errors.Is(err, tt.want) {
				t.Fatalf("got %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// answers has every answer, and a reader of it.
func answers() []struct {
	resp any
	got  any
	read func(*decoder)
} {
	app, vote, pre, snap := &raft.AppendEntriesResponse{}, &raft.RequestVoteResponse{}, &raft.RequestPreVoteResponse{}, &raft.InstallSnapshotResponse{}
	return []struct {
		resp any
		got  any
		read func(*decoder)
	}{
		{&raft.AppendEntriesResponse{Term: 1, LastLog: 2, Success: true, NoRetryBackoff: true}, app, func(d *decoder) { decodeAppendAnswer(d, app) }},
		{&raft.RequestVoteResponse{Term: 3, Granted: true}, vote, func(d *decoder) { vote.Term, vote.Granted = d.uint(), d.bool() }},
		{&raft.RequestPreVoteResponse{Term: 4, Granted: true}, pre, func(d *decoder) { pre.Term, pre.Granted = d.uint(), d.bool() }},
		{&raft.InstallSnapshotResponse{Term: 5, Success: true}, snap, func(d *decoder) { snap.Term, snap.Success = d.uint(), d.bool() }},
		{&raft.TimeoutNowResponse{}, &raft.TimeoutNowResponse{}, func(*decoder) {}},
	}
}

func TestAnswersRoundTrip(t *testing.T) {
	for _, a := range answers() {
		b := encodeAnswer(a.resp, nil)
		if err := decodeAnswer(b, a.read); err != nil || !reflect.DeepEqual(a.got, a.resp) {
			t.Errorf("got %+v, %v, want %+v", a.got, err, a.resp)
		}
		for i := range b {
			if err := decodeAnswer(b[:i], a.read); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%T, %d of %d bytes: got %v, want ErrCorrupt", a.resp, i, len(b), err)
			}
		}
	}
	b := encodeAnswer(nil, fmt.Errorf("so many words: %s", strings.Repeat("x", 1<<20)))
	if err := decodeAnswer(b, nil); !errors.Is(err, errAnswer) || !strings.Contains(err.Error(), "so many words") || len(b) > 2<<10 {
		t.Errorf("got %d bytes, %.60v", len(b), err)
	}
	if err := decodeAnswer([]byte{9, 0}, nil); !errors.Is(err, ErrVersion) {
		t.Errorf("got %v, want ErrVersion", err)
	}
	if err := decodeAnswer([]byte{1, 7}, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// TestEntriesThatDoNotFit: they are sent a message's worth at a time, and raft sees that.
func TestEntriesThatDoNotFit(t *testing.T) {
	big := func(n int) *raft.Log { return &raft.Log{Data: make([]byte, n)} }
	tests := []struct {
		entries []*raft.Log
		want    int
	}{
		{nil, 0},
		{[]*raft.Log{big(10)}, 1},
		{[]*raft.Log{big(entryBytesMax), big(1)}, 1},
		{[]*raft.Log{big(1), big(entryBytesMax)}, 1},
		{[]*raft.Log{big(400 << 10), big(400 << 10), big(400 << 10)}, 2},
		{slices.Repeat([]*raft.Log{big(1 << 10)}, 64), 64},
	}
	for i, tt := range tests {
		if got := fitting(tt.entries); got != tt.want {
			t.Errorf("%d: %d of %d fit, want %d", i, got, len(tt.entries), tt.want)
		}
	}
	cluster(t, 3, func(t *testing.T, r *rig) { // and it arrives
		r.allReady()
		lead := r.leader()
		away := r.others(lead.id)[0]
		r.net.isolate(away, true, r.others(away)...)
		r.bulk(0, 40)
		r.net.isolate(away, false, r.others(away)...)
		r.create("end")
		r.converged()
	})
}

func FuzzMessage(f *testing.F) {
	for rpc, m := range messages() {
		f.Add(byte(rpc), m.body)
	}
	f.Fuzz(func(t *testing.T, rpc byte, body []byte) {
		got, err := parse(RPC(rpc), body)
		if err != nil {
			return
		}
		var again []byte
		d := &decoder{b: body}
		h := decodeHead(d)
		e := encoder{b: append([]byte(nil), body[:d.off]...)}
		switch m := got.(type) {
		case *raft.AppendEntriesRequest:
			again = encodeAppend(e, m)
		case *raft.RequestVoteRequest:
			again = encodeVote(e, m)
		case *raft.RequestPreVoteRequest:
			again = encodePreVote(e, m)
		case *snapshotChunk:
			again = encodeChunk(e, m)
		default:
			again = e.b
		}
		back, err := parse(RPC(rpc), again)
		if err != nil || fmt.Sprintf("%#v", deref(back)) != fmt.Sprintf("%#v", deref(got)) {
			t.Fatalf("message of node %d: %+v became %+v, %v", h.node, got, back, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for i, a := range answers() {
		f.Add(byte(i), encodeAnswer(a.resp, nil))
	}
	f.Add(byte(0), encodeAnswer(nil, errLost))
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		all := answers()
		a := all[int(kind)%len(all)]
		if err := decodeAnswer(b, a.read); err != nil {
			return
		}
		again := encodeAnswer(a.got, nil)
		b2 := answers()[int(kind)%len(all)]
		if err := decodeAnswer(again, b2.read); err != nil || !reflect.DeepEqual(a.got, b2.got) {
			t.Fatalf("%+v became %+v, %v", a.got, b2.got, err)
		}
	})
}

// TestHandleIsBounded: raft does not answer, and the caller has an end all the same; the body is the caller's again.
func TestHandleIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{NodeID: 1, PeerAddr: "a:1", Sender: line{}}
		o.setDefaults()
		tr := newTransport(&o, func() string { return "cluster" })
		for rpc, m := range messages() {
			if rpc == RPCInstallSnapshot {
				continue // needs a raft
			}
			began := time.Now()
			if _, err := tr.handle(t.Context(), rpc, m.body); !errors.Is(err, ErrTimeout) || time.Since(began) > 10*time.Second {
				t.Errorf("%s: got %v after %s, want ErrTimeout", rpc, err, time.Since(began))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := tr.handle(ctx, RPCPreVote, messages()[RPCPreVote].body); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want Canceled", err)
		}
		// The body may be overwritten after the answer, though raft keeps the entries.
		body := bytes.Clone(messages()[RPCAppendEntries].body)
		go func() {
			rpc := <-tr.consume
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
			tr.consume <- rpc
		}()
		if _, err := tr.handle(t.Context(), RPCAppendEntries, body); err != nil {
			t.Fatal(err)
		}
		clear(body)
		kept := (<-tr.consume).Command.(*raft.AppendEntriesRequest)
		if string(kept.Entries[0].Data) != "data" || string(kept.Entries[0].Extensions) != "ext" {
			t.Errorf("raft keeps %q", kept.Entries[0].Data)
		}
		go tr.close()
		if _, err := tr.handle(t.Context(), RPCPreVote, messages()[RPCPreVote].body); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

// TestStrangersAreKeptOut: a message of another cluster is refused with words, and a start that comes to nothing repeats them.
func TestStrangersAreKeptOut(t *testing.T) {
	o := Options{NodeID: 1, PeerAddr: "a:1", Sender: line{}}
	o.setDefaults()
	own := ""
	tr := newTransport(&o, func() string { return own })
	if err := tr.checkCluster(messageHead{cluster: "other"}); err != nil {
		t.Errorf("before it knows its cluster: %v", err)
	}
	own = "mine"
	for cluster, want := range map[string]error{"": nil, "mine": nil, "other": ErrWrongCluster} {
		if err := tr.checkCluster(messageHead{cluster: cluster, node: 2, addr: "b:1"}); !errors.Is(err, want) {
			t.Errorf("cluster %q: got %v, want %v", cluster, err, want)
		}
	}
	b, err := tr.handle(t.Context(), RPCTimeoutNow, testHead().b)
	if err != nil || !strings.Contains(decodeAnswer(b, nil).Error(), ErrWrongCluster.Error()) {
		t.Errorf("got %q, %v", b, err)
	}
	if !errors.Is(tr.stranger(), ErrWrongCluster) {
		t.Errorf("stranger is %v", tr.stranger())
	}
}
