package replica

import "errors"

var (
	// ErrNotHere: this node has no such partition, or it has just been deleted.
	ErrNotHere = errors.New("partition is not on this node")
	// ErrStorage: the data directory failed; what was not acknowledged may or may not be on disk.
	ErrStorage = errors.New("storage failed")
	// ErrDiskFull: refused before anything was written, because the file system is nearly full.
	ErrDiskFull = errors.New("file system is nearly full")
	// ErrOverloaded: the memory for unflushed data stayed full for as long as the caller would wait.
	ErrOverloaded = errors.New("unflushed data is at its limit")
	// ErrStaleEpoch: the producer's epoch is older than one seen before.
	ErrStaleEpoch = errors.New("producer epoch is fenced")
	// ErrOutOfOrder: an idempotent producer's sequence number leaves a gap.
	ErrOutOfOrder = errors.New("sequence number out of order")
	// ErrTimestamp: a record's timestamp is further from the broker's clock than the topic allows.
	ErrTimestamp = errors.New("timestamp out of range")
	// ErrTooLarge: the batch exceeds the topic's max.message.bytes.
	ErrTooLarge = errors.New("record batch is too large")
	// ErrOffsetOutOfRange: a read below the log start or beyond the end.
	ErrOffsetOutOfRange = errors.New("offset out of range")
)
