package main

import (
	"context"
	"errors"
	"syscall"

	"weir/broker"
	"weir/console"
	"weir/internal/config"
	"weir/internal/vfs"
	"weir/tuning"
	"weir/uring"
)

// startBroker is the startFunc of the real program.
func startBroker(ctx context.Context, o nodeOptions) (node, error) {
	unpinned := func(err error) { o.log.Warn("a thread runs on any core", "error", err) }
	r, err := broker.Start(ctx, broker.Options{
		Config: o.cfg, Logger: o.log, Registry: o.reg, OnBusy: o.busy, Version: versionText(),
		OnDataThread: tuning.Pin(o.cores.Data, unpinned), OnMetaThread: tuning.Pin(o.cores.Meta, unpinned),
		RaftThreads: broker.RaftThreads{
			Main: tuning.Pin(o.cores.Raft.Main, unpinned), Apply: tuning.Pin(o.cores.Raft.Apply, unpinned), Snapshots: tuning.Pin(o.cores.Raft.Snapshots, unpinned),
		},
	})
	if err != nil {
		return nil, diskError(err)
	}
	return brokerNode{r}, nil
}

// brokerNode shows a broker to the console.
type brokerNode struct{ *broker.Running }

// Health translates the broker's.
func (n brokerNode) Health() console.Health {
	h := n.Running.Health()
	out := console.Health{Ready: h.Ready, OldestIO: h.OldestIO, Disk: console.DiskOK, Reason: "stopping"}
	switch {
	case h.DiskError != "":
		out.Disk, out.Reason = console.DiskFailed, h.DiskError
	case h.Stalled != "":
		out.Disk, out.Reason = console.DiskStalled, h.Stalled
	case h.DiskFull:
		out.Disk, out.Reason = console.DiskFull, "the file system is nearly full, produce requests are refused (log.dir.full.percent)"
	}
	if h.Apart != "" && h.DiskError == "" && h.Stalled == "" {
		out.Reason = h.Apart
	}
	return out
}

// diskError gives errors that come from a stalled or failed disk the exit code that tells a supervisor to restart.
func diskError(err error) error {
	var timeout *vfs.TimeoutError
	if broker.StorageFailed(err) || errors.As(err, &timeout) || errors.Is(err, uring.ErrDeadline) || errors.Is(err, uring.ErrStalled) || errors.Is(err, syscall.EIO) {
		return &coded{code: exitDisk, err: err}
	}
	return err
}

// isDiskError reports whether the process ends with exitDisk because of err.
func isDiskError(err error) bool {
	var c *coded
	return errors.As(err, &c) && c.code == exitDisk
}

// engineInUse names the I/O engine that the configuration selects on this machine, and why.
func engineInUse(cfg *config.Broker) (name, why string) {
	if cfg.IOEngine != "auto" {
		return cfg.IOEngine, "configured with io.engine"
	}
	return uring.Probe()
}

// Topics translates the broker's.
func (n brokerNode) Topics() []console.Topic {
	infos := n.Running.Topics()
	topics := make([]console.Topic, len(infos))
	for i, t := range infos {
		topics[i] = console.Topic{Name: t.Name, Internal: t.Internal, Partitions: make([]console.Partition, len(t.Partitions))}
		for j, p := range t.Partitions {
			topics[i].Partitions[j] = console.Partition(p)
		}
	}
	return topics
}

// Cluster translates the broker's.
func (n brokerNode) Cluster() console.Cluster {
	info := n.Running.Cluster()
	out := console.Cluster{ID: info.ID, Controller: info.Controller, UnderReplicated: info.UnderReplicated, Offline: info.Offline}
	for _, node := range info.Nodes {
		out.Nodes = append(out.Nodes, console.ClusterNode(node))
	}
	return out
}
