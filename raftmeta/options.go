package raftmeta

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
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
	// Transport carries raft's messages. nil: a transport that reaches nobody, for a cluster of this one node.
	Transport raft.Transport
	Clock     clock.Clock
	Logger    *slog.Logger
	Metrics   *Metrics
	Ring      uring.Options
	// OnPoison is called once when the log cannot be written any more. It must not block, nor call Close.
	OnPoison func(error)

	StoreTimeout   time.Duration // a log write is durable within this, or the log is poisoned; 1 s
	ProposeTimeout time.Duration // bounds Propose; 5 s
	IOTimeout      time.Duration // every step of snapshot I/O; 2 s
	FileBytes      int64         // of a file of the log; 4 MiB
	FilesMax       int           // files of the log; 16
	SnapshotBytes  int64         // take a snapshot when the log holds so many bytes of its files; a quarter of all
	TrailingLogs   int           // entries kept behind a snapshot, as far as they fit SnapshotBytes/2; 1024
	ProposalsMax   int           // Proposes under way; 1024
}

const (
	entryBytesMax   = 1 << 20 // of one Propose
	groupBytesMax   = 1 << 20
	raftPatience    = 2 * time.Second // heartbeat and election timeouts
	raftLease       = 1 * time.Second
	raftBatch       = 64 // entries per group commit and per ApplyBatch
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
	if o.Transport == nil {
		// Reaches nobody: an in-memory transport without peers. A cluster injects the transport of its peer connections.
		_, o.Transport = raft.NewInmemTransport(raft.ServerAddress(serverID(o.NodeID)))
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
	case o.TrailingLogs < 1 || o.ProposalsMax < 1:
		return fmt.Errorf("open metadata: %d trailing entries and %d proposals, want at least 1", o.TrailingLogs, o.ProposalsMax)
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
	c.Logger = newRaftLogger(o.Logger)
	// One more than in steady: see Meta.hurry.
	c.HeartbeatTimeout = raftPatience + 1
	c.ElectionTimeout = raftPatience + 1
	c.LeaderLeaseTimeout = raftLease
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
