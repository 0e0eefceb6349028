package segment

import (
	"fmt"
	"path"
)

// WriteFile replaces a file that the store's owner keeps beside the logs' directories, atomically and durably. It blocks on I/O with deadlines.
func (s *Store) WriteFile(name string, data []byte) error {
	if err := s.writeFile(path.Join(s.opt.Dir, name), data); err != nil {
		return fmt.Errorf("file %q beside the logs: %w", name, err)
	}
	return nil
}

// ReadFile returns the content of a file that WriteFile wrote; fs.ErrNotExist if there is none.
func (s *Store) ReadFile(name string) ([]byte, error) { return s.readFile(path.Join(s.opt.Dir, name)) }
