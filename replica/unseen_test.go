package replica

import "testing"

func TestUnseen(t *testing.T) {
	var u unseen
	for i := int64(1); i <= 5; i++ {
		u.add(10*i, i)
	}
	for _, tt := range []struct{ hw, want int64 }{{5, 0}, {10, 1}, {10, 0}, {39, 2 + 3}, {100, 4 + 5}, {200, 0}} {
		if got := u.take(tt.hw); got != tt.want {
			t.Errorf("up to %d: %d bytes, want %d", tt.hw, got, tt.want)
		}
	}
	// What a truncation has cut off never becomes visible.
	u.add(300, 1)
	u.add(400, 2)
	u.add(350, 4)
	if got := u.take(1000); got != 1+4 {
		t.Errorf("after a truncation: %d bytes", got)
	}
	// However far behind the others are, little is remembered, and all is counted in the end.
	for i := range int64(10 * unseenMax) {
		u.add(2000+i, 1)
	}
	if len(u.groups) > unseenMax {
		t.Errorf("%d groups are remembered", len(u.groups))
	}
	if got := u.take(2000 + 10*unseenMax); got != 10*unseenMax || len(u.groups) != 0 {
		t.Errorf("%d bytes, %d groups left", got, len(u.groups))
	}
	if n := testing.AllocsPerRun(100, func() { u.add(10_000, 1); u.take(10_000) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
