package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/broker"
)

// decommissions has a cluster answer requests for a decommission with these states, one after another; the last one stays. It returns what was asked.
func decommissions(t *testing.T, c *kfake.Cluster, states ...[]broker.DecommissionState) *[]broker.DecommissionRequest {
	t.Helper()
	asked := new([]broker.DecommissionRequest)
	c.ControlKey(int16(kmsg.AlterPartitionAssignments), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		r := req.(*kmsg.AlterPartitionAssignmentsRequest)
		r.UnknownTags.Each(func(tag uint32, value []byte) {
			var d broker.DecommissionRequest
			if tag != broker.DecommissionTag || json.Unmarshal(value, &d) != nil {
				t.Errorf("field %d: %q", tag, value)
			}
			*asked = append(*asked, d)
		})
		resp := req.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
		if len(states) == 0 {
			message := "said by the cluster"
			resp.ErrorCode, resp.ErrorMessage = 42, &message
			return resp, nil, true
		}
		value, err := json.Marshal(broker.DecommissionAnswer{Nodes: states[0]})
		if err != nil {
			t.Error(err)
		}
		resp.UnknownTags.Set(broker.DecommissionTag, value)
		if len(states) > 1 {
			states = states[1:]
		}
		return resp, nil, true
	})
	return asked
}

func TestDecommissionCommand(t *testing.T) {
	leaves := func(left int) []broker.DecommissionState {
		return []broker.DecommissionState{{Node: 2, Leaving: true, Alive: true, Left: left, Moving: left}}
	}
	stuck := []broker.DecommissionState{{Node: 2, Leaving: true, Left: 5, Moving: 3, Stuck: 2, StuckAt: []string{"a-0", "b-1"}}}
	tried := []broker.DecommissionState{{Node: 2, Left: 7, Started: 4, Moving: 5, Stuck: 2, Heirs: map[int32]int{1: 3, 0: 1}}}
	for name, test := range map[string]struct {
		args   string
		states [][]broker.DecommissionState
		code   int
		out    []string
		errs   string
		action broker.DecommissionAction // of the first request
	}{
		"begun":               {"2", [][]broker.DecommissionState{leaves(7)}, exitOK, []string{"node 2: 7 partitions left", "the cluster goes on with it"}, "", broker.DecommissionStart},
		"holds nothing":       {"2", [][]broker.DecommissionState{leaves(0)}, exitOK, []string{"node 2 holds nothing: stop it, then weir cluster unregister 2"}, "", broker.DecommissionStart},
		"stuck":               {"2", [][]broker.DecommissionState{stuck}, exitOK, []string{"2 of them wait for more nodes to be alive (a-0, b-1 ...)"}, "", broker.DecommissionStart},
		"waited for":          {"2 --wait", [][]broker.DecommissionState{leaves(7), leaves(3), leaves(0)}, exitOK, []string{"7 partitions left", "3 partitions left", "holds nothing"}, "", broker.DecommissionStart},
		"cancelled by others": {"2 --wait", [][]broker.DecommissionState{leaves(7), {}}, exitError, []string{"7 partitions left"}, "not being decommissioned any more", broker.DecommissionStart},
		"tried":               {"2 --dry-run", [][]broker.DecommissionState{tried}, exitOK, []string{"node 2 holds 7 partitions: 4 would begin to move, 1 move already, 2 would wait", "0     1", "1     3"}, "", broker.DecommissionTry},
		"cancelled":           {"2 --cancel", [][]broker.DecommissionState{{{Node: 2, Left: 5, Started: 3}}}, exitOK, []string{"node 2 stays: 3 partitions were taken back, it holds 5"}, "", broker.DecommissionCancel},
		"listed":              {"", [][]broker.DecommissionState{stuck}, exitOK, []string{"2     FENCED  5"}, "", broker.DecommissionList},
		"nothing to list":     {"", [][]broker.DecommissionState{{}}, exitOK, []string{"no node is being decommissioned"}, "", broker.DecommissionList},
		"refused":             {"2", nil, exitError, nil, "decommission node 2: INVALID_REQUEST: said by the cluster", broker.DecommissionStart},
		"about another":       {"2", [][]broker.DecommissionState{{{Node: 3}}}, exitError, nil, "about 1 other nodes", broker.DecommissionStart},
		"no node":             {"two", nil, exitError, nil, `"two" is no node id`, ""},
		"wait for nobody":     {"--wait", nil, exitError, nil, "name the node", ""},
		"two at once":         {"2 --wait --cancel", nil, exitError, nil, "none of the others can be", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newThree(t)
			asked := decommissions(t, c, test.states...)
			code, out, errs := cli(t, strings.Join(c.ListenAddrs(), ","), "", append([]string{"cluster", "decommission"}, strings.Fields(test.args)...)...)
			if code != test.code || !strings.Contains(errs, test.errs) {
				t.Errorf("exit %d, %q, %q", code, out, errs)
			}
			for _, want := range test.out {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if test.action == "" && len(*asked) > 0 || test.action != "" && (len(*asked) == 0 || (*asked)[0].Action != test.action) {
				t.Errorf("asked %+v, want %q first", *asked, test.action)
			}
			if test.action != "" && test.action != broker.DecommissionList && (*asked)[0].Node != 2 {
				t.Errorf("asked about node %d", (*asked)[0].Node)
			}
		})
	}
}

// A cluster that does not know the field moves nothing and is told apart.
func TestDecommissionOfAnotherKindOfCluster(t *testing.T) {
	c := newThree(t)
	code, _, errs := cli(t, strings.Join(c.ListenAddrs(), ","), "", "cluster", "decommission", "2")
	if code != exitError || !strings.Contains(errs, "it is not Weir, or an older one") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestBytesThatAreLacking(t *testing.T) {
	dirs := kadm.DescribedAllLogDirs{}
	for node, size := range map[int32]int64{1: 1000, 2: 400, 4: 900} {
		dirs[node] = kadm.DescribedLogDirs{"/d": {Topics: kadm.DescribedLogDirTopics{"t": {0: {Topic: "t", Size: size}}}}}
	}
	move := kadm.ListPartitionReassignmentsResponse{Topic: "t", Replicas: []int32{1, 2, 3, 4}, AddingReplicas: []int32{2, 3}, RemovingReplicas: []int32{4}}
	if got := lacks(move, dirs); got != 600+1000 {
		t.Errorf("%d bytes", got)
	}
	if got := sizeOf(1600); got != "1.6 KiB" {
		t.Errorf("shown as %s", got)
	}
}

func TestVotersCommands(t *testing.T) {
	c := newThree(t)
	addr := strings.Join(c.ListenAddrs(), ",")
	for _, test := range []struct {
		args, errs string
	}{
		{"list", "UNSUPPORTED_VERSION"}, {"add x", "no node id"}, {"remove 1x", "no node id"}, {"add 1", "broker is too old"}, {"remove 1", "broker is too old"},
	} {
		if code, _, errs := cli(t, addr, "", append([]string{"cluster", "voters"}, strings.Fields(test.args)...)...); code != exitError || !strings.Contains(errs, test.errs) {
			t.Errorf("voters %s: exit %d, %q", test.args, code, errs)
		}
	}
	q := &quorumState{Leader: 3, Epoch: 7, HighWatermark: 50, Now: 10_000, Members: []memberState{
		{Node: 1, Voter: true, End: 50, Heard: 9_900}, {Node: 2, Voter: true, End: 40, Heard: 3_000}, {Node: 3, Voter: true, End: 51, Heard: 10_000}, {Node: 4, End: 0, Heard: -1},
	}}
	var out strings.Builder
	if err := q.print(stdio{out: &out}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"leader 3, epoch 7", "1     voter     50       0       100ms ago", "2     voter     40       10      7s ago", "3     leader    51       0       -", "4     observer  0        50      never"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	s := &clusterState{Controller: 3, Quorum: q}
	got := []string{s.memberText(1), s.memberText(2), s.memberText(3), s.memberText(4), s.memberText(5)}
	if want := []string{"voter", "voter, silent for 7s, 10 behind", "leader", "observer, 50 behind", "no member"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTopicGrow(t *testing.T) {
	c := newThree(t)
	addr := strings.Join(c.ListenAddrs(), ",")
	ok(t, addr, "", "topic", "create", "orders", "-p", "2", "-r", "3")
	if out := ok(t, addr, "", "topic", "grow", "orders", "-p", "5", "--dry-run"); !strings.Contains(out, "orders can have 5 partitions") {
		t.Error(out)
	}
	if out := ok(t, addr, "", "topic", "grow", "orders", "--partitions", "5"); !strings.Contains(out, "orders has 5 partitions") {
		t.Error(out)
	}
	if out := ok(t, addr, "", "topic", "list"); !strings.Contains(out, "orders  5") {
		t.Error(out)
	}
	for args, want := range map[string]string{"orders": "required flag", "ordres -p 6": `did you mean "orders"`, "orders -p 3": "INVALID_PARTITIONS"} {
		if code, _, errs := cli(t, addr, "", append([]string{"topic", "grow"}, strings.Fields(args)...)...); code != exitError || !strings.Contains(errs, want) {
			t.Errorf("grow %s: exit %d, %q", args, code, errs)
		}
	}
}
