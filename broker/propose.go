package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/controller"
	"weir/internal/config"
	"weir/raftmeta"
)

// refusal is an error for the client: Kafka's code with a message of ours.
type refusal struct {
	kafka   *kerr.Error
	message string
}

func (e *refusal) Error() string { return e.message }

// Unwrap lets codeOf find the code.
func (e *refusal) Unwrap() error { return e.kafka }

func refuse(kafka *kerr.Error, format string, args ...any) error {
	return &refusal{kafka, fmt.Sprintf(format, args...)}
}

// metaErrors maps what goes wrong with a change of the metadata.
var metaErrors = []mapping{
	{raftmeta.ErrTopicExists, kerr.TopicAlreadyExists},
	{raftmeta.ErrUnknownTopic, kerr.UnknownTopicOrPartition},
	{raftmeta.ErrInvalidTopic, kerr.InvalidTopicException},
	{raftmeta.ErrInvalidPartitions, kerr.InvalidPartitions},
	{raftmeta.ErrInvalidReplication, kerr.InvalidReplicationFactor},
	{raftmeta.ErrInvalidConfig, kerr.InvalidConfig},
	{raftmeta.ErrInvalidCommand, kerr.InvalidRequest},
	{raftmeta.ErrTooLarge, kerr.InvalidRequest},
	{raftmeta.ErrNotLeader, kerr.NotController},
	{raftmeta.ErrLeadershipLost, kerr.RequestTimedOut}, // it may have happened
	{raftmeta.ErrTimeout, kerr.RequestTimedOut},
	{raftmeta.ErrBackpressure, kerr.RequestTimedOut},
	{raftmeta.ErrClosed, kerr.NotController},
	{raftmeta.ErrPoisoned, kerr.KafkaStorageError},
	{raftmeta.ErrStoreTimeout, kerr.KafkaStorageError},
	{controller.ErrNotController, kerr.NotController},
	{controller.ErrClosed, kerr.NotController},
	{controller.ErrBusy, kerr.RequestTimedOut},
	{controller.ErrStaleBrokerEpoch, kerr.StaleBrokerEpoch},
	{controller.ErrDuplicateBroker, kerr.DuplicateBrokerRegistration},
	{controller.ErrUnknownBroker, kerr.BrokerIDNotRegistered},
	{controller.ErrFencedLeaderEpoch, kerr.FencedLeaderEpoch},
	{controller.ErrInvalidUpdate, kerr.InvalidUpdateVersion},
	{controller.ErrIneligibleReplica, kerr.IneligibleReplica},
	{controller.ErrInvalidRequest, kerr.InvalidRequest},
	{controller.ErrCannotLeave, kerr.InvalidRequest},
	{controller.ErrNotLeaving, kerr.InvalidRequest},
	{controller.ErrElectionNotNeeded, kerr.ElectionNotNeeded},
	{controller.ErrNoEligibleLeader, kerr.EligibleLeadersNotAvailable},
	{controller.ErrNoReassignment, kerr.NoReassignmentInProgress},
	{controller.ErrInvalidAssignment, kerr.InvalidReplicaAssignment},
	{raftmeta.ErrStaleBroker, kerr.StaleBrokerEpoch},
	{raftmeta.ErrStalePartition, kerr.InvalidUpdateVersion},
	{config.ErrUnknownKey, kerr.InvalidConfig},
	{config.ErrBadValue, kerr.InvalidConfig},
	{config.ErrUnsupported, kerr.InvalidConfig},
	{context.DeadlineExceeded, kerr.RequestTimedOut},
}

// metaCode is codeOf for errors of the metadata and of configuration values.
func metaCode(err error) int16 {
	var known *kerr.Error
	if err == nil || errors.As(err, &known) {
		return codeOf(err)
	}
	if code, ok := lookUp(metaErrors, err); ok {
		return code
	}
	return codeOf(err)
}

// message is the text for a client, nil without an error.
func message(err error) *string {
	if err == nil {
		return nil
	}
	text := err.Error()
	if len(text) > messageMax {
		text = strings.ToValidUTF8(text[:messageMax], "") + " ..."
	}
	return &text
}

// messageMax bounds an error's text, which may quote what the client sent: older versions of the protocol have 16 bits for its length.
const messageMax = 1 << 10

// stalled adds to the error of a change of the metadata that the disk is why, if it is. ctx came from untilStalled.
func (b *Broker) stalled(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if down := b.down(); down != nil {
		return fmt.Errorf("%w: %w", down, err)
	}
	return err
}

// requestTimeout is how long a request may wait for the cluster.
func (b *Broker) requestTimeout() time.Duration { return config.Millis(b.cfg.RequestTimeoutMs) }

// loggedNamesMax is how many topics one line of the log names.
const loggedNamesMax = 10

// logTopics says in one line what a request did, however many topics it had.
func (b *Broker) logTopics(what string, names []string, peer string) {
	if len(names) == 0 {
		return
	}
	b.log.Info(what, "count", len(names), "names", names[:min(len(names), loggedNamesMax)], "peer", peer)
}

func (c *call) logTopics(what string, names []string) {
	c.b.logTopics(what, names, c.r.Conn.RemoteAddr())
}

func (a *adminCall) logTopics(what string, names []string) { a.b.logTopics(what, names, a.peer) }
