package replica

import (
	"errors"
	"fmt"

	"weir/segment"
)

// wrapStorage gives an error of the segment store the kind that callers of this package look for.
func wrapStorage(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, segment.ErrTailFull):
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	}
	return fmt.Errorf("%w: %w", ErrStorage, err)
}
