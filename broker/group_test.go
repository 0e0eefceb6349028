package broker

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/coordinator/group"
	"weir/internal/record"
)

// TestGroupCodes: every outcome has an error of its own.
func TestGroupCodes(t *testing.T) {
	seen := map[int16]group.Code{}
	for c := range group.CodeCount {
		code := groupCode(c)
		if old, twice := seen[code]; twice {
			t.Errorf("%s and %s are both %d", c, old, code)
		}
		seen[code] = c
		if name := kerr.TypedErrorForCode(code); c != group.OK && name.Message != c.String() {
			t.Errorf("%s is sent as %s", c, name.Message)
		}
	}
}

// groupsReady makes the coordinator's partitions exist and waits until a group can be served.
func groupsReady(t *testing.T, w *wire, id string) {
	t.Helper()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKeys = 6, []string{id}
	resp := w.do(find).(*kmsg.FindCoordinatorResponse)
	if c := resp.Coordinators[0]; c.ErrorCode != 0 || c.Host == "" || c.Port <= 0 || c.Key != id {
		t.Fatalf("coordinator %+v", c)
	}
	for { // until the connection's deadline
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Version, req.Groups = 5, []string{id}
		switch code := w.do(req).(*kmsg.DescribeGroupsResponse).Groups[0].ErrorCode; code {
		case kerr.NotCoordinator.Code, kerr.CoordinatorLoadInProgress.Code:
		case 0:
			return
		default:
			t.Fatalf("group %s: error code %d", id, code)
		}
	}
}

func TestFindCoordinator(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	for version := int16(0); version <= 6; version++ {
		for kind, want := range map[int8]int16{0: 0, 1: kerr.CoordinatorNotAvailable.Code, 2: kerr.InvalidRequest.Code, 9: kerr.InvalidRequest.Code} {
			if version == 0 && kind != 0 {
				continue
			}
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.Version, req.CoordinatorType, req.CoordinatorKey, req.CoordinatorKeys = version, kind, "g", []string{"g", "h"}
			resp := w.do(req).(*kmsg.FindCoordinatorResponse)
			if version >= 4 {
				if len(resp.Coordinators) != 2 || resp.Coordinators[1].ErrorCode != want || resp.Coordinators[1].Key != "h" {
					t.Errorf("v%d type %d: %+v", version, kind, resp)
				}
			} else if resp.ErrorCode != want || (want == 0) != (resp.Port > 0) {
				t.Errorf("v%d type %d: %+v", version, kind, resp)
			}
		}
	}
}

// TestOffsetVersions commits and reads offsets in every version, and meets each error.
func TestOffsetVersions(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	id := createTopic(t, w, "orders", 2)
	for version := int16(2); version <= 10; version++ {
		g := fmt.Sprintf("g%d", version)
		groupsReady(t, w, g)
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = version, g, -1
		commit := func(name string, id [16]byte, p int32) {
			t := kmsg.NewOffsetCommitRequestTopic()
			t.Topic, t.TopicID = name, id
			tp := kmsg.NewOffsetCommitRequestTopicPartition()
			tp.Partition, tp.Offset, tp.LeaderEpoch, tp.Metadata = p, 40+int64(version), 3, kmsg.StringPtr("m")
			t.Partitions = append(t.Partitions, tp)
			req.Topics = append(req.Topics, t)
		}
		commit("nowhere", [16]byte{9}, 0)
		commit("orders", id, 1)
		commit("orders", id, 2)
		resp := w.do(req).(*kmsg.OffsetCommitResponse)
		unknown := kerr.UnknownTopicOrPartition.Code
		if version >= 10 {
			unknown = kerr.UnknownTopicID.Code
		}
		for i, want := range []int16{unknown, 0, kerr.UnknownTopicOrPartition.Code} {
			if got := resp.Topics[i].Partitions[0].ErrorCode; got != want {
				t.Errorf("commit v%d, topic %d: error code %d, want %d", version, i, got, want)
			}
		}
		req.Topics, req.Generation = req.Topics[1:2], 5
		want := kerr.IllegalGeneration.Code
		req.Group = "absent" + g
		if version >= 9 {
			want = kerr.GroupIDNotFound.Code
		}
		groupsReady(t, w, req.Group)
		if got := w.do(req).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode; got != want {
			t.Errorf("commit v%d in no group: error code %d, want %d", version, got, want)
		}
	}
	for version := int16(1); version <= 10; version++ {
		for _, all := range []bool{false, true} {
			if all && version < 2 {
				continue
			}
			fetchOffsets(t, w, version, all, id)
		}
	}
}

// fetchOffsets reads the offsets of g6, whose partition 1 of orders is at 46, and of a group that does not exist.
func fetchOffsets(t *testing.T, w *wire, version int16, all bool, id [16]byte) {
	t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.Group, req.RequireStable = version, "g6", true
	if !all {
		req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "orders", Partitions: []int32{1, 0}}}
	}
	for _, g := range []string{"g6", "nobody"} {
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group = g
		if !all {
			rg.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "orders", TopicID: id, Partitions: []int32{1, 0}}}
			if version >= 10 {
				rg.Topics = append(rg.Topics, kmsg.OffsetFetchRequestGroupTopic{TopicID: [16]byte{9}, Partitions: []int32{0}})
			}
		}
		req.Groups = append(req.Groups, rg)
	}
	groupsReady(t, w, "nobody")
	resp := w.do(req).(*kmsg.OffsetFetchResponse)
	got := ""
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			got += fmt.Sprintf("%s-%d %d %q %d;", topic.Topic, p.Partition, p.Offset, *p.Metadata, p.ErrorCode)
		}
	}
	for _, g := range resp.Groups {
		got += g.Group + ":"
		for _, topic := range g.Topics {
			name := topic.Topic
			if topic.TopicID == id {
				name = "orders"
			}
			for _, p := range topic.Partitions {
				got += fmt.Sprintf("%s-%d %d %q %d;", name, p.Partition, p.Offset, *p.Metadata, p.ErrorCode)
			}
		}
	}
	one, none, unknown := `orders-1 46 "m" 0;`, `orders-0 -1 "" 0;`, ""
	if version >= 10 {
		unknown = fmt.Sprintf(`-0 -1 "" %d;`, kerr.UnknownTopicID.Code)
	}
	want := map[bool]string{
		true: "g6:" + one + "nobody:", false: "g6:" + one + none + unknown + `nobody:orders-1 -1 "" 0;` + none + unknown,
	}[all]
	if version < 8 {
		want = map[bool]string{true: one, false: one + none}[all]
	}
	if got != want {
		t.Errorf("fetch v%d (all: %v):\ngot  %s\nwant %s", version, all, got, want)
	}
}

// TestGroupLife takes a group through every API: join, sync, heartbeat, describe, list, leave, delete.
func TestGroupLife(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "orders", 1)
	groupsReady(t, w, "g")

	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 9, "g", 10000, 10000
	join.ProtocolType, join.Protocols = "consumer", []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("meta")}}
	joined := w.do(join).(*kmsg.JoinGroupResponse)
	if joined.ErrorCode != kerr.MemberIDRequired.Code || joined.MemberID == "" {
		t.Fatalf("first join: %+v", joined)
	}
	join.MemberID = joined.MemberID
	joined = w.do(join).(*kmsg.JoinGroupResponse)
	if joined.ErrorCode != 0 || joined.Generation != 1 || joined.LeaderID != join.MemberID || len(joined.Members) != 1 ||
		string(joined.Members[0].ProtocolMetadata) != "meta" {
		t.Fatalf("second join: %+v", joined)
	}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.Generation, sync.MemberID = 5, "g", 1, join.MemberID
	if code := w.do(sync).(*kmsg.SyncGroupResponse).ErrorCode; code != kerr.InconsistentGroupProtocol.Code {
		t.Errorf("sync without protocol: error code %d", code)
	}
	sync.ProtocolType, sync.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: join.MemberID, MemberAssignment: []byte("mine")}}
	if resp := w.do(sync).(*kmsg.SyncGroupResponse); resp.ErrorCode != 0 || string(resp.MemberAssignment) != "mine" {
		t.Fatalf("sync: %+v", resp)
	}
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Version, beat.Group, beat.Generation, beat.MemberID = 4, "g", 1, join.MemberID
	if code := w.do(beat).(*kmsg.HeartbeatResponse).ErrorCode; code != 0 {
		t.Errorf("heartbeat: error code %d", code)
	}
	describeAndList(t, w, join.MemberID)

	del := kmsg.NewPtrDeleteGroupsRequest()
	del.Version, del.Groups = 2, []string{"g", "absent", "g"}
	groupsReady(t, w, "absent")
	got := w.do(del).(*kmsg.DeleteGroupsResponse).Groups
	if len(got) != 2 || got[0].ErrorCode != kerr.NonEmptyGroup.Code || got[1].ErrorCode != kerr.GroupIDNotFound.Code {
		t.Errorf("delete: %+v", got)
	}
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Version, leave.Group, leave.MemberID = 2, "g", "nobody"
	if code := w.do(leave).(*kmsg.LeaveGroupResponse).ErrorCode; code != kerr.UnknownMemberID.Code {
		t.Errorf("leave of nobody: error code %d", code)
	}
	leave.Version, leave.Members = 5, []kmsg.LeaveGroupRequestMember{{MemberID: join.MemberID}, {MemberID: "nobody"}}
	if r := w.do(leave).(*kmsg.LeaveGroupResponse); r.ErrorCode != 0 || len(r.Members) != 2 || r.Members[0].ErrorCode != 0 ||
		r.Members[1].ErrorCode != kerr.UnknownMemberID.Code {
		t.Errorf("leave: %+v", r)
	}
	if got := w.do(del).(*kmsg.DeleteGroupsResponse).Groups; got[0].ErrorCode != 0 {
		t.Errorf("delete of the empty group: %+v", got)
	}
}

func describeAndList(t *testing.T, w *wire, member string) {
	t.Helper()
	desc := kmsg.NewPtrDescribeGroupsRequest()
	desc.Groups, desc.IncludeAuthorizedOperations = []string{"g", "absent"}, true
	groupsReady(t, w, "absent")
	for version := int16(0); version <= 6; version++ {
		desc.Version = version
		gs := w.do(desc).(*kmsg.DescribeGroupsResponse).Groups
		if g := gs[0]; g.State != "Stable" || g.Protocol != "range" || len(g.Members) != 1 || g.Members[0].MemberID != member ||
			g.Members[0].ClientHost != "/127.0.0.1" || string(g.Members[0].MemberAssignment) != "mine" {
			t.Errorf("describe v%d: %+v", version, g)
		}
		want := int16(0)
		if version >= 6 {
			want = kerr.GroupIDNotFound.Code
		}
		if gs[1].State != "Dead" || gs[1].ErrorCode != want {
			t.Errorf("describe v%d: %+v", version, gs[1])
		}
	}
	for _, tt := range []struct {
		states, types []string
		want          int
	}{
		{nil, nil, 1},
		{[]string{"stable"}, []string{"Classic"}, 1},
		{[]string{"Empty"}, nil, 0},
		{nil, []string{"consumer"}, 0},
		{[]string{"Empty", "Stable"}, []string{"share", "classic"}, 1},
	} {
		list := kmsg.NewPtrListGroupsRequest()
		list.Version, list.StatesFilter, list.TypesFilter = 5, tt.states, tt.types
		if got := w.do(list).(*kmsg.ListGroupsResponse); len(got.Groups) != tt.want || got.ErrorCode != 0 {
			t.Errorf("list %v %v: %+v", tt.states, tt.types, got)
		}
	}
}

// TestConsumerGroup is two franz-go consumers that share a topic, commit, and after a restart of the broker go on where they were.
func TestConsumerGroup(t *testing.T) {
	dir := t.TempDir()
	first := startNode(t, dir, nil)
	createTopic(t, dial(t, first), "orders", 4)
	ctx := testContext(t)
	produce := func(r *Running, from, to int) {
		cl := newClient(t, r, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
		for i := from; i < to; i++ {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	consume := func(r *Running, seen map[string]int, want int) {
		opts := []kgo.Opt{kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
		a, b := newClient(t, r, opts...), newClient(t, r, opts...)
		got := make(chan kgo.Fetches)
		for _, cl := range []*kgo.Client{a, b} {
			go func() {
				for {
					f := cl.PollFetches(ctx)
					if f.IsClientClosed() || ctx.Err() != nil {
						return
					}
					if err := cl.CommitRecords(ctx, f.Records()...); err != nil {
						return // a rebalance took the partitions: others read them again
					}
					select {
					case got <- f:
					case <-ctx.Done():
						return
					}
				}
			}()
		}
		for len(seen) < want {
			select {
			case f := <-got:
				f.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
			case <-ctx.Done():
				t.Fatalf("%d of %d records", len(seen), want)
			}
		}
		a.Close()
		b.Close()
	}
	seen := map[string]int{}
	produce(first, 0, 100)
	consume(first, seen, 100)
	stopNode(t, first)

	second := startNode(t, dir, nil)
	produce(second, 100, 150)
	again := map[string]int{}
	consume(second, again, 50)
	for v := range again {
		if seen[v] > 0 {
			t.Errorf("record %s was committed before the restart and is read again", v)
		}
	}
}

// TestOffsetsTopicFormat: what is in __consumer_offsets are Kafka's records.
func TestOffsetsTopicFormat(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "orders", 1)
	groupsReady(t, w, "g")
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 8, "g", -1
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 7, LeaderEpoch: -1}}}}
	if code := w.do(req).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("commit: error code %d", code)
	}
	var key kmsg.OffsetCommitKey
	var value kmsg.OffsetCommitValue
	n := 0
	err := offsetsStorage{r.b.parts, &r.b.commits, &r.b.groupRoles}.Load(r.b.groups.PartitionFor("g"), 0, func(rec *record.Record) error {
		n++
		if err := key.ReadFrom(rec.Key); err != nil {
			return err
		}
		return value.ReadFrom(rec.Value)
	})
	if err != nil || n != 1 || key.Group != "g" || key.Topic != "orders" || value.Offset != 7 || value.CommitTimestamp == 0 {
		t.Fatalf("%d records, key %+v, value %+v, %v", n, key, value, err)
	}
}
