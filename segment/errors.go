package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"weir/internal/vfs"
	"weir/uring"
)

var (
	// ErrOffsetOutOfRange: the offset is below the log's start or beyond its end. The error is an *OffsetError.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrClosed: the store or the log was closed or removed.
	ErrClosed = errors.New("log is closed")
	// ErrFailed: an earlier flush failed in a way that must not be retried; the store takes no more data.
	ErrFailed = errors.New("store has failed")
	// ErrNoSpace: the disk is full. Data stays in the tail and in the WAL and is flushed when there is room.
	ErrNoSpace = errors.New("no space left on device")
	// ErrTailFull: the unflushed tail has reached its bound and did not shrink in time.
	ErrTailFull = errors.New("unflushed tail is full")
	// ErrGap: a batch does not follow the log's last offset.
	ErrGap = errors.New("batch does not continue the log")
	// ErrCorrupt: stored bytes are damaged. The error is a *CorruptError.
	ErrCorrupt = errors.New("log is damaged")
	// ErrDeadline: an operation did not finish in time. It is uring's, so that one test covers all disk I/O.
	ErrDeadline = uring.ErrDeadline
)

// OffsetError says which offset was asked for and which exist.
type OffsetError struct {
	Offset, Start, End int64
}

func (e *OffsetError) Error() string {
	return fmt.Sprintf("offset %d out of range: log has %d to %d", e.Offset, e.Start, e.End)
}

// Is makes errors.Is(err, ErrOffsetOutOfRange) true.
func (e *OffsetError) Is(target error) bool { return target == ErrOffsetOutOfRange }

// CorruptError says where stored bytes are damaged. Nothing was cut or changed.
type CorruptError struct {
	File     string
	Position int64 // in bytes, in File
	Offset   int64 // of the record expected there
	Err      error // what is wrong

	// Where good data begins again: the damage is [Position, End) in File and the records [Offset, NextOffset). 0: not known.
	End        int64
	NextOffset int64
}

func (e *CorruptError) Error() string {
	if e.NextOffset == 0 {
		return fmt.Sprintf("%s is damaged at position %d (offset %d): %v", e.File, e.Position, e.Offset, e.Err)
	}
	return fmt.Sprintf("%s is damaged from position %d to %d (offsets %d to %d): %v", e.File, e.Position, e.End, e.Offset, e.NextOffset-1, e.Err)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

func (e *CorruptError) Unwrap() error { return e.Err }

// DeadlineError describes a blocking operation that was given up on. It may still finish later; its result is discarded then.
type DeadlineError struct {
	Op      string // populate, read, map, ...
	Target  string // file name
	Elapsed time.Duration
	Queued  bool // it never started: all workers are stuck
}

func (e *DeadlineError) Error() string {
	if e.Queued {
		return fmt.Sprintf("%s %s: no free worker after %s: %v", e.Op, e.Target, e.Elapsed.Round(time.Microsecond), ErrDeadline)
	}
	return fmt.Sprintf("%s %s: %v after %s", e.Op, e.Target, ErrDeadline, e.Elapsed.Round(time.Microsecond))
}

func (e *DeadlineError) Unwrap() error { return ErrDeadline }

// isNoSpace tells the one failure that is worth retrying from all others.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrNoSpace)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// asDeadline makes a missed deadline of the file system recognizable as ErrDeadline like all others.
func asDeadline(err error) error {
	if late, ok := errors.AsType[*vfs.TimeoutError](err); ok {
		return &DeadlineError{Op: late.Op, Target: late.Path, Elapsed: late.Elapsed, Queued: late.Stuck != nil}
	}
	return err
}
