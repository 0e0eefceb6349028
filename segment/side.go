package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Side files are small files that the log's owner keeps in its directory, such as producer snapshots.

func (l *Log) sidePath(name string) (string, error) {
	bad := name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00")
	for _, own := range []string{logSuffix, offsetIndex.suffix(), timeIndex.suffix(), tmpSuffix, cleanedSuffix, swapSuffix} {
		bad = bad || strings.HasSuffix(name, own)
	}
	if bad {
		return "", fmt.Errorf("side file %q of %s: %w: name not allowed", name, l.dir, fs.ErrInvalid)
	}
	return path.Join(l.path, name), nil
}

// WriteSide replaces a side file atomically and durably. It blocks on I/O with deadlines; do not call it under a lock.
func (l *Log) WriteSide(name string, data []byte) error {
	file, err := l.sidePath(name)
	if err != nil {
		return err
	}
	if l.isClosed() {
		return fmt.Errorf("side file %q of %s: %w", name, l.dir, ErrClosed)
	}
	if err := l.s.ensureDir(l); err != nil {
		return fmt.Errorf("side file: %w", err)
	}
	if err := l.s.writeFile(file, data); err != nil {
		if isNoSpace(err) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		return fmt.Errorf("side file: %w", err)
	}
	return nil
}

// ReadSide returns a side file's content; fs.ErrNotExist if there is none.
func (l *Log) ReadSide(name string) ([]byte, error) {
	file, err := l.sidePath(name)
	if err != nil {
		return nil, err
	}
	return l.s.readFile(file)
}

// ListSide returns the names of the side files that end in suffix, sorted.
func (l *Log) ListSide(suffix string) ([]string, error) {
	l.mu.Lock()
	made := l.mu.dirMade
	l.mu.Unlock()
	if !made {
		return nil, nil
	}
	list, err := l.s.fs.List(l.path)
	if err != nil {
		return nil, fmt.Errorf("list side files: %w", err)
	}
	var out []string
	for _, e := range list {
		if _, err := l.sidePath(e.Name()); err == nil && strings.HasSuffix(e.Name(), suffix) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// RemoveSide deletes a side file, durably; a missing one is no error.
func (l *Log) RemoveSide(name string) error {
	file, err := l.sidePath(name)
	if err != nil {
		return err
	}
	err = l.s.fs.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = l.s.fs.SyncDir(l.path)
	}
	if err != nil {
		return fmt.Errorf("side file: %w", err)
	}
	return nil
}

func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.closed
}

// committedOffset is the offset below which everything is durable in the WAL.
func (l *Log) committedOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.tail.committedNext
}
