package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// What is missing is damage like any other. The oldest segment file begins at the remembered log start or below, because a start is
// made durable before files go; and the checkpoint exists before the first log does.

var errNoCheckpoint = errors.New("the file is missing, and there are logs")

// checkFirst makes sure that the oldest file is the one that holds the log start.
func (l *Log) checkFirst(oldest *segment, logStart int64) error {
	if oldest.base <= logStart {
		return nil
	}
	missing := newSegment(l, logStart)
	return &CorruptError{File: missing.name, Offset: logStart, NextOffset: oldest.base,
		Err: fmt.Errorf("%w: the oldest file begins at offset %d, the log at %d", errMissing, oldest.base, logStart)}
}

// missingCheckpoint is what a checkpoint that is not there means: damage, if there are logs.
func (s *Store) missingCheckpoint(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for dir := range s.mu.dirs {
		if dir != "lost+found" && !strings.HasSuffix(dir, deletedSuffix) && !strings.HasSuffix(dir, damagedSuffix) {
			return &CorruptError{File: name, Err: errNoCheckpoint}
		}
	}
	return nil
}

// firstCheckpoint writes an empty checkpoint into a new data directory, durably: a later start can tell that one is missing.
func (s *Store) firstCheckpoint() error {
	name := CheckpointPath(s.opt.Dir)
	_, err := s.fs.Stat(name)
	if !errors.Is(err, fs.ErrNotExist) || s.missingCheckpoint(name) != nil {
		return ignoreNotExist(err)
	}
	return s.writeFile(name, encodeCheckpoint(nil))
}
