package raftmeta

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
)

func TestOptionsOfACluster(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Options)
		good   bool
	}{
		{"as it should be", func(*Options) {}, true},
		{"not on the list", func(o *Options) { o.NodeID = 9 }, true},
		{"no list", func(o *Options) { o.Voters = nil }, true},
		{"no address", func(o *Options) { o.PeerAddr = "" }, false},
		{"no way to the others", func(o *Options) { o.Sender = nil }, false},
		{"an id twice", func(o *Options) { o.Voters = append(o.Voters, Voter{1, "x:1"}) }, false},
		{"an address twice", func(o *Options) { o.Voters = append(o.Voters, Voter{7, addrOf(1)}) }, false},
		{"a voter without an address", func(o *Options) { o.Voters = append(o.Voters, Voter{ID: 7}) }, false},
		{"a negative id", func(o *Options) { o.Voters = append(o.Voters, Voter{-7, "x:1"}) }, false},
	}
	for _, tt := range tests {
		o := Options{FS: vfs.NewMem(), Dir: "/d", NodeID: 1, Sender: line{}, PeerAddr: addrOf(1), Voters: []Voter{{1, addrOf(1)}, {2, addrOf(2)}}}
		tt.change(&o)
		o.setDefaults()
		if err := o.validate(); (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestTimeoutsThatRaftTakes: whatever order the keys of the configuration are in.
func TestTimeoutsThatRaftTakes(t *testing.T) {
	for _, c := range [][3]time.Duration{{0, 0, 0}, {time.Second, 300 * time.Millisecond, 0}, {100 * time.Millisecond, 0, 0}, {200 * time.Millisecond, time.Second, time.Second}} {
		o := Options{Sender: line{}, HeartbeatTimeout: c[0], ElectionTimeout: c[1], LeaseTimeout: c[2]}
		o.setDefaults()
		if err := raft.ValidateConfig(o.raftConfig()); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
}
