package broker

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/controller"
	"weir/internal/budget"
	"weir/raftmeta"
)

// A controller can fail with an administrative request in its hands: its disk stalls, its process dies, the connection breaks. Whether the request
// had an effect is not known then, and another controller is there in no time. So that the client need not learn of it, the request is sent
// again, in a form in which it does nothing that was done before, and an answer that only says so ("exists already", "no such topic") is read as the
// success that it is. Each API says how it is repeated (dispatch.go); one that does not ends in REQUEST_TIMED_OUT.
//
// Topics are the reason for a key: the node that the client asked draws it, and the ids of new topics are made of key and name, whoever the controller is.
// A topic of this id was made by this request and by no other.

// attemptKey is the same for all attempts at one administrative request, and another for each request.
type attemptKey [16]byte

func newAttemptKey() (k attemptKey) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// topicID is the id of a topic that a request with this key creates: a UUID of version 4 as far as anybody can tell.
func (k attemptKey) topicID(name string) (id [16]byte) {
	sum := sha256.Sum256(append(k[:], name...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// repetition is how a request is sent once more although it may have been done: req is sent instead of it, and fix, unless nil, makes of the
// answer to req that to the request.
type repetition struct {
	req kmsg.Request
	fix func(kmsg.Response) kmsg.Response
}

// repeater prepares a repetition before the first attempt, when this node's metadata still tells what was there. nil: the request must not be repeated.
type repeater func(b *Broker, req kmsg.Request) *repetition

// repeatAsIs is for requests that do nothing the second time, or that change nothing.
func repeatAsIs(_ *Broker, req kmsg.Request) *repetition { return &repetition{req: req} }

// attempts are the attempts at one request.
type attempts struct {
	key   attemptKey
	again *repetition // nil: there is only one
	doubt error       // the last attempt that may have had an effect; nil: none has
}

func (b *Broker) newAttempts(a *api, req kmsg.Request) *attempts {
	t := &attempts{key: newAttemptKey()}
	if a.repeat != nil && b.clustered() {
		t.again = a.repeat(b, req)
	}
	return t
}

// request is what to send now for req.
func (t *attempts) request(req kmsg.Request) kmsg.Request {
	if t.doubt != nil {
		return t.again.req
	}
	return req
}

// answer is the answer for the client to what was sent last.
func (t *attempts) answer(resp kmsg.Response) kmsg.Response {
	if t.doubt != nil && t.again.fix != nil {
		return t.again.fix(resp)
	}
	return resp
}

// failed notes why an attempt failed, and says whether there may be another one.
func (t *attempts) failed(err error) bool {
	if nothingDone(err) {
		return true
	}
	if t.again == nil {
		return false
	}
	t.doubt = err
	return true
}

// unsettledErrors leave open whether a change was made.
var unsettledErrors = []error{raftmeta.ErrLeadershipLost, raftmeta.ErrTimeout, raftmeta.ErrStoreTimeout, raftmeta.ErrPoisoned}

// movedErrors say that nothing was done because another node has to be asked.
var movedErrors = []error{raftmeta.ErrNotLeader, raftmeta.ErrClosed, controller.ErrNotController, controller.ErrClosed}

// settled notes what the error of a change of the metadata means to the request, and adds that the disk is why, if it is.
func (a *adminCall) settled(err error) error {
	a.b.lap(a.ctx, budget.Propose)
	err = a.b.stalled(a.ctx, err)
	if err == nil || !a.b.clustered() {
		return err
	}
	if is(err, unsettledErrors) || a.ctx.Err() != nil {
		a.doubt = err
	} else if is(err, movedErrors) {
		a.moved = true
	}
	return err
}

func is(err error, any []error) bool {
	for _, e := range any {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// repeatDeletion names topics by the ids that they had: one that was deleted is not found again, even if its name is.
func repeatDeletion(b *Broker, req kmsg.Request) *repetition {
	r := req.(*kmsg.DeleteTopicsRequest)
	img := b.meta.Image()
	again := kmsg.NewPtrDeleteTopicsRequest()
	again.Version, again.TimeoutMillis = deleteByIDVersion, r.TimeoutMillis
	names := map[[16]byte]string{}
	var unsure []goner // not known here before: whether it is the same topic the second time cannot be told
	for _, g := range namedTopics(r) {
		row := kmsg.NewDeleteTopicsRequestTopic()
		row.Topic, row.TopicID = g.name, g.id
		if g.name != nil && g.id == [16]byte{} {
			t := img.Topic(*g.name)
			if t == nil {
				g.err = refuse(kerr.RequestTimedOut, "The controller failed while it had the request.")
				unsure = append(unsure, g)
				continue
			}
			row.Topic, row.TopicID = nil, t.ID
		}
		if t := img.TopicByID(row.TopicID); t != nil {
			names[t.ID] = t.Name
		}
		again.Topics = append(again.Topics, row)
	}
	return &repetition{req: again, fix: func(resp kmsg.Response) kmsg.Response {
		fixed := resp.(*kmsg.DeleteTopicsResponse)
		for i := range fixed.Topics {
			row := &fixed.Topics[i]
			name, known := names[row.TopicID]
			if !known {
				continue
			}
			row.Topic = &name
			if row.ErrorCode == kerr.UnknownTopicID.Code {
				row.ErrorCode, row.ErrorMessage = 0, nil
			}
		}
		fixed.Topics = append(fixed.Topics, goners(unsure).Topics...)
		return fixed
	}}
}

const deleteByIDVersion = 6

// repeatGrowth reads "has as many already" as success where the topic had fewer before.
func repeatGrowth(b *Broker, req kmsg.Request) *repetition {
	r := req.(*kmsg.CreatePartitionsRequest)
	img := b.meta.Image()
	want := map[string]int32{}
	for i := range r.Topics {
		if t := img.Topic(r.Topics[i].Topic); t != nil && int32(len(t.Partitions)) < r.Topics[i].Count {
			want[t.Name] = r.Topics[i].Count
		}
	}
	return &repetition{req: req, fix: func(resp kmsg.Response) kmsg.Response {
		fixed := resp.(*kmsg.CreatePartitionsResponse)
		for i := range fixed.Topics {
			row := &fixed.Topics[i]
			t := b.meta.Image().Topic(row.Topic)
			if n, ok := want[row.Topic]; ok && row.ErrorCode == kerr.InvalidPartitions.Code && t != nil && int32(len(t.Partitions)) == n {
				row.ErrorCode, row.ErrorMessage = 0, nil
			}
		}
		return fixed
	}}
}

// repeatMoves reads "nothing to cancel" as success where there was something. The decommission of a node can be begun twice, but not cancelled.
func repeatMoves(b *Broker, req kmsg.Request) *repetition {
	r := req.(*kmsg.AlterPartitionAssignmentsRequest)
	if value, ok := decommissionField(&r.UnknownTags); ok {
		if d, err := parseDecommission(value); err != nil || d.Action == DecommissionCancel {
			return nil
		}
		return repeatAsIs(b, req)
	}
	moving := map[controller.TopicPartition]bool{}
	for _, m := range b.ctl.Reassignments() {
		moving[controller.TopicPartition{Topic: m.Topic, Partition: m.Partition}] = true
	}
	return &repetition{req: req, fix: func(resp kmsg.Response) kmsg.Response {
		fixed := resp.(*kmsg.AlterPartitionAssignmentsResponse)
		for i := range fixed.Topics {
			t := &fixed.Topics[i]
			for j := range t.Partitions {
				row := &t.Partitions[j]
				if row.ErrorCode == kerr.NoReassignmentInProgress.Code && moving[controller.TopicPartition{Topic: t.Topic, Partition: row.Partition}] {
					row.ErrorCode, row.ErrorMessage = 0, nil
				}
			}
		}
		return fixed
	}}
}

// repeatUnregistration reads "not registered" as success where the broker was.
func repeatUnregistration(b *Broker, req kmsg.Request) *repetition {
	was := b.meta.Image().Broker(req.(*kmsg.UnregisterBrokerRequest).BrokerID) != nil
	return &repetition{req: req, fix: func(resp kmsg.Response) kmsg.Response {
		if r := resp.(*kmsg.UnregisterBrokerResponse); was && r.ErrorCode == kerr.BrokerIDNotRegistered.Code {
			r.ErrorCode, r.ErrorMessage = 0, nil
		}
		return resp
	}}
}

// repeatNewVoter reads "is a voter already" as success where the node was none.
func repeatNewVoter(b *Broker, req kmsg.Request) *repetition {
	was := memberOf(b.meta.Quorum().Voters, req.(*kmsg.AddRaftVoterRequest).VoterID) != nil
	return &repetition{req: req, fix: func(resp kmsg.Response) kmsg.Response {
		if r := resp.(*kmsg.AddRaftVoterResponse); !was && r.ErrorCode == kerr.DuplicateVoter.Code {
			r.ErrorCode, r.ErrorMessage = 0, nil
		}
		return resp
	}}
}

// repeatRemoval reads "is no voter" as success where the node was one.
func repeatRemoval(b *Broker, req kmsg.Request) *repetition {
	was := memberOf(b.meta.Quorum().Voters, req.(*kmsg.RemoveRaftVoterRequest).VoterID) != nil
	return &repetition{req: req, fix: func(resp kmsg.Response) kmsg.Response {
		if r := resp.(*kmsg.RemoveRaftVoterResponse); was && r.ErrorCode == kerr.VoterNotFound.Code {
			r.ErrorCode, r.ErrorMessage = 0, nil
		}
		return resp
	}}
}
