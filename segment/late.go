package segment

import (
	"errors"

	"weir/internal/vfs"
)

// IsLate reports whether err is a deadline that passed: the disk did not answer in time, and whether the operation will still take
// effect is unknown. Doing it again is sound for everything in this package once the first one has left the disk: a flush writes the same
// bytes to the same place and syncs all that the failed one should have; a small file is written anew under a name of its own.
func IsLate(err error) bool {
	if errors.Is(err, ErrDeadline) {
		return true
	}
	_, late := errors.AsType[*vfs.TimeoutError](err)
	return late
}
