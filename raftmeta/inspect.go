package raftmeta

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
	"weir/internal/damage"
	"weir/internal/vfs"
	"weir/wal"
)

// What offline tools see of a metadata directory that no Meta has open. Nothing here has a deadline, and nothing is changed.

// LogEntry is one entry of the raft log, for people.
type LogEntry struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	LSN   uint64 `json:"lsn"`
	Type  string `json:"type"`
	What  string `json:"what"`
}

// Offline is what a metadata directory holds.
type Offline struct {
	Image    *Image // as of the newest good snapshot and the log; commands behind a missing entry are applied, too
	Node     int32
	Cluster  string
	Snapshot uint64 // index of the snapshot that was used, 0: none
	Entries  []LogEntry

	dir     string
	found   *replay
	meta    *raft.SnapshotMeta
	data    []byte
	useless []string // damaged snapshot files
	finding func(damage.Finding)
	lost    int // findings of severity Lost
	byHand  int
	torn    bool // the last thing in the log is damage
	unnamed bool // meta.properties is good and does not know the cluster yet
}

const doRepair = "see weir log repair --metadata"

// Inspect reads the metadata in dir. Damage is reported to finding; the error is one of reading.
func Inspect(fsys vfs.FS, dir string, finding func(damage.Finding)) (*Offline, error) {
	o := &Offline{dir: dir, finding: finding}
	if err := o.properties(fsys); err != nil {
		return nil, err
	}
	if err := o.snapshots(fsys); err != nil {
		return nil, err
	}
	if err := o.log(fsys); err != nil {
		return nil, err
	}
	o.join()
	o.build()
	o.identity()
	return o, nil
}

func (o *Offline) find(f damage.Finding) {
	if f.Severity == damage.Lost {
		o.lost++
	}
	if o.finding != nil {
		o.finding(f)
	}
}

func (o *Offline) properties(fsys vfs.FS) error {
	name := path.Join(o.dir, propertiesName)
	b, err := readWhole(fsys, name, propertiesBytesMax)
	var p properties
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // see identity
	case err == nil:
		p, err = parseProperties(string(b))
	}
	if err != nil {
		o.find(damage.Finding{Severity: damage.Lost, File: name, What: err.Error(), Do: "write it anew: version=1, node.id and cluster.id"})
		o.manual()
		return nil
	}
	o.Node, o.Cluster = p.nodeID, p.clusterID
	o.unnamed = p.clusterID == ""
	return nil
}

// snapshots finds the newest good one.
func (o *Offline) snapshots(fsys vfs.FS) error {
	dir := path.Join(o.dir, "snapshots")
	s := &snapshots{disk: &disk{fs: fsys}, dir: dir}
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		b, err := readWhole(fsys, s.file(id), snapshotBytesMax)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var meta *raft.SnapshotMeta
		var data []byte
		if err == nil {
			meta, data, err = decodeSnapshot(b)
		}
		if err == nil && meta.ID != id {
			err = fmt.Errorf("%w: holds %s", ErrCorrupt, meta.ID)
		}
		if err == nil {
			_, err = decodeImage(data)
		}
		if err == nil {
			if o.meta == nil {
				o.meta, o.data, o.Snapshot = meta, data, meta.Index
			}
			continue
		}
		f := damage.Finding{Severity: damage.Heals, File: s.file(id), What: err.Error(), Do: "nothing: a newer one is good"}
		if o.meta == nil {
			f.Severity, f.Do = damage.Lost, doRepair
			o.useless = append(o.useless, s.file(id))
		}
		o.find(f)
	}
	return nil
}

// log replays the wal as far as it can be read.
func (o *Offline) log(fsys vfs.FS) error {
	o.found = newReplay()
	dir := path.Join(o.dir, "wal")
	if _, err := fsys.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := wal.Salvage(fsys, dir, func(it wal.Item) error {
		switch it.Type {
		case wal.ItemEntry:
			o.torn = false
			if err := o.found.record(it); err != nil {
				o.find(damage.Finding{Severity: damage.Lost, File: it.File, Position: it.Offset, LSN: uint64(it.LSN), What: err.Error(), Do: doRepair})
			}
		case wal.ItemDamage:
			o.torn = true
			what := it.Note
			if seems := seemingRecord(it.Head, it.Body); seems != "" {
				what += "; it seems to have been " + seems
			}
			o.find(damage.Finding{Severity: damage.Lost, File: cmp.Or(it.File, dir), Position: it.Offset, Length: int64(it.Bytes), LSN: uint64(it.LSN), What: what, Do: doRepair})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("metadata log: %w", err)
	}
	return nil
}

// seemingRecord describes a damaged record, as far as its bytes still tell.
func seemingRecord(head, body []byte) string {
	if len(head) == 0 {
		return ""
	}
	switch head[0] {
	case recordLog:
		l, err := parseLog(head, body)
		if err != nil {
			return "a log entry"
		}
		return fmt.Sprintf("entry %d, %s", l.Index, describe(l))
	case recordStable:
		return "raft's term or vote"
	case recordDeletePrefix, recordDeleteSuffix:
		return "a shortening of the log"
	}
	return ""
}

// join says what is missing between snapshot and log, and inside the log.
func (o *Offline) join() {
	r := o.found
	if o.meta != nil {
		r.dropReplaced(o.meta)
	}
	next := o.Snapshot + 1
	if r.deleted > o.Snapshot {
		o.find(damage.Finding{Severity: damage.Lost, File: path.Join(o.dir, "snapshots"), What: fmt.Sprintf("the log was cut up to entry %d, the newest good snapshot ends at %d", r.deleted, o.Snapshot), Do: doRepair})
	}
	for _, l := range r.entries {
		if l.Index > next {
			o.find(damage.Finding{Severity: damage.Lost, File: path.Join(o.dir, "wal"), What: fmt.Sprintf("metadata entries %d to %d are missing", next, l.Index-1), Do: doRepair})
		}
		next = max(next, l.Index+1)
	}
	if o.Snapshot > 0 && r.stable[keyCurrentTerm] == nil && len(r.entries) == 0 && o.lost == 0 {
		o.find(damage.Finding{Severity: damage.Lost, File: path.Join(o.dir, "wal"), What: "there is a snapshot, and the log that it was made of is gone", Do: doRepair})
	}
}

// build applies what is left.
func (o *Offline) build() {
	f := newFSM(newPublisher(), clock.Real{}, NewMetrics(nil), func(error) {})
	if o.meta != nil {
		if img, err := decodeImage(o.data); err == nil {
			f.image = img
		}
	}
	for _, l := range o.found.entries {
		o.Entries = append(o.Entries, LogEntry{Index: l.Index, Term: l.Term, LSN: uint64(l.lsn), Type: l.Type.String(), What: describe(&l.Log)})
		if l.Index <= o.Snapshot {
			continue
		}
		f.broken = nil
		f.Apply(&l.Log)
		if f.broken != nil {
			o.find(damage.Finding{Severity: damage.Lost, File: path.Join(o.dir, "wal"), LSN: uint64(l.lsn), What: f.broken.Error(), Do: "this entry was written by a version that this one does not know, or by a fault"})
		}
	}
	o.Image = f.image
}

// identity compares the ids of meta.properties with the metadata's own.
func (o *Offline) identity() {
	want := o.Image.ClusterID
	if want == "" || want == o.Cluster || o.unnamed { // the last: the next start writes it
		return
	}
	what := "the file is missing"
	if o.Cluster != "" {
		what = fmt.Sprintf("cluster.id is %s, the metadata is of %s", o.Cluster, want)
	}
	o.find(damage.Finding{Severity: damage.Lost, File: path.Join(o.dir, propertiesName), What: what,
		Do: fmt.Sprintf("write it anew, three lines: version=%d, node.id=<this node's>, cluster.id=%s", propertiesVersion, want)})
	o.manual()
}

// manual says that what was found last is not for a repair of the log.
func (o *Offline) manual() {
	o.lost--
	o.byHand++
}

// ByHand counts the findings that nothing but an editor repairs.
func (o *Offline) ByHand() int { return o.byHand }

// describe is what an entry does, on one line.
func describe(l *raft.Log) string {
	switch l.Type {
	case raft.LogCommand:
		cmds, err := decodeEntry(l.Data)
		if err != nil {
			return "a command that cannot be decoded: " + err.Error()
		}
		var b strings.Builder
		for i, c := range cmds {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%s%+v", commandTypes[c.kind()].name, c)
		}
		return b.String()
	case raft.LogConfiguration:
		return "the voters"
	}
	return "nothing"
}

// readWhole returns a file's content.
func readWhole(fsys vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes, want at most %d", ErrCorrupt, size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return nil, err
	}
	return b, nil
}
