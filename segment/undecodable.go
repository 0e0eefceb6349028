package segment

import (
	"errors"

	"weir/internal/record"
)

// eachRecord is Each for a batch whose checksum is right. Compressed records are stored without being looked at, so what a producer sent may be
// impossible to decode: a search by time must not end there for ever. The rest of such a batch counts as one record, its last, with the timestamp
// that its header claims.
func eachRecord(b record.Batch, fn func(*record.Record) bool) error {
	more := true
	err := b.Each(func(r *record.Record) bool {
		more = fn(r)
		return more
	})
	if errors.Is(err, record.ErrInvalid) || errors.Is(err, record.ErrTooLarge) {
		err = nil
		if more {
			fn(&record.Record{Offset: b.LastOffset(), Timestamp: b.MaxTimestamp()})
		}
	}
	return err
}
