package wal

import (
	"testing"

	"weir/internal/vfs"
)

// TestRecoveredEndIsKnownBeforeTheReplay: who opens logs before the replay has to know which of their LSNs this log can have. End does not say it yet.
func TestRecoveredEndIsKnownBeforeTheReplay(t *testing.T) {
	o := tinyOptions()
	o.FS, o.FilesMax = vfs.NewMem(), 16
	for life := range 4 {
		r := newRig(t, o)
		before := r.w.RecoveredEnd()
		r.start()
		if end := r.w.End(); life == 0 && before != 0 || life > 0 && before != end {
			t.Errorf("life %d: RecoveredEnd %d before the replay, End %d after it; 0 is for a log that is new", life, before, end)
		}
		if got := r.w.RecoveredEnd(); got != 0 {
			t.Errorf("life %d: RecoveredEnd %d of a log that runs, want 0", life, got)
		}
		for i := range 3 + 15*life { // a file takes 15: a life ends in its first file, or in a later one
			r.commit(body(i, 1000))
		}
		r.close()
	}
}
