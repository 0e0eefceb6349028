package broker

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/record"
	"weir/replica"
	"weir/segment"
)

// mapping is a table row: what goes wrong below, and what a client is told.
type mapping struct {
	err   error
	kafka *kerr.Error
}

// lookUp returns the code of the first row that err matches.
func lookUp(table []mapping, err error) (code int16, ok bool) {
	for i := range table {
		if errors.Is(err, table[i].err) {
			return table[i].kafka.Code, true
		}
	}
	return 0, false
}

// storeErrors maps what goes wrong in the storage.
var storeErrors = []mapping{
	{replica.ErrDiskFull, kerr.KafkaStorageError},
	{replica.ErrOverloaded, kerr.RequestTimedOut},
	{replica.ErrNotHere, kerr.NotLeaderForPartition},
	{replica.ErrNotLeader, kerr.NotLeaderForPartition},
	{replica.ErrNotReplica, kerr.UnknownLeaderEpoch}, // the leader may not know the assignment yet: the follower asks again
	{replica.ErrNotEnoughReplicasAfterAppend, kerr.NotEnoughReplicasAfterAppend},
	{replica.ErrNotEnoughReplicas, kerr.NotEnoughReplicas},
	{replica.ErrFencedEpoch, kerr.FencedLeaderEpoch},
	{replica.ErrUnknownEpoch, kerr.UnknownLeaderEpoch},
	{replica.ErrStaleEpoch, kerr.InvalidProducerEpoch},
	{replica.ErrOutOfOrder, kerr.OutOfOrderSequenceNumber},
	{replica.ErrTimestamp, kerr.InvalidTimestamp},
	{replica.ErrTooLarge, kerr.MessageTooLarge},
	{replica.ErrSegmentSize, kerr.RecordListTooLarge},
	{replica.ErrPolicy, kerr.PolicyViolation},
	{replica.ErrOffsetOutOfRange, kerr.OffsetOutOfRange},
	{segment.ErrCorrupt, kerr.CorruptMessage},
	{record.ErrCRC, kerr.CorruptMessage},
	{record.ErrShort, kerr.InvalidRecord},
	{record.ErrInvalid, kerr.InvalidRecord},
	{record.ErrMagic, kerr.InvalidRecord},
	{record.ErrTooLarge, kerr.InvalidRecord},
	{replica.ErrStorage, kerr.KafkaStorageError},
}

// codeOf is Kafka's error for an error of the storage; UNKNOWN_SERVER_ERROR for one that was not foreseen.
func codeOf(err error) int16 {
	if err == nil {
		return 0
	}
	var ke *kerr.Error
	if errors.As(err, &ke) {
		return ke.Code
	}
	if code, ok := lookUp(storeErrors, err); ok {
		return code
	}
	return kerr.UnknownServerError.Code
}
