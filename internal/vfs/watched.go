package vfs

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// Watch is an FS that knows how long the oldest change under way has taken. Changes are what a durable write is made of besides the data:
// creating a file, renaming, making a directory, syncing one. Looking, opening, closing and removing are not: nobody's
// acknowledgement waits for them, and removing a large file honestly takes its time.
type Watch struct {
	FS
	// OnChange, if set, is called when a change begins and when one has ended.
	OnChange func()
	// OnError, if set, is called with the error of every change that the disk failed (EIO), also of one whose caller has long
	// given up waiting (see Bounded, which belongs around a Watch).
	OnError func(err error)

	mu struct {
		sync.Mutex
		running []*running // oldest first
	}
}

type running struct{ since time.Time }

// OldestAge is the age of the oldest change under way, 0 if there is none.
func (w *Watch) OldestAge() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.running) == 0 {
		return 0
	}
	return max(time.Since(w.mu.running[0].since), 1)
}

func (w *Watch) do(op, name string, change func() error) error {
	r := &running{since: time.Now()}
	w.mu.Lock()
	w.mu.running = append(w.mu.running, r)
	w.mu.Unlock()
	w.changed()
	err := change()
	w.mu.Lock()
	for i := range w.mu.running {
		if w.mu.running[i] == r {
			w.mu.running = append(w.mu.running[:i], w.mu.running[i+1:]...)
			break
		}
	}
	w.mu.Unlock()
	w.changed()
	if w.OnError != nil && errors.Is(err, syscall.EIO) {
		w.OnError(fmt.Errorf("%s %s: %w", op, name, bare(err)))
	}
	return err
}

// bare strips the operation and name that an error repeats.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (w *Watch) changed() {
	if w.OnChange != nil {
		w.OnChange()
	}
}

// OpenFile is the FS's; with Create it counts as a change.
func (w *Watch) OpenFile(name string, flag Flag) (f File, err error) {
	if flag&Create == 0 {
		return w.FS.OpenFile(name, flag)
	}
	err = w.do("create", name, func() error {
		f, err = w.FS.OpenFile(name, flag)
		return err
	})
	return f, err
}

// Rename is the FS's, as a change.
func (w *Watch) Rename(oldName, newName string) error {
	return w.do("rename", oldName, func() error { return w.FS.Rename(oldName, newName) })
}

// MkdirAll is the FS's, as a change.
func (w *Watch) MkdirAll(name string) error {
	return w.do("mkdirall", name, func() error { return w.FS.MkdirAll(name) })
}

// SyncDir is the FS's, as a change.
func (w *Watch) SyncDir(dir string) error {
	return w.do("syncdir", dir, func() error { return w.FS.SyncDir(dir) })
}
