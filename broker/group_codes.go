package broker

import (
	"net"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/coordinator/group"
)

// groupCodes maps the group coordinator's outcomes to Kafka's error codes.
var groupCodes = [group.CodeCount]int16{
	group.OK:                        0,
	group.CoordinatorNotAvailable:   kerr.CoordinatorNotAvailable.Code,
	group.CoordinatorLoadInProgress: kerr.CoordinatorLoadInProgress.Code,
	group.NotCoordinator:            kerr.NotCoordinator.Code,
	group.InvalidGroupID:            kerr.InvalidGroupID.Code,
	group.UnknownMemberID:           kerr.UnknownMemberID.Code,
	group.MemberIDRequired:          kerr.MemberIDRequired.Code,
	group.FencedInstanceID:          kerr.FencedInstanceID.Code,
	group.IllegalGeneration:         kerr.IllegalGeneration.Code,
	group.RebalanceInProgress:       kerr.RebalanceInProgress.Code,
	group.InconsistentGroupProtocol: kerr.InconsistentGroupProtocol.Code,
	group.InvalidSessionTimeout:     kerr.InvalidSessionTimeout.Code,
	group.GroupMaxSizeReached:       kerr.GroupMaxSizeReached.Code,
	group.GroupIDNotFound:           kerr.GroupIDNotFound.Code,
	group.NonEmptyGroup:             kerr.NonEmptyGroup.Code,
	group.GroupSubscribedToTopic:    kerr.GroupSubscribedToTopic.Code,
	group.OffsetMetadataTooLarge:    kerr.OffsetMetadataTooLarge.Code,
	group.UnknownServerError:        kerr.UnknownServerError.Code,
}

func groupCode(c group.Code) int16 { return groupCodes[c] }

// clientHost is the client's address as Kafka shows it in group descriptions.
func clientHost(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return "/" + host
	}
	return "/" + remote
}
