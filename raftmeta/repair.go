package raftmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
	"weir/uring"
	"weir/wal"
)

// RepairOptions say how metadata is repaired.
type RepairOptions struct {
	DryRun bool
	// Topics are those whose data is on disk. One that the metadata has lost is created again, with its id: a broker deletes the
	// data of topics that it does not know.
	Topics []CreateTopic
	// SetAside renames a file or directory to a name that is free.
	SetAside func(name string) error
}

// RepairResult is what a repair of the metadata did.
type RepairResult struct {
	Lost    []string
	Changed []string
}

// Repair makes the metadata in dir, which no Meta has open, one that starts: damaged snapshots are set aside, and the log is
// written anew with all entries that can be read. An entry that cannot is replaced by one that does nothing. It is for a
// cluster of one node; a node of several is emptied and gets everything from the others.
func Repair(fsys vfs.FS, dir string, o RepairOptions) (*RepairResult, error) {
	off, err := Inspect(fsys, dir, nil)
	if err != nil {
		return nil, err
	}
	res := &RepairResult{}
	if off.lost == 0 {
		return res, nil
	}
	logs, missing := off.found.whole(off.Snapshot)
	for len(missing) > 0 {
		n := 1
		for n < len(missing) && missing[n] == missing[0]+uint64(n) {
			n++
		}
		res.Lost = append(res.Lost, fmt.Sprintf("metadata entries %d to %d", missing[0], missing[n-1]))
		missing = missing[n:]
	}
	if off.torn {
		res.Lost = append(res.Lost, "what the damaged places of the metadata log held behind its last good entry, if anything")
	}
	logs = off.regain(logs, o.Topics, res)
	res.Changed = append(res.Changed, fmt.Sprintf("metadata log written anew with %d entries", len(logs)))
	for _, name := range off.useless {
		res.Changed = append(res.Changed, "damaged snapshot set aside: "+name)
	}
	if o.DryRun {
		return res, nil
	}
	fresh := path.Join(dir, "wal.new")
	if err := fsys.RemoveAll(fresh); err != nil {
		return nil, err
	}
	if err := off.write(fsys, fresh, logs); err != nil {
		return nil, fmt.Errorf("write the metadata log anew: %w", err)
	}
	for _, name := range off.useless {
		if err := o.SetAside(name); err != nil {
			return nil, err
		}
	}
	old := path.Join(dir, "wal")
	if _, err := fsys.Stat(old); err == nil {
		if err := o.SetAside(old); err != nil {
			return nil, err
		}
	}
	if err := fsys.Rename(fresh, old); err != nil {
		return nil, err
	}
	return res, fsys.SyncDir(dir)
}

// regain adds what makes the metadata fit the data again: voters, topics that are on disk, and producer ids that cannot have been given out.
func (off *Offline) regain(logs []*raft.Log, topics []CreateTopic, res *RepairResult) []*raft.Log {
	term := max(off.found.term, 1)
	next := off.Snapshot + 1
	if off.meta != nil {
		term = max(term, off.meta.Term)
	}
	if n := len(logs); n > 0 {
		next = logs[n-1].Index + 1
	}
	voters := off.meta != nil || slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
	if !voters {
		self := raft.Server{Suffrage: raft.Voter, ID: serverID(off.Node), Address: raft.ServerAddress(serverID(off.Node))}
		logs = append(logs, &raft.Log{Index: next, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}})})
		next++
		res.Lost = append(res.Lost, "the voters: this node alone is made one")
	}
	var cmds []Command
	for _, t := range topics {
		known := off.Image.TopicByID(t.ID)
		switch {
		case known == nil && off.Image.Topic(t.Name) == nil:
			res.Lost = append(res.Lost, fmt.Sprintf("the configuration of topic %s, which is created again for the data on disk", t.Name))
			cmds = append(cmds, t)
		case known != nil && len(known.Partitions) < len(t.Assignment):
			res.Lost = append(res.Lost, fmt.Sprintf("the change that gave topic %s %d partitions", t.Name, len(t.Assignment)))
			cmds = append(cmds, AddPartitions{Topic: t.Name, Total: int32(len(t.Assignment)), Assignment: t.Assignment[len(known.Partitions):]})
		}
	}
	for range producerBlocksSkipped {
		cmds = append(cmds, AllocateProducerIDs{Broker: off.Node, Count: producerIDsMax})
	}
	if off.Cluster != "" && off.Image.ClusterID == "" {
		cmds = append(cmds, SetClusterID{ID: off.Cluster})
	}
	return append(logs, &raft.Log{Index: next, Term: term, Type: raft.LogCommand, Data: encodeEntry(cmds)})
}

// producerBlocksSkipped times the largest block of producer ids is more than lost entries can have given out.
const producerBlocksSkipped = 8

// write makes a log of these entries in an empty directory.
func (off *Offline) write(fsys vfs.FS, dir string, logs []*raft.Log) error {
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	opt := Options{FS: fsys, Dir: off.dir, NodeID: off.Node}
	opt.setDefaults()
	w, err := wal.Open(wal.Options{FS: fsys, Dir: dir, FileBytes: opt.FileBytes, FilesMax: opt.FilesMax, OnCommit: committed,
		Ring: uring.Options{Backend: uring.BackendPortable}, GroupBytesMax: groupBytesMax})
	if err != nil {
		return err
	}
	if err := w.Start(); err != nil {
		return errors.Join(err, w.Close())
	}
	var entries []*wal.Entry
	term := binary.BigEndian.AppendUint64(nil, logs[len(logs)-1].Term)
	for key, val := range off.found.stable {
		if key != keyCurrentTerm {
			entries = append(entries, stableRecord(key, val))
		}
	}
	entries = append(entries, stableRecord(keyCurrentTerm, term))
	if first := logs[0].Index; first > 1 {
		entries = append(entries, deleteRecord(recordDeletePrefix, first-1))
	}
	for _, l := range logs {
		entries = append(entries, logRecord(l))
	}
	b := &batch{left: len(entries), ended: make(chan struct{})}
	for _, e := range entries {
		e.Owner = b
		if err := w.Append(e); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	<-b.ended
	return errors.Join(b.err, w.Close())
}

// Lost counts the findings that keep a broker from starting.
func (off *Offline) Lost() int { return off.lost }
