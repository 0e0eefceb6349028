package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

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
	return &text
}

// propose changes the metadata within the time that the client waits; one that names none gets the broker's own bound.
func (b *Broker) propose(timeoutMs int32, cmds ...raftmeta.Command) ([]raftmeta.Result, error) {
	limit := b.requestTimeout()
	if asked := time.Duration(timeoutMs) * time.Millisecond; asked > 0 {
		limit = min(limit, asked)
	}
	if err := b.parts.Down(); err != nil {
		return nil, err // a stalled disk would have the client wait for nothing
	}
	stalled := b.parts.UntilStalled()
	ctx, cancel := context.WithTimeout(stalled, limit)
	defer cancel()
	results, err := b.meta.Propose(ctx, cmds...)
	if err != nil && stalled.Err() != nil && b.parts.Down() != nil {
		return nil, fmt.Errorf("%w: %w", b.parts.Down(), err)
	}
	return results, err
}

// requestTimeout is how long a request may wait for the cluster.
func (b *Broker) requestTimeout() time.Duration { return config.Millis(b.cfg.RequestTimeoutMs) }

// loggedNamesMax is how many topics one line of the log names.
const loggedNamesMax = 10

// logTopics says in one line what a request did, however many topics it had.
func (c *call) logTopics(what string, names []string) {
	if len(names) == 0 {
		return
	}
	c.b.log.Info(what, "count", len(names), "topics", names[:min(len(names), loggedNamesMax)], "peer", c.r.Conn.RemoteAddr())
}
