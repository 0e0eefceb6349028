//go:build clockstep

package clock

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStep: the wall clock moves with the file, the monotonic clock does not, and what is derived from a time keeps both.
func TestStep(t *testing.T) {
	name := filepath.Join(t.TempDir(), "offset")
	set := func(d time.Duration) {
		t.Helper()
		if err := os.WriteFile(name, binary.NativeEndian.AppendUint64(nil, uint64(d)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	was := offset
	offset = mapOffset(name)
	defer func() { offset = was }()
	for _, step := range []time.Duration{0, 6 * time.Hour, -6 * time.Hour, 300 * time.Millisecond, -40 * 365 * 24 * time.Hour, time.Nanosecond} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(step)), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		got := Real{}.Now()
		after := time.Now()
		if got.Before(before) || got.After(after) {
			t.Errorf("step %v: monotonic: %v after what was before, %v before what was after", step, got.Sub(before), after.Sub(got))
		}
		if wall := got.Round(0); wall.Before(before.Round(0).Add(step)) || wall.After(after.Round(0).Add(step)) {
			t.Errorf("step %v: the wall clock shows %v at %v", step, wall, before)
		}
		if later := got.Add(time.Second); later.Sub(got) != time.Second || later.Round(0).Sub(got.Round(0)) != time.Second {
			t.Errorf("step %v: a second later is %v later, by the wall clock %v", step, later.Sub(got), later.Round(0).Sub(got.Round(0)))
		}
		if d := Ticks(got) - Ticks(before); d < 0 || d > int64(after.Sub(before)) {
			t.Errorf("step %v: %d ticks", step, d)
		}
	}
}
