package raftmeta

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/clock"
)

func TestRepeatedMessagesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newRaftLogger(slog.New(slog.NewTextHandler(&out, nil)), clock.Real{})
		for range 100 {
			l.Error("failed to take snapshot", "peer", 2)
			l.Error("failed to heartbeat to", "peer", 2) // the transport says so
			l.Named("x").With("a", 1).Error("another")
		}
		time.Sleep(repeatAfter)
		l.Error("failed to take snapshot", "peer", 2)
		text := out.String()
		if n := strings.Count(text, "failed to take snapshot"); n != 2 || strings.Contains(text, "heartbeat") || strings.Count(text, "another") != 1 {
			t.Errorf("%d lines, want 2:\n%s", n, text)
		}
		if !strings.Contains(text, "repeated=99") {
			t.Errorf("what was left out is not counted:\n%s", text)
		}
	})
}
