package group

import "fmt"

// Code is the outcome of a request. The broker maps it to Kafka's error code.
type Code uint8

// Outcomes, named as Kafka names the errors.
const (
	OK Code = iota
	CoordinatorNotAvailable
	CoordinatorLoadInProgress
	NotCoordinator
	InvalidGroupID
	UnknownMemberID
	MemberIDRequired
	FencedInstanceID
	IllegalGeneration
	RebalanceInProgress
	InconsistentGroupProtocol
	InvalidSessionTimeout
	GroupMaxSizeReached
	GroupIDNotFound
	NonEmptyGroup
	GroupSubscribedToTopic
	OffsetMetadataTooLarge
	UnknownServerError
	// CodeCount is the number of codes.
	CodeCount
)

var codeNames = [CodeCount]string{
	"OK", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS", "NOT_COORDINATOR", "INVALID_GROUP_ID",
	"UNKNOWN_MEMBER_ID", "MEMBER_ID_REQUIRED", "FENCED_INSTANCE_ID", "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS",
	"INCONSISTENT_GROUP_PROTOCOL", "INVALID_SESSION_TIMEOUT", "GROUP_MAX_SIZE_REACHED", "GROUP_ID_NOT_FOUND",
	"NON_EMPTY_GROUP", "GROUP_SUBSCRIBED_TO_TOPIC", "OFFSET_METADATA_TOO_LARGE", "UNKNOWN_SERVER_ERROR",
}

// String is Kafka's name of the error.
func (c Code) String() string {
	if c < CodeCount {
		return codeNames[c]
	}
	return fmt.Sprintf("Code(%d)", uint8(c))
}
