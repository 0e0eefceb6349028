// Package logtool looks into, and repairs, a data directory that no broker uses. The formats are their owners' (wal, segment, raftmeta,
// replica); here is what they mean together: which records of which partition are in the segments, which only in the write-ahead
// log, and which are nowhere.
package logtool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"weir/internal/damage"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/replica"
	"weir/replica/machine"
	"weir/segment"
)

// Options say which directory, and who is told what.
type Options struct {
	FS       vfs.FS
	Dir      string                      // the broker's data directory
	Finding  func(damage.Finding)        // may be nil
	Progress func(what string, of int64) // may be nil; of is in bytes, 0 unknown
}

func (o *Options) topics() string { return path.Join(o.Dir, "topics") }
func (o *Options) wal() string    { return path.Join(o.Dir, "wal") }
func (o *Options) meta() string   { return path.Join(o.Dir, "meta") }

func (o *Options) progress(what string, of int64) {
	if o.Progress != nil {
		o.Progress(what, of)
	}
}

// Report is what Verify found.
type Report struct {
	Logs    int   `json:"logs"`
	Records int64 `json:"records"` // in segments
	Bytes   int64 `json:"bytes"`
	Entries int64 `json:"wal_entries"`
	Topics  int   `json:"topics"`

	Lost  int `json:"lost"`  // findings of acknowledged data that is damaged or missing
	Heals int `json:"heals"` // findings that the broker deals with by itself
	Notes int `json:"notes"`
}

// survey is everything that is known of a data directory.
type survey struct {
	o      *Options
	report Report

	meta   *raftmeta.Offline
	points map[string]segment.Checkpoint
	// noPoints: the checkpoint is damaged or missing.
	noPoints bool
	logs     map[string]*partition // by directory name
	byID     map[partitionID]*partition

	walDamaged bool
	places     int // damaged ones in the WAL so far
	unnamed    int // damaged places in the WAL that do not tell whose they were
}

type partitionID struct {
	topic     [16]byte
	partition int32
}

// partition is one log, as segments and WAL have it.
type partition struct {
	dir      string
	onDisk   bool
	known    bool // the metadata has it
	epochEnd int32
	orphan   bool // found in the WAL alone
	entries  []walRef
	cut      *segment.RepairCut // a truncation in the WAL that the files may not have followed yet; nil: none
	doubtful []damage.Range     // may be of a history that was given up: the WAL has lost a truncation's record
	unsure   bool               // the files may be of the log before it was begun anew, or after
	epochs   machine.Epochs     // of the batches in the files
	resets   []seenReset        // in the WAL, not followed by the files
	seeming  []damage.Range     // of damaged WAL entries that seem to have been this partition's
	state    *segment.LogState
	lost     int // findings in its segments
	losses   []damage.Range
}

// walRef is where a batch lies in the WAL.
type walRef struct {
	base, next int64
	epoch      int32
	place      int   // damaged places of the WAL before it
	inFiles    bool  // so says the checkpoint: of use only where they are damaged
	before     int64 // where the log ended before it, if there are no records between; else base
	file       string
	position   int64
	length     int
}

// Verify reads every byte of a data directory and reports what is wrong. It changes nothing.
func Verify(o Options) (*Report, error) {
	s, err := look(&o)
	if err != nil {
		return nil, err
	}
	return &s.report, nil
}

func look(o *Options) (*survey, error) {
	if _, err := o.FS.Stat(o.Dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	s := &survey{o: o, logs: map[string]*partition{}, byID: map[partitionID]*partition{}}
	for _, step := range []func() error{s.metadata, s.checkpoint, s.directories, s.writeAhead, s.segments, s.ends} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *survey) find(f damage.Finding) {
	switch f.Severity {
	case damage.Lost:
		s.report.Lost++
	case damage.Heals:
		s.report.Heals++
	default:
		s.report.Notes++
	}
	if s.o.Finding != nil {
		s.o.Finding(f)
	}
}

func (s *survey) metadata() (err error) {
	s.o.progress("metadata", 0)
	if _, err := s.o.FS.Stat(s.o.meta()); errors.Is(err, fs.ErrNotExist) {
		s.find(damage.Finding{Severity: damage.Lost, File: s.o.meta(), What: "the directory is missing", Do: "restore it, or is this another directory than you think?"})
		return nil
	}
	s.meta, err = raftmeta.Inspect(s.o.FS, s.o.meta(), s.find)
	if err != nil {
		return err
	}
	s.report.Topics = s.meta.Image.NumTopics()
	for t := range s.meta.Image.Topics() {
		for i := range t.Partitions {
			p := s.add(replica.DirName(t.Name, int32(i), t.ID), partitionID{t.ID, int32(i)})
			if p.known = true; s.meta.Lost() == 0 { // else a newer epoch may be one that the metadata has lost
				p.epochEnd = t.Partitions[i].LeaderEpoch + 1
			}
		}
	}
	return nil
}

func (s *survey) add(dir string, id partitionID) *partition {
	if p := s.byID[id]; p != nil {
		return p
	}
	p := &partition{dir: dir}
	s.logs[dir], s.byID[id] = p, p
	return p
}

func (s *survey) checkpoint() error {
	points, err := segment.InspectCheckpoint(s.o.FS, s.o.topics())
	switch {
	case err == nil:
		s.points = points
		return nil
	case errors.Is(err, segment.ErrCorrupt):
		s.find(damage.Finding{Severity: damage.Lost, File: segment.CheckpointPath(s.o.topics()), What: err.Error(),
			Do: "weir log repair --new-checkpoint makes it from the segments; records that were deleted with DeleteRecords may come back"})
	case errors.Is(err, fs.ErrNotExist):
	default:
		return err
	}
	s.points, s.noPoints = map[string]segment.Checkpoint{}, true
	return nil
}

func (s *survey) directories() error {
	list, err := s.o.FS.List(s.o.topics())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		topic, index, id, ok := replica.ParseDirName(e.Name())
		if !e.IsDir() || !ok {
			continue
		}
		p := s.add(replica.DirName(topic, index, id), partitionID{id, index})
		p.onDisk = true
		if !p.known && s.meta != nil {
			s.find(damage.Finding{Severity: damage.Note, File: path.Join(s.o.topics(), e.Name()), What: "the metadata has no such topic", Do: "the broker deletes it at its next start"})
		}
	}
	if _, err := s.o.FS.Stat(segment.CheckpointPath(s.o.topics())); errors.Is(err, fs.ErrNotExist) && slices.ContainsFunc(s.all(), func(p *partition) bool { return p.onDisk }) {
		s.find(damage.Finding{Severity: damage.Lost, File: segment.CheckpointPath(s.o.topics()), What: "the file is missing, and there are logs",
			Do: "weir log repair --new-checkpoint makes it from the segments; records that were deleted with DeleteRecords may come back"})
	}
	return nil
}

// all returns the partitions by name.
func (s *survey) all() []*partition {
	out := make([]*partition, 0, len(s.logs))
	for _, p := range s.logs {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *partition) int { return cmp.Compare(a.dir, b.dir) })
	return out
}

// segments reads all logs.
func (s *survey) segments() error {
	for _, p := range s.all() {
		s.report.Logs++
		point, had := s.points[p.dir]
		if !p.onDisk {
			if point.RecoveryPoint > point.LogStart && p.known {
				p.losses = append(p.losses, damage.Range{From: point.LogStart, To: point.RecoveryPoint})
				s.find(damage.Finding{Severity: damage.Lost, File: path.Join(s.o.topics(), p.dir), Log: p.dir, Offsets: p.losses[0], What: "the directory is missing, but records were flushed", Do: doDrop})
			}
			continue
		}
		if !had && len(p.entries) > 0 && p.cut == nil { // so none is inFiles
			point.RecoveryPoint = p.entries[0].before // below, the WAL was released
		}
		if err := s.log(p, point, !had && s.noPoints); err != nil {
			return err
		}
	}
	return nil
}

const doDrop = "weir log repair --drop-damaged leaves a gap there, as compaction does"

func (s *survey) log(p *partition, point segment.Checkpoint, anyStart bool) error {
	dir := path.Join(s.o.topics(), p.dir)
	s.o.progress(p.dir, 0)
	sealed, err := sealedSegments(s.o.FS, dir)
	if err != nil {
		return err
	}
	if anyStart {
		point.LogStart = segment.FirstOffset(s.o.FS, dir)
		s.points[p.dir] = point
	}
	o := segment.InspectOptions{Checkpoint: point, EpochEnd: p.epochEnd}
	o.OnStretch = func(_ string, st segment.Stretch) error {
		if st.Batch != nil {
			p.epochs.Assign(st.Batch.LeaderEpoch(), st.From)
		}
		return nil
	}
	o.Finding = func(f damage.Finding) {
		isSealed, exists := sealed[f.File]
		switch {
		case f.Severity != damage.Lost:
		case p.cutAway(f.Offsets) && (isSealed || !exists && point.Resetting != 0):
			f.Severity, f.Do = damage.Heals, "nothing: the write-ahead log says that this was truncated, and has what came in its place"
		case p.cutAway(f.Offsets):
			p.lost++
			f.Do = doDrop + "; then the write-ahead log, which says that this was truncated, has what came in its place"
		default:
			p.lost++
			f.Do = doDrop
		}
		s.find(f)
	}
	state, err := segment.InspectLog(s.o.FS, dir, o)
	if err != nil {
		return err
	}
	p.state = state
	s.sayUnsure(p)
	for _, g := range state.Segments {
		s.report.Records += g.Records
		s.report.Bytes += g.Bytes
	}
	for _, name := range state.Side {
		if !strings.HasSuffix(name, replica.SnapshotSuffix) {
			continue
		}
		file := path.Join(dir, name)
		data, err := segment.ReadSmall(s.o.FS, file)
		if err == nil {
			_, _, err = replica.InspectSnapshot(data)
		}
		if err != nil {
			s.find(damage.Finding{Severity: damage.Heals, File: file, Log: p.dir, What: err.Error(), Do: "nothing: the producers' state is read from the log"})
		}
	}
	return nil
}

// sealedSegments are the segment files in dir, and whether there is a newer one: a start does not look into those.
func sealedSegments(fsys vfs.FS, dir string) (map[string]bool, error) {
	list, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	files, newest := map[string]bool{}, ""
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".log") {
			newest = max(newest, path.Join(dir, e.Name())) // names have a fixed width
			files[path.Join(dir, e.Name())] = true
		}
	}
	if newest != "" {
		files[newest] = false
	}
	return files, nil
}

// cutAway reports whether offsets lie behind a truncation that is to be replayed.
func (p *partition) cutAway(r damage.Range) bool {
	return p.cut != nil && (p.cut.Reset || r.To > r.From && r.From >= p.cut.Offset)
}

// ends compares, where the WAL is damaged, what it still has with where the logs end.
func (s *survey) ends() error {
	for _, p := range s.all() {
		s.lostCuts(p)
		next := s.points[p.dir].LogStart
		if p.state != nil {
			next = max(next, p.state.End, s.points[p.dir].RecoveryPoint)
		}
		if c := p.cut; c != nil && c.Reset {
			next = c.Offset
		} else if c != nil {
			next = min(next, c.Offset)
		}
		for _, e := range p.entries {
			if e.next <= next || e.inFiles {
				continue
			}
			if e.before > next {
				s.gap(p, next, e)
			}
			next = e.next
		}
		for _, r := range p.seeming {
			if r.From == next { // at the end, where nothing follows
				p.losses = append(p.losses, r)
				next = r.To
			}
		}
	}
	return nil
}

func (s *survey) gap(p *partition, next int64, e walRef) {
	r := damage.Range{From: next, To: e.before}
	p.losses = append(p.losses, r)
	s.find(damage.Finding{Severity: damage.Lost, File: e.file, Position: e.position, Log: p.dir, Offsets: r, What: fmt.Sprintf("the next batch of this partition in the write-ahead log begins at offset %d", e.base), Do: doWAL})
}
