package segment

import (
	"errors"
	"sync"
	"time"

	"weir/internal/vfs"
)

const (
	// wholeSyncPause is how long the whole file system is not synced after that was late or failed.
	wholeSyncPause = time.Minute
	// writebackFiles is for how many files write-back is begun under one deadline.
	writebackFiles = 64
)

// wholeSync makes everything on the store's file system durable with one call (syncfs), for groups of many files.
//
// Why that is enough. First each file's own write-back is begun, in its name. That allocates the room for it, and an error in doing so is
// reported to us: a kernel thread, or the sync of everything, would drop the data and keep silent, and a later sync of the file would
// find nothing wrong. So such an error, or not hearing of one in time, is final for that log, as that of an fdatasync is. Then syncfs waits
// for all write-back, the journal and the device's cache, and reports every write that failed since the last call on the same
// descriptor, which was opened before any of the writes. It says that something failed, not what; so then the files are
// synced one by one, whose descriptors were open before the writes, too, and report their own errors exactly.
//
// It waits for what other programs have written to the file system as well. So its being late says nothing about the disk: after half
// the I/O timeout it is given up, the files are synced one by one, and for a while it is not tried again. A call that was given up keeps
// its slot until the kernel lets go.
type wholeSync struct {
	s      *Store
	syncer vfs.Syncer // nil: there is none
	syncs  *pool
	starts *pool

	mu struct {
		sync.Mutex
		resume time.Time
	}
}

func newWholeSync(s *Store) *wholeSync {
	w := &wholeSync{
		s: s, syncs: newPool(s.clock, s.opt.IOTimeout/2, 1),
		starts: newPool(s.clock, s.writeTimeout(), s.opt.Flushers),
	}
	var err error
	if w.syncer, err = vfs.OpenSyncer(s.fs, s.opt.Dir); err != nil {
		w.syncer = nil
		s.log.Debug("logs are synced one by one", "reason", err)
	}
	return w
}

// usable reports whether it is worth trying.
func (w *wholeSync) usable() bool {
	if w.syncer == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.s.clock.Now().Before(w.mu.resume)
}

// startWriteback begins the write-back of each member's file and notes the errors. false: the files cannot do that.
func (w *wholeSync) startWriteback(members []*member) bool {
	able := true
	for len(members) > 0 && able {
		part := members[:min(len(members), writebackFiles)]
		members = members[len(part):]
		files := make([]vfs.File, len(part))
		for i, m := range part {
			files[i] = m.h.file
		}
		errs, err := call(w.starts, "start the write-back of", files[0].Name(), func() ([]error, error) {
			errs := make([]error, len(files))
			for i, f := range files {
				errs[i] = vfs.StartWriteback(f)
			}
			return errs, nil
		}, nil)
		for i, m := range part {
			switch {
			case err != nil:
				m.err = err
			case errors.Is(errs[i], vfs.ErrNoSyncer):
				able = false
			default:
				m.err = errs[i]
			}
		}
	}
	return able
}

// sync reports whether everything that was given to the disk is durable. false: files must be synced one by one.
func (w *wholeSync) sync() bool {
	err := w.syncs.do("sync", w.s.opt.Dir, w.syncer.Sync)
	if err == nil {
		w.s.metrics.WholeSyncs.Inc()
		return true
	}
	w.s.metrics.WholeSyncFailures.Inc()
	w.s.log.Warn("file system not synced as a whole, logs are synced one by one", "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.resume = w.s.clock.Now().Add(wholeSyncPause)
	return false
}

func (w *wholeSync) close() error {
	if w.syncer == nil {
		return nil
	}
	return w.syncer.Close()
}
