package broker

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/record"
	"weir/replica"
)

// storeErrors maps what goes wrong below to what a client is told. The first match counts.
var storeErrors = []struct {
	err   error
	kafka *kerr.Error
}{
	{replica.ErrDiskFull, kerr.KafkaStorageError},
	{replica.ErrOverloaded, kerr.RequestTimedOut},
	{replica.ErrNotHere, kerr.NotLeaderForPartition},
	{replica.ErrStaleEpoch, kerr.InvalidProducerEpoch},
	{replica.ErrOutOfOrder, kerr.OutOfOrderSequenceNumber},
	{replica.ErrTimestamp, kerr.InvalidTimestamp},
	{replica.ErrTooLarge, kerr.MessageTooLarge},
	{replica.ErrOffsetOutOfRange, kerr.OffsetOutOfRange},
	{record.ErrCRC, kerr.CorruptMessage},
	{record.ErrShort, kerr.InvalidRecord},
	{record.ErrInvalid, kerr.InvalidRecord},
	{record.ErrMagic, kerr.InvalidRecord},
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
	for i := range storeErrors {
		if errors.Is(err, storeErrors[i].err) {
			return storeErrors[i].kafka.Code
		}
	}
	return kerr.UnknownServerError.Code
}
