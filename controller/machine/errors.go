package machine

import "errors"

var (
	// ErrNotController: this node is not the controller, or is no longer; nothing was done.
	ErrNotController = errors.New("not the controller")
	// ErrStaleBrokerEpoch: the broker has registered again since.
	ErrStaleBrokerEpoch = errors.New("stale broker epoch")
	// ErrDuplicateBroker: another process with this id is alive, or was within its session.
	ErrDuplicateBroker = errors.New("another broker with this id is alive")
	// ErrUnknownBroker: no broker with this id is registered.
	ErrUnknownBroker = errors.New("broker is not registered")
	// ErrFencedLeaderEpoch: the leader has an older leader epoch than the partition.
	ErrFencedLeaderEpoch = errors.New("fenced leader epoch")
	// ErrInvalidUpdate: the partition has changed since, its partition epoch is another.
	ErrInvalidUpdate = errors.New("partition has changed since")
	// ErrInvalidRequest: the request contradicts itself or the metadata (see the text).
	ErrInvalidRequest = errors.New("invalid request")
	// ErrIneligibleReplica: a replica is fenced, shutting down, or another process than the leader knows.
	ErrIneligibleReplica = errors.New("replica cannot be in sync")
	// ErrElectionNotNeeded: the partition has the leader that an election would give it.
	ErrElectionNotNeeded = errors.New("election is not needed")
	// ErrNoEligibleLeader: no replica that could lead lives; for preferred elections: the preferred one cannot.
	ErrNoEligibleLeader = errors.New("no eligible leader")
	// ErrNoReassignment: there is nothing to cancel.
	ErrNoReassignment = errors.New("no reassignment in progress")
	// ErrCannotLeave: the brokers that stay could not hold what a broker has (see the text); nothing was done.
	ErrCannotLeave = errors.New("broker cannot be decommissioned")
	// ErrNotLeaving: there is no decommission to cancel.
	ErrNotLeaving = errors.New("broker is not being decommissioned")
	// ErrInvalidAssignment: a list of replicas is empty, has duplicates or brokers that are not registered, or cannot be had
	// without losing records.
	ErrInvalidAssignment = errors.New("invalid replica assignment")
)
