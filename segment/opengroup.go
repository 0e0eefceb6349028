package segment

import "errors"

// gather collects the files of logs that are being opened together and that held good batches beyond their recovery point: those count
// as flushed from now on, so they have to be synced first, and thousands of files are synced in groups.
type gather struct {
	on    bool
	files []*member
}

// OpenTogether calls open, which opens logs, also from several goroutines. When it has returned they are as durable as if they had been
// opened one by one, at a fraction of the syncs; before, nothing may be flushed or appended.
func (s *Store) OpenTogether(open func() error) error {
	s.mu.Lock()
	s.mu.gather.on = true
	s.mu.Unlock()
	err := open()
	s.mu.Lock()
	rest := s.mu.gather.files
	s.mu.gather = gather{}
	s.mu.Unlock()
	return errors.Join(err, s.syncOpened(rest))
}

// syncRecovered makes what was found in h's file durable: now, or with others.
func (s *Store) syncRecovered(h *handle) error {
	one := []*member{{h: h, round: &round{}}}
	s.mu.Lock()
	if !s.mu.gather.on {
		s.mu.Unlock()
		s.handles.retain(h)
		return s.syncOpened(one)
	}
	s.handles.retain(h)
	full := append(s.mu.gather.files, one...)
	s.mu.gather.files = full
	if len(full) < max(min(groupLogs, s.opt.OpenFilesMax/4), 1) {
		s.mu.Unlock()
		return nil
	}
	s.mu.gather.files = nil
	s.mu.Unlock()
	return s.syncOpened(full)
}

func (s *Store) syncOpened(files []*member) (err error) {
	s.syncGroup(files)
	for _, m := range files {
		s.handles.release(m.h)
		if err == nil {
			err = m.err
		}
	}
	return err
}
