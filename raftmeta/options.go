package raftmeta

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/uring"
)

// Options configure Open. FS, Dir and NodeID must be set; zero means the default for all else.
type Options struct {
	FS     vfs.FS
	Dir    string // of the metadata alone, such as <data>/meta
	NodeID int32
	// ClusterID, if set, must be that of the directory, and is used on the first start; else that start invents one.
	ClusterID string
	// Sender carries raft's messages to the other nodes, whose HandleRPC answers them. nil: this node is alone.
	Sender   Sender
	PeerAddr string // own address for the others; with a Sender
	// Voters are those that a new cluster begins with, the same on all of them. Empty: this node alone. Without this node among
	// them it waits to be added. They are of no account once the directory knows a cluster.
	Voters []Voter
	// OnOffice is called when this node took office as the controller, with everything that was committed before applied, and
	// when it lost it. Calls are one after another, begin with leading and alternate. It must not block.
	OnOffice func(term uint64, leading bool)

	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics *Metrics
	Locks   *lockmeter.Meter // measures the locks; may be nil
	Ring    uring.Options
	Pace    *pace.Pace // of all background writes to the device; nil: one of its own
	// OnPoison is called once when the log cannot be written any more. It must not block, nor call Close.
	OnPoison func(error)
	// OnLogThread, if set, is called on the OS thread of the log's committer when that begins.
	OnLogThread func()
	Threads     Threads

	StoreTimeout   time.Duration // a log write is durable within this, or the log is poisoned; 1 s
	ProposeTimeout time.Duration // bounds Propose; 5 s
	IOTimeout      time.Duration // every step of snapshot I/O; 2 s
	FileBytes      int64         // of a file of the log; 4 MiB
	FilesMax       int           // files of the log; 16
	SnapshotBytes  int64         // take a snapshot when the log holds so many bytes of its files; a quarter of all
	TrailingLogs   int           // entries kept behind a snapshot, as far as they fit SnapshotBytes/2; 1024
	ProposalsMax   int           // Proposes under way; 1024

	// In a cluster: a follower that hears nothing for HeartbeatTimeout stands for election, an election without a winner is
	// repeated after ElectionTimeout (never less than that), a leader that reaches no majority for LeaseTimeout steps down. 1 s, 1 s, 500 ms.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	LeaseTimeout     time.Duration
}

const (
	entryBytesMax   = 1 << 20 // of one Propose
	groupBytesMax   = 1 << 20
	raftPatience    = 2 * time.Second // heartbeat and election timeouts of a node that is alone
	raftLease       = 1 * time.Second
	commitTimeout   = 250 * time.Millisecond // followers hear of a commit from a herald; this is for what gets lost
	raftBatch       = 64                     // entries per group commit and per ApplyBatch
	snapshotByRaft  = 365 * 24 * time.Hour
	closeTimeout    = 10 * time.Second
	logFilesMin     = 8
	logFileBytesMin = 2 << 20 // an entry of entryBytesMax must fit a file
)

func (o *Options) setDefaults() {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Pace == nil {
		o.Pace = pace.New(o.Clock, nil)
	}
	if o.OnPoison == nil {
		o.OnPoison = func(error) {}
	}
	setDefault(&o.StoreTimeout, time.Second)
	setDefault(&o.ProposeTimeout, 5*time.Second)
	setDefault(&o.IOTimeout, 2*time.Second)
	setDefault(&o.FileBytes, 4<<20)
	setDefault(&o.FilesMax, 16)
	setDefault(&o.SnapshotBytes, o.FileBytes*int64(o.FilesMax)/4)
	setDefault(&o.TrailingLogs, 1024)
	setDefault(&o.ProposalsMax, 1024)
	setDefault(&o.HeartbeatTimeout, time.Second)
	setDefault(&o.ElectionTimeout, o.HeartbeatTimeout)
	setDefault(&o.LeaseTimeout, min(500*time.Millisecond, o.HeartbeatTimeout/2))
	o.ElectionTimeout = max(o.ElectionTimeout, o.HeartbeatTimeout) // raft wants them in this order, Kafka's keys know none
	o.LeaseTimeout = min(o.LeaseTimeout, o.HeartbeatTimeout)
	if o.OnOffice == nil {
		o.OnOffice = func(uint64, bool) {}
	}
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) validate() error {
	switch {
	case o.FS == nil || o.Dir == "":
		return fmt.Errorf("open metadata: FS and Dir must be set")
	case o.NodeID < 0:
		return fmt.Errorf("open metadata: node id is %d, want >= 0", o.NodeID)
	case o.FilesMax < logFilesMin || o.FileBytes < logFileBytesMin:
		return fmt.Errorf("open metadata: %d log files of %d bytes, want at least %d of %d", o.FilesMax, o.FileBytes, logFilesMin, logFileBytesMin)
	case o.SnapshotBytes > o.refuseBytes():
		return fmt.Errorf("open metadata: snapshot at %d bytes of log, want at most %d", o.SnapshotBytes, o.refuseBytes())
	case o.Sender != nil && (o.PeerAddr == "" || len(o.PeerAddr) > peerAddrBytesMax):
		return fmt.Errorf("open metadata: peer address of %d bytes, want 1 to %d", len(o.PeerAddr), peerAddrBytesMax)
	case o.Sender == nil && slices.ContainsFunc(o.Voters, func(v Voter) bool { return v.ID != o.NodeID }):
		return fmt.Errorf("open metadata: voters %v without a way to reach them", o.Voters)
	case o.TrailingLogs < 1 || o.ProposalsMax < 1:
		return fmt.Errorf("open metadata: %d trailing entries and %d proposals, want at least 1", o.TrailingLogs, o.ProposalsMax)
	}
	return o.validateVoters()
}

// validateVoters refuses what raft would only fail on later.
func (o *Options) validateVoters() error {
	for i, v := range o.Voters {
		twice := slices.ContainsFunc(o.Voters[:i], func(w Voter) bool { return w.ID == v.ID || w.Addr == v.Addr })
		if v.ID < 0 || v.Addr == "" || len(v.Addr) > peerAddrBytesMax || twice {
			return fmt.Errorf("open metadata: voter %d at %q, want an id and an address that no other has", v.ID, v.Addr)
		}
	}
	return nil
}

// refuseBytes is how much of its files the log may hold before Propose refuses: the rest is for raft's own entries.
func (o *Options) refuseBytes() int64 { return o.FileBytes * int64(o.FilesMax) * 3 / 4 }

// flightBytes is how much may be under way: what Propose let in must still fit the log when it begins to refuse.
func (o *Options) flightBytes() int { return int(o.FileBytes * int64(o.FilesMax) / 8) }

// raftConfig has timers for few wake-ups. The library's own snapshot timer never fires: the store asks for snapshots.
func (o *Options) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = serverID(o.NodeID)
	c.Logger = newRaftLogger(o.Logger, o.Clock)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = raftPatience, raftPatience, raftLease
	if o.Sender != nil {
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = o.HeartbeatTimeout, o.ElectionTimeout, o.LeaseTimeout
		c.CommitTimeout = commitTimeout
	}
	// One more than in steady: see Meta.hurry.
	c.HeartbeatTimeout++
	c.ElectionTimeout++
	c.MaxAppendEntries = raftBatch
	c.SnapshotInterval = snapshotByRaft
	c.SnapshotThreshold = 1 << 62
	c.TrailingLogs = uint64(o.TrailingLogs)
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	return c
}

func serverID(node int32) raft.ServerID { return raft.ServerID(strconv.Itoa(int(node))) }

func nodeID(id raft.ServerID) int32 {
	n, err := strconv.ParseInt(string(id), 10, 32)
	if err != nil {
		return -1
	}
	return int32(n)
}
