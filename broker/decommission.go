package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/controller"
)

// Kafka has no request for emptying a broker. Weir's rides on AlterPartitionReassignments (key 45), which it is a kind of, as a tagged field: any Kafka
// client can send it, it is forwarded to the controller like every administrative request, and a broker that does not know the field does nothing, because
// the request names no partitions, and answers without it. See docs/decisions/0019-decommission.md.

// DecommissionTag is the number of the tagged field, in the request and in the response. It is far beyond what Kafka numbers. The value is JSON.
const DecommissionTag = 10010

// DecommissionAction is what is to be done.
type DecommissionAction string

const (
	DecommissionStart  DecommissionAction = "start" // also goes on with one that was begun
	DecommissionTry    DecommissionAction = "try"   // says what start would do
	DecommissionCancel DecommissionAction = "cancel"
	DecommissionList   DecommissionAction = "list" // of all nodes that leave
)

// DecommissionRequest is the field in the request.
type DecommissionRequest struct {
	Action DecommissionAction `json:"action"`
	Node   int32              `json:"node,omitempty"`
}

// DecommissionAnswer is the field in the response, unless that has an error.
type DecommissionAnswer struct {
	Nodes []DecommissionState `json:"nodes"`
}

// DecommissionState is how far a node is from holding nothing.
type DecommissionState struct {
	Node    int32         `json:"node"`
	Leaving bool          `json:"leaving"`
	Alive   bool          `json:"alive"`
	Started int           `json:"started,omitempty"`  // partitions that began to move, or with cancel, stay, by this request
	Left    int           `json:"left"`               // partitions that it holds a replica of
	Moving  int           `json:"moving"`             // how many of those are on their way
	Stuck   int           `json:"stuck"`              // how many have nowhere to go while so few nodes are alive
	StuckAt []string      `json:"stuck_at,omitempty"` // some of those
	Heirs   map[int32]int `json:"heirs,omitempty"`    // who takes over how many of those that started
}

var errDecommissionBody = errors.New("the field for a decommission is malformed")

// decommissionField finds the tagged field.
func decommissionField(tags *kmsg.Tags) (value []byte, ok bool) {
	tags.Each(func(tag uint32, v []byte) {
		if tag == DecommissionTag {
			value, ok = v, true
		}
	})
	return value, ok
}

// NewDecommissionRequest is the Kafka request that carries r.
func NewDecommissionRequest(r DecommissionRequest) (*kmsg.AlterPartitionAssignmentsRequest, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.UnknownTags.Set(DecommissionTag, value)
	return req, nil
}

// DecommissionAnswerOf takes the answer out of a response; ok is false if the broker does not know the field.
func DecommissionAnswerOf(resp *kmsg.AlterPartitionAssignmentsResponse) (answer DecommissionAnswer, ok bool, err error) {
	value, ok := decommissionField(&resp.UnknownTags)
	if !ok {
		return answer, false, nil
	}
	if err := json.Unmarshal(value, &answer); err != nil {
		return answer, true, fmt.Errorf("%w: %w", errDecommissionBody, err)
	}
	return answer, true, nil
}

func parseDecommission(value []byte) (r DecommissionRequest, err error) {
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errDecommissionBody, err)
	}
	return r, nil
}

// decommission serves a request that has the field.
func (a *adminCall) decommission(r *kmsg.AlterPartitionAssignmentsRequest, value []byte) kmsg.Response {
	states, err := a.decommissions(r, value)
	if err = a.settled(err); err != nil {
		return alterReassignmentsFailed(r, metaCode(err), message(err))
	}
	answer := DecommissionAnswer{Nodes: []DecommissionState{}}
	for i := range states {
		answer.Nodes = append(answer.Nodes, a.b.decommissionState(&states[i]))
	}
	field, err := json.Marshal(answer)
	if err != nil {
		return alterReassignmentsFailed(r, metaCode(err), message(err))
	}
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.AllowReplicationFactorChange = r.AllowReplicationFactorChange
	resp.UnknownTags.Set(DecommissionTag, field)
	return resp
}

func (a *adminCall) decommissions(r *kmsg.AlterPartitionAssignmentsRequest, value []byte) ([]controller.DecommissionProgress, error) {
	req, err := parseDecommission(value)
	if err != nil {
		return nil, refuse(kerr.InvalidRequest, "%v", err)
	}
	if len(r.Topics) > 0 {
		return nil, refuse(kerr.InvalidRequest, "A request for a decommission names no topics.")
	}
	switch req.Action {
	case DecommissionList:
		return a.b.ctl.Decommissions(), nil
	case DecommissionStart, DecommissionTry:
		if err := a.mayLeave(req.Node); err != nil {
			return nil, err
		}
	case DecommissionCancel:
	default:
		return nil, refuse(kerr.InvalidRequest, "Unknown action %q of a decommission.", req.Action)
	}
	progress, err := a.b.ctl.Decommission(a.ctx, controller.Decommission{
		Broker: req.Node, Try: req.Action == DecommissionTry, Cancel: req.Action == DecommissionCancel,
	})
	if err != nil {
		return nil, err
	}
	if req.Action != DecommissionTry {
		a.b.log.Info("decommission", "action", req.Action, "broker", req.Node, "partitions_left", progress.Left, "started", progress.Started,
			"moving", progress.Moving, "stuck", progress.Stuck, "peer", a.peer)
	}
	return []controller.DecommissionProgress{progress}, nil
}

// mayLeave refuses a node that votes on the metadata: without it there may be no majority, and who shall have its vote is the operator's to say.
func (a *adminCall) mayLeave(node int32) error {
	if !a.b.clustered() {
		return refuse(kerr.InvalidRequest, "Node %d is alone, there is nobody to take over what it has.", a.b.cfg.NodeID)
	}
	if memberOf(a.b.meta.Quorum().Voters, node) != nil {
		return refuse(kerr.InvalidRequest, "Node %d votes on the metadata. Give another node a vote first (weir cluster voters add), then take its away "+
			"(weir cluster voters remove %d).", node, node)
	}
	return nil
}

// beingDecommissioned says that a broker is to leave the cluster.
func (b *Broker) beingDecommissioned(node int32) bool {
	reg := b.meta.Image().Broker(node)
	return reg != nil && reg.Leaving
}

func (b *Broker) decommissionState(p *controller.DecommissionProgress) DecommissionState {
	s := DecommissionState{
		Node: p.Broker, Leaving: p.Leaving, Started: p.Started, Left: p.Left, Moving: p.Moving, Stuck: p.Stuck, Heirs: p.Heirs,
	}
	if reg := b.meta.Image().Broker(p.Broker); reg != nil {
		s.Alive = !reg.Fenced
	}
	for _, at := range p.StuckAt {
		s.StuckAt = append(s.StuckAt, fmt.Sprintf("%s-%d", at.Topic, at.Partition))
	}
	slices.Sort(s.StuckAt)
	return s
}
