package wal

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"weir/uring"
)

// A log whose writes have no deadline to speak of must be closed in time all the same: the disk may never answer.
func TestCloseGivesUpOnAStalledDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newImage()
		o := tinyOptions()
		o.FS, o.PipelineBytes, o.WriteTimeout, o.CloseTimeout = fs, 1, 1000*time.Hour, 2*time.Second
		r := newRig(t, o)
		r.start()
		r.commit(body(0, 100))
		letGo := make(chan struct{})
		fs.setHook(func(op, name string, _ int64, _ int) error {
			if isCommit(op, name) {
				<-letGo
			}
			return nil
		})
		for i := range 20 {
			r.append(body(i, 3000))
		}
		time.Sleep(time.Hour) // nobody gives up on them before
		r.mu.Lock()
		if n := len(r.mu.failed); n != 0 {
			t.Errorf("%d entries failed although their writes have time", n)
		}
		r.mu.Unlock()
		began := time.Now()
		err := r.w.Close()
		if took := time.Since(began); took > 2*time.Second+2*threadTimeout {
			t.Errorf("Close took %s", took)
		}
		if !errors.Is(err, uring.ErrDeadline) {
			t.Errorf("Close: %v, want %v", err, uring.ErrDeadline)
		}
		r.mu.Lock()
		if len(r.mu.failed) != 20 || len(r.mu.acked) != 1 {
			t.Errorf("%d entries failed and %d acknowledged, want 20 and 1", len(r.mu.failed), len(r.mu.acked))
		}
		r.mu.Unlock()
		close(letGo)
	})
}

// Close has all the time it needs while the disk makes progress, however slow.
func TestCloseWaitsForASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newImage()
		o := tinyOptions()
		o.FS, o.Depth, o.PipelineBytes, o.GroupBytesMax, o.WriteTimeout, o.CloseTimeout = fs, 1, 1, 8<<10, 1000*time.Hour, 2*time.Second
		r := newRig(t, o)
		r.start()
		fs.setHook(func(op, name string, _ int64, _ int) error {
			if isCommit(op, name) {
				time.Sleep(1900 * time.Millisecond)
			}
			return nil
		})
		for i := range 10 {
			r.append(body(i, 3000))
		}
		r.close()
		if len(r.mu.acked) != 10 || len(r.mu.failed) != 0 {
			t.Errorf("%d entries acknowledged, %d failed, want 10 and none", len(r.mu.acked), len(r.mu.failed))
		}
	})
}

// A stall that a write's deadline allows for fails nobody, and the log goes on in order behind it: writes are held back
// meanwhile, not refused.
func TestStallOnlyDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newImage()
		o := tinyOptions()
		o.FS, o.PipelineBytes, o.GroupBytesMax, o.WriteTimeout, o.Depth = fs, 1, 8<<10, 1000*time.Hour, 4
		o.Ring.StallAfter = 250 * time.Millisecond
		r := newRig(t, o)
		r.start()
		r.commit(body(0, 100))
		letGo := make(chan struct{})
		begun := 0
		fs.setHook(func(op, name string, _ int64, _ int) error {
			if isCommit(op, name) {
				begun++
				<-letGo
			}
			return nil
		})
		r.append(body(1, 3000))
		time.Sleep(300 * time.Millisecond)
		for i := 2; i < 20; i++ {
			r.append(body(i, 3000))
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if begun != 1 {
			t.Errorf("%d writes went to the disk, want only the one that stalled", begun)
		}
		close(letGo)
		synctest.Wait()
		r.close()
		if len(r.mu.acked) != 20 || len(r.mu.failed) != 0 {
			t.Errorf("%d entries acknowledged, %d failed, want 20 and none", len(r.mu.acked), len(r.mu.failed))
		}
	})
}
