package wal

import (
	"errors"
	"fmt"
)

var (
	// ErrPoisoned: a write failed or passed its deadline, so what is on disk behind the durable LSN is unknown. Nothing
	// more is accepted; the process must be restarted, and recovery decides.
	ErrPoisoned = errors.New("wal is poisoned")
	// ErrClosed: the log was closed, or not started yet.
	ErrClosed = errors.New("wal is closed")
	// ErrBackpressure: QueueBytesMax bytes wait for the disk already. Try again when some were committed.
	ErrBackpressure = errors.New("wal queue is full")
	// ErrTooLarge: the entry does not fit into one file, or its head is longer than HeadBytesMax.
	ErrTooLarge = errors.New("wal entry is too large")
	// ErrKind: the entry's kind is unknown, or its payload is not what the kind demands.
	ErrKind = errors.New("wal entry kind is invalid")
	// ErrNoSpace: the file system has no room for another log file.
	ErrNoSpace = errors.New("no space for a wal file")
	// ErrCorrupt: data that had been acknowledged is damaged. The error is a *CorruptError.
	ErrCorrupt = errors.New("wal is corrupt")
	// ErrMisuse: the calls came in an order the log does not support.
	ErrMisuse = errors.New("wal misuse")
)

// CorruptError says where acknowledged data is damaged and what proves that it had been acknowledged. The
// log is left as it is: an operator or a replica must repair it.
type CorruptError struct {
	File   string // slot file; empty when a whole file is missing
	Offset int64  // of the first damaged frame in File, in bytes
	LSN    LSN
	Why    string
}

func (e *CorruptError) Error() string {
	file := e.File
	if file == "" {
		file = "(missing file)"
	}
	return fmt.Sprintf("%v: %s at offset %d (LSN %d): %s", ErrCorrupt, file, e.Offset, e.LSN, e.Why)
}

// Unwrap makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }
