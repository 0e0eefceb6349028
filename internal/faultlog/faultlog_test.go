package faultlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"weir/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func capture() (*Log, func() []string) {
	var out bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&out, nil)), clock.Real{})
	return l, func() []string { return strings.Split(strings.TrimSpace(out.String()), "\n") }
}

func TestSaysHowMuchWasLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := capture()
		for range 5 {
			l.Warn("it failed", "here", "error", "why")
		}
		l.Warn("it failed", "there")
		l.At(slog.LevelInfo, "it works", "here")
		time.Sleep(Every)
		l.Warn("it failed", "here", "error", "again")
		time.Sleep(Every)
		l.Warn("it failed", "here")
		got := lines()
		if len(got) != 5 {
			t.Fatalf("%d lines: %q", len(got), got)
		}
		for i, want := range []string{"level=WARN msg=\"it failed\" error=why", "it failed", "level=INFO", "error=again suppressed=4", "it failed"} {
			if !strings.Contains(got[i], want) || strings.Contains(got[i], "suppressed") != strings.Contains(want, "suppressed") {
				t.Errorf("line %d: %s, want %s", i, got[i], want)
			}
		}
	})
}

// What is not logged anyway holds nothing back.
func TestLevelThatIsOff(t *testing.T) {
	l, lines := capture()
	l.At(slog.LevelDebug, "it failed", "here")
	l.Warn("it failed", "here")
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], "level=WARN") {
		t.Errorf("%q", got)
	}
}

func TestIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := capture()
		for i := range 10 * PlacesMax {
			l.Warn("it failed", fmt.Sprint(i))
		}
		if n := len(l.mu.said); n > PlacesMax+1 {
			t.Errorf("%d entries kept", n)
		}
		if n := len(lines()); n > PlacesMax+1 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(Every)
		l.Warn("it failed", "a new place")
		if n := len(l.mu.said); n > 2 {
			t.Errorf("%d entries kept after they were over", n)
		}
	})
}
