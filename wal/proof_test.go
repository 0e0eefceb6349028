package wal

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// idleLog is a log that went idle after some commits, then stopped as if killed.
func idleLog(t *testing.T, o Options, n int) (*imageFS, [][]byte) {
	t.Helper()
	var fs *imageFS
	var acked [][]byte
	synctest.Test(t, func(t *testing.T) {
		o.FS = newImage()
		r := newRig(t, o)
		r.start()
		for i := range n {
			r.commit(body(i, 500))
		}
		synctest.Wait()
		time.Sleep(2 * proofDelay)
		synctest.Wait()
		fs = o.FS.(*imageFS).clone()
		acked = r.mu.acked
		r.close()
	})
	return fs, acked
}

// TestLastGroupIsProvenWhenIdle: damage to the very last group is told from a torn write, by what an idle log has written.
func TestLastGroupIsProvenWhenIdle(t *testing.T) {
	fs, acked := idleLog(t, tinyOptions(), 3)
	got, end, err := recoverImage(fs.clone())
	if err != nil {
		t.Fatal(err)
	}
	sameBodies(t, "undamaged", got, acked)
	last := int(end) % int(tinyOptions().FileBytes)
	for at := last - blockBytes; at < last; at += 512 {
		damaged := fs.clone()
		damaged.bytes(slotName(0))[at] ^= 4
		got, _, err := recoverImage(damaged)
		var c *CorruptError
		if !errors.As(err, &c) || path.Base(c.File) != slotName(0) || c.Offset < int64(last-blockBytes) || c.Offset > int64(at) {
			t.Fatalf("a bit flipped at %d: %d entries, error %v, want a CorruptError there", at, len(got), err)
		}
	}
}

// TestNewestFileIsMissed: the newest file goes away, at every place in it where a log can stop.
func TestNewestFileIsMissed(t *testing.T) {
	o := tinyOptions()
	for n := 1; n < 60; n += 7 {
		t.Run(fmt.Sprintf("after %d commits", n), func(t *testing.T) {
			fs, _ := idleLog(t, o, n)
			newest, seq := "", uint64(0)
			for name, f := range fs.files {
				if h, err := parseHeader(f.data); err == nil && h.seq > seq {
					newest, seq = name, h.seq
				}
			}
			delete(fs.files, newest)
			if _, _, err := recoverImage(fs); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("without %s: %v, want ErrCorrupt", newest, err)
			}
		})
	}
}

// TestProofFileIsNoLoss: without the proof file, or with a damaged one, the log is what it was.
func TestProofFileIsNoLoss(t *testing.T) {
	fs, acked := idleLog(t, tinyOptions(), 5)
	for _, tc := range []struct {
		name   string
		damage func(*imageFS)
	}{
		{"gone", func(fs *imageFS) { delete(fs.files, "d/"+proofName) }},
		{"flipped", func(fs *imageFS) { fs.bytes(proofName)[17] ^= 1 }},
		{"cut", func(fs *imageFS) { fs.files["d/"+proofName].data = fs.bytes(proofName)[:20] }},
		{"empty", func(fs *imageFS) { fs.files["d/"+proofName].data = nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			damaged := fs.clone()
			tc.damage(damaged)
			got, _, err := recoverImage(damaged)
			if err != nil {
				t.Fatal(err)
			}
			sameBodies(t, tc.name, got, acked)
		})
	}
}

func TestParseProof(t *testing.T) {
	good := make([]byte, blockBytes)
	putProof(good, 1<<40)
	if got, err := parseProof(good); got != 1<<40 || err != nil {
		t.Fatalf("got %d, %v", got, err)
	}
	for at := range blockBytes {
		bad := make([]byte, blockBytes)
		copy(bad, good)
		bad[at] ^= 0x40
		if got, err := parseProof(bad); err == nil {
			t.Fatalf("byte %d changed: no error, LSN %d", at, got)
		}
	}
	if _, err := parseProof(good[:100]); err == nil || !strings.Contains(err.Error(), "100 bytes") {
		t.Errorf("100 bytes: %v", err)
	}
}

func FuzzProof(f *testing.F) {
	good := make([]byte, blockBytes)
	putProof(good, 12345)
	f.Add(good)
	f.Add(good[:10])
	f.Fuzz(func(t *testing.T, b []byte) {
		lsn, err := parseProof(b)
		if err != nil {
			return
		}
		again := make([]byte, blockBytes)
		putProof(again, lsn)
		if string(again) != string(b[:blockBytes]) {
			t.Errorf("LSN %d was read from other bytes than those that stand for it", lsn)
		}
	})
}
