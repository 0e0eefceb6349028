package vfs

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatch: changes age while they are under way, looking does not count, and the last word of the disk is heard even when nobody waits for it.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMem()
		gate := make(chan error)
		m.SetHook(func(op, name string, _ int64, _ int) error {
			if name == "/held" {
				return <-gate
			}
			return nil
		})
		changes := 0
		var said error
		w := &Watch{FS: m, OnChange: func() { changes++ }, OnError: func(err error) { said = err }}
		b := Bounded(w, time.Second, 4)
		if _, err := b.OpenFile("/f", Create); err != nil || changes != 2 || w.OldestAge() != 0 {
			t.Fatalf("create: %v, told %d times, age %s", err, changes, w.OldestAge())
		}
		for name, look := range map[string]func() error{
			"open": func() error { _, err := b.OpenFile("/f", 0); return err }, "list": func() error { _, err := b.List("/"); return err },
			"stat": func() error { _, err := b.Stat("/f"); return err }, "remove": func() error { return b.Remove("/f") },
		} {
			if err := look(); err != nil && name != "open" && name != "stat" || changes != 2 {
				t.Errorf("%s: %v; counted as a change", name, err)
			}
		}
		for name, change := range map[string]func() error{
			"create": func() error { _, err := b.OpenFile("/held", Create); return err }, "mkdirall": func() error { return b.MkdirAll("/held") },
			"syncdir": func() error { return b.SyncDir("/held") }, "rename": func() error { return b.Rename("/held", "/other") },
		} {
			var late *TimeoutError
			if err := change(); !errors.As(err, &late) {
				t.Errorf("%s: %v, want a timeout", name, err)
			}
			time.Sleep(time.Second)
			if age := w.OldestAge(); age != 2*time.Second {
				t.Errorf("%s: age %s, want 2 s", name, age)
			}
			said = nil
			gate <- syscall.EIO
			synctest.Wait()
			if !errors.Is(said, syscall.EIO) || w.OldestAge() != 0 {
				t.Errorf("%s: heard %v, age %s", name, said, w.OldestAge())
			}
		}
		said = nil
		go func() { gate <- syscall.ENOSPC }()
		if err := b.SyncDir("/held"); !errors.Is(err, syscall.ENOSPC) || said != nil {
			t.Errorf("a full disk: %v, heard %v", err, said)
		}
	})
}
