package segment

import (
	"errors"
	"slices"

	"weir/internal/vfs"
)

// RepairCut is a truncation that the write-ahead log has and the files may not have followed yet: the log ends at Offset, and with Reset it
// begins there, too.
type RepairCut struct {
	Offset int64
	Reset  bool
}

// cut does to the files what a truncation says, because the write-ahead log, which says it, will not be replayed.
func (r *repair) cut() error {
	c, state := r.o.Cut, &r.res.State
	state.Cut, state.Resetting, state.Active = 0, 0, ActivePoint{}
	if c != nil {
		if err := r.follow(c); err != nil {
			return err
		}
	}
	return r.outgrown()
}

// outgrown sets the files aside if all that they have lies below the log start: the log goes on there, and files may have no gap.
func (r *repair) outgrown() error {
	n, start := len(r.lf.bases), r.res.State.LogStart
	if n == 0 || r.lf.bases[n-1] >= start {
		return nil
	}
	_, end, err := r.walk(r.lf.bases[n-1], unknownEnd)
	if err != nil || end >= start {
		return err
	}
	return r.setAside(0, "it lies below the log start")
}

// setAside takes the files from one on away, the newest first.
func (r *repair) setAside(from int, why string) error {
	for _, base := range slices.Backward(r.lf.bases[from:]) {
		name := r.segmentPath(base)
		r.change("%s set aside: %s", name, why)
		if r.o.DryRun {
			continue
		}
		if err := errors.Join(SetAside(r.fs, name, r.o.Aside), r.dropIndexes(base)); err != nil {
			return err
		}
	}
	r.lf.bases = r.lf.bases[:from]
	return nil
}

// follow does what a truncation says.
func (r *repair) follow(c *RepairCut) error {
	state := &r.res.State
	if c.Reset {
		state.LogStart, state.RecoveryPoint = c.Offset, c.Offset
	}
	state.RecoveryPoint = min(state.RecoveryPoint, c.Offset)
	r.o.Checkpoint = *state
	stay := 0
	if !c.Reset {
		stay, _ = slices.BinarySearch(r.lf.bases, c.Offset)
	}
	if err := r.setAside(stay, "it was truncated"); err != nil || stay == 0 {
		return err
	}
	return r.shorten(r.lf.bases[stay-1], c.Offset)
}

// walk goes through a segment file up to the batch that begins at or contains an offset, or to damage that reaches beyond, and returns where that is and
// where the last good batch before it ends.
func (r *repair) walk(base, offset int64) (size, end int64, err error) {
	f, err := r.fs.OpenFile(r.segmentPath(base), vfs.ReadOnly)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	gaps, _ := gapsBelow(r.fs, r.dir)
	scan := &batchScan{w: fileWindow{f: f, size: r.lf.sizes[base]}, limit: unknownEnd, epochEnd: r.o.EpochEnd, gaps: base < gaps}
	end = base
	_, err = scan.run(base, func(st Stretch) error {
		if st.To > offset || st.To == unknownEnd { // a batch, or damage that reaches beyond, maybe to the end
			return errUnsynced
		}
		if size = st.Position + st.Length; st.Batch != nil {
			end = st.To
		}
		return nil
	})
	if errors.Is(err, errUnsynced) {
		err = nil
	}
	return size, end, err
}

// shorten cuts the newest file that is left at the batch that begins at or contains offset. Damage before that stays, for the repair to find.
func (r *repair) shorten(base, offset int64) error {
	size, _, err := r.walk(base, offset)
	if err != nil || size == r.lf.sizes[base] {
		return err
	}
	name := r.segmentPath(base)
	f, err := r.fs.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close()         //nolint:errcheck // only read
	r.lf.sizes[base] = size // a dry run looks no further, either
	return r.rewrite(name, base, f, []keptRun{{from: 0, to: size}})
}
