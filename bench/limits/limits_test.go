package limits

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	got, err := Measure(context.Background(), dir, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range got {
		if l.Value <= 0 || l.Unit == "" {
			t.Errorf("%s: %v %s", l.Name, l.Value, l.Unit)
		}
	}
	if len(got) != 9 {
		t.Errorf("%d limits, want 9: %+v", len(got), got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
