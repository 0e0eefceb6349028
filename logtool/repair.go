package logtool

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/replica"
	"weir/segment"
)

// RepairOptions say what a repair may give up. Each lossy action has its own flag; without it the repair says that it is needed.
type RepairOptions struct {
	Options
	DropDamaged   bool // leave gaps where records in segments are damaged
	SkipWAL       bool // pass over damaged groups of the write-ahead log; the rest goes into the segments, the log is set aside
	Metadata      bool // write the metadata anew without entries that cannot be read
	NewCheckpoint bool // make the recovery points from the segments
	DryRun        bool
}

// RepairReport is what a repair did, or would do.
type RepairReport struct {
	Lost     []damage.Loss `json:"lost"`
	Restored []damage.Loss `json:"restored"` // damaged, and put back from the write-ahead log
	Doubtful []damage.Loss `json:"doubtful"` // may be of a history that was given up; only another replica can tell
	Metadata []string      `json:"metadata_lost"`
	Unnamed  int           `json:"unnamed"` // damaged places in the write-ahead log that do not tell whose records they held
	Changed  []string      `json:"changed"`
	Kept     []string      `json:"kept"`  // where damaged bytes are kept
	Needs    []string      `json:"needs"` // flags without which damage stays
	Before   *Report       `json:"before"`
}

// Repair makes a data directory one that a broker starts with. With DryRun it only says what it would do.
func Repair(o RepairOptions) (*RepairReport, error) {
	s, err := look(&o.Options)
	if err != nil {
		return nil, err
	}
	return s.repair(o)
}

func (s *survey) repair(o RepairOptions) (*RepairReport, error) {
	r := &repairer{survey: s, o: o, rep: &RepairReport{Before: &s.report, Unnamed: s.unnamed}}
	r.decide()
	if err := r.metadata(); err != nil {
		return nil, err
	}
	if err := r.logs(); err != nil {
		return nil, err
	}
	if err := r.setWALAside(); err != nil {
		return nil, err
	}
	return r.rep, nil
}

type repairer struct {
	*survey
	o   RepairOptions
	rep *RepairReport

	drop, skip, points bool // what is done: needed and allowed
}

// decide compares what is needed with what is allowed.
func (r *repairer) decide() {
	need := func(needed, allowed bool, flag string) bool {
		if needed && !allowed {
			r.rep.Needs = append(r.rep.Needs, flag)
		}
		return needed && allowed
	}
	dropping := slices.ContainsFunc(r.all(), func(p *partition) bool { return p.lost > 0 || !p.onDisk && len(p.losses) > 0 })
	gaps := slices.ContainsFunc(r.all(), func(p *partition) bool { return len(p.losses) > 0 && p.onDisk })
	r.drop = need(dropping, r.o.DropDamaged, "--drop-damaged")
	r.skip = need(r.walDamaged || gaps, r.o.SkipWAL, "--skip-wal")
	r.points = need(r.noPoints && r.report.Lost > 0, r.o.NewCheckpoint, "--new-checkpoint")
}

func (r *repairer) setAside(name string) error {
	return segment.SetAside(r.o.FS, name, func(_, as string) { r.rep.Kept = append(r.rep.Kept, as) })
}

func (r *repairer) metadata() error {
	if r.meta == nil {
		return nil
	}
	if r.meta.ByHand() > 0 {
		r.rep.Needs = append(r.rep.Needs, "meta/meta.properties to be written by hand, see weir log verify")
	}
	if r.meta.Lost() == 0 {
		return nil
	}
	if !r.o.Metadata {
		r.rep.Needs = append(r.rep.Needs, "--metadata")
		return nil
	}
	res, err := raftmeta.Repair(r.o.FS, r.survey.o.meta(), raftmeta.RepairOptions{DryRun: r.o.DryRun, Topics: r.topicsOnDisk(), SetAside: r.setAside})
	if err != nil {
		return err
	}
	r.rep.Metadata = append(r.rep.Metadata, res.Lost...)
	r.rep.Changed = append(r.rep.Changed, res.Changed...)
	return nil
}

// topicsOnDisk are the topics whose directories are there, as one would create them.
func (r *repairer) topicsOnDisk() []raftmeta.CreateTopic {
	byID := map[[16]byte]*raftmeta.CreateTopic{}
	for _, p := range r.all() {
		topic, index, id, _ := replica.ParseDirName(p.dir)
		if !p.onDisk && !p.orphan {
			continue
		}
		t := byID[id]
		if t == nil {
			t = &raftmeta.CreateTopic{Name: topic, ID: id, Internal: strings.HasPrefix(topic, "__")}
			byID[id] = t
		}
		for int32(len(t.Assignment)) <= index {
			t.Assignment = append(t.Assignment, []int32{r.meta.Node})
		}
	}
	var out []raftmeta.CreateTopic
	for _, t := range byID {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b raftmeta.CreateTopic) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// logs repairs the segments, with what the WAL has, and writes the checkpoint.
func (r *repairer) logs() error {
	changed := r.points
	for _, p := range r.all() {
		if !r.wants(p) {
			continue
		}
		batches, followed, err := r.load(p)
		if err != nil {
			return err
		}
		res, err := segment.RepairLog(r.o.FS, path.Join(r.survey.o.topics(), p.dir), segment.RepairOptions{
			Checkpoint: r.survey.points[p.dir], EpochEnd: p.epochEnd, Batches: batches, Followed: followed, Append: r.skip, Cut: p.cut, Gaps: p.gaps(), DryRun: r.o.DryRun,
			Aside: func(_, as string) { r.rep.Kept = append(r.rep.Kept, as) },
		})
		if err != nil {
			return err
		}
		why := "damaged or missing in the segments"
		if p.lost == 0 {
			why = "damaged in the write-ahead log"
		}
		r.lost(p, why, res.Lost)
		for _, x := range res.Restored {
			r.rep.Restored = append(r.rep.Restored, damage.Loss{Log: p.dir, Offsets: x, Why: "put back from the write-ahead log"})
			if r.maybeCut(p, x) {
				r.doubt(p, x)
			}
		}
		if r.skip {
			r.lostEnd(p, res.State.RecoveryPoint)
			for _, x := range p.doubtful {
				r.doubt(p, x)
			}
		}
		r.rep.Changed = append(r.rep.Changed, res.Changed...)
		changed = changed || res.State != r.survey.points[p.dir]
		r.survey.points[p.dir] = res.State
	}
	if r.skip { // the LSNs of the WAL begin anew
		for dir, c := range r.survey.points {
			changed, c.Cut = changed || c.Cut != 0, 0
			r.survey.points[dir] = c
		}
	}
	if !changed {
		return nil
	}
	r.rep.Changed = append(r.rep.Changed, "recovery points written")
	if r.o.DryRun {
		return nil
	}
	return segment.WriteCheckpoint(r.o.FS, r.survey.o.topics(), r.survey.points, func(_, as string) { r.rep.Kept = append(r.rep.Kept, as) })
}

func (r *repairer) wants(p *partition) bool {
	return r.drop && (p.lost > 0 || !p.onDisk && len(p.losses) > 0) || r.skip && (p.known || p.onDisk || p.orphan) && (p.onDisk || len(p.entries) > 0)
}

func (r *repairer) lost(p *partition, why string, ranges []damage.Range) {
	for _, x := range ranges {
		r.rep.Lost = append(r.rep.Lost, damage.Loss{Log: p.dir, Offsets: x, Why: why})
	}
}

func (r *repairer) doubt(p *partition, x damage.Range) {
	r.rep.Doubtful = append(r.rep.Doubtful, damage.Loss{Log: p.dir, Offsets: x, Why: "the record of a truncation is damaged"})
}

// lostEnd names what was at a log's end in the damaged WAL, where nothing behind it tells.
func (r *repairer) lostEnd(p *partition, end int64) {
	for _, x := range p.losses {
		if x.From >= end {
			r.lost(p, "damaged in the write-ahead log, at the end of the log: these offsets will be given again", []damage.Range{x})
		}
	}
}

// gaps are where the partition's log has no records because its leader's was compacted: the first such offset, by the one behind.
func (p *partition) gaps() map[int64]int64 {
	m := map[int64]int64{}
	for _, e := range p.entries {
		if e.before < e.base {
			m[e.base] = e.before
		}
	}
	return m
}

// maybeCut reports whether what the WAL has of some offsets may have been truncated since: the files have followed what came behind, and the record may
// be what is damaged there.
func (r *repairer) maybeCut(p *partition, x damage.Range) bool {
	return slices.ContainsFunc(p.entries, func(e walRef) bool { return e.inFiles && e.place < r.places && e.base < x.To && e.next > x.From })
}

// load reads a partition's batches out of the WAL. followed is how many of them, the first ones, the files have, unless they were truncated.
func (r *repairer) load(p *partition) (out []record.Batch, followed int, err error) {
	files := map[string]vfs.File{}
	defer func() {
		for _, f := range files {
			f.Close() //nolint:errcheck // only read
		}
	}()
	for _, e := range p.entries {
		f := files[e.file]
		if f == nil {
			if f, err = r.o.FS.OpenFile(e.file, vfs.ReadOnly); err != nil {
				return nil, 0, err
			}
			files[e.file] = f
		}
		b := make(record.Batch, e.length)
		if n, err := f.ReadAt(b, e.position); n < e.length {
			return nil, 0, fmt.Errorf("read %d bytes at %d of %s: %w", e.length, e.position, e.file, err)
		}
		if n := len(out); n > 0 && out[n-1].NextOffset() > b.BaseOffset() {
			continue // it is there already
		}
		out = append(out, b)
		if e.inFiles {
			followed = len(out)
		}
	}
	return out, followed, nil
}

// setWALAside takes the damaged WAL away; what was in it is in the segments now.
func (r *repairer) setWALAside() error {
	if !r.skip {
		return nil
	}
	r.rep.Changed = append(r.rep.Changed, "write-ahead log set aside: what it had is in the segments")
	if r.o.DryRun {
		return nil
	}
	return r.setAside(r.survey.o.wal())
}
