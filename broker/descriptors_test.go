package broker

import "testing"

func TestConnectionsMax(t *testing.T) {
	for _, c := range []struct{ configured, descriptors, want int }{
		{1<<31 - 1, 1024, 384},
		{100, 1024, 100},
		{1<<31 - 1, 0, 1<<31 - 1},
		{1<<31 - 1, 1, 1},
		{0, 1024, 0},
	} {
		if got := connectionsMax(c.configured, c.descriptors); got != c.want {
			t.Errorf("max.connections %d with %d descriptors: %d connections, want %d", c.configured, c.descriptors, got, c.want)
		}
	}
}
