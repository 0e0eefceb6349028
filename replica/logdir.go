package replica

import (
	"fmt"

	"weir/internal/vfs"
)

// Space is the size of the data directory's file system and the room left on it. It does I/O, with a deadline.
func (m *Manager) Space() (vfs.Space, error) {
	s, err := m.fs.Space(m.topicsDir)
	if err != nil {
		return s, fmt.Errorf("%w: %s: %w", ErrStorage, m.topicsDir, err)
	}
	return s, nil
}
