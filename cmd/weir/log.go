package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weir/internal/config"
	"weir/internal/damage"
	"weir/internal/vfs"
	"weir/logtool"
)

// exitDamage is the exit code of weir log where damage was found, or stays.
const exitDamage = 3

func newLog(io stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Check, show and repair what is on disk, while no broker runs",
		Long: `Check, show and repair a data directory that no broker uses.

Exit codes: 0 nothing is damaged, 1 the command could not be carried out, 3 damage was found (verify) or is left (repair).
What to do when a broker does not start: docs/operations/damage.md.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	d := new(dataDir)
	d.flags(cmd.PersistentFlags())
	cmd.AddCommand(newLogVerify(io, d), newLogDump(io, d), newLogRepair(io, d))
	return cmd
}

// dataDir is the directory that the commands work on.
type dataDir struct {
	path     string
	readOnly bool
	json     bool
}

func (d *dataDir) flags(f *pflag.FlagSet) {
	def, _ := config.BrokerDef("data-dir")
	f.StringVar(&d.path, "data-dir", def.Default, "the broker's data directory")
	f.BoolVar(&d.readOnly, "read-only", false, "do not take the directory's lock: for a copy, or a file system that is mounted read-only")
	f.BoolVar(&d.json, "json", false, "print JSON, one object per line")
}

// with runs fn while no broker can use the directory.
func (d *dataDir) with(fn func(fsys vfs.FS) error) error {
	fsys := vfs.OS{}
	if info, err := fsys.Stat(d.path); err != nil || !info.IsDir() {
		return fmt.Errorf("data directory %s: %w", d.path, errors.Join(err, fs.ErrNotExist))
	}
	if d.readOnly {
		return fn(fsys)
	}
	lock, err := fsys.Lock(filepath.Join(d.path, lockName))
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("data directory %s is in use by a broker (it holds %s); stop it first, or look at a copy with --read-only", d.path, filepath.Join(d.path, lockName))
	case err != nil:
		return fmt.Errorf("data directory %s: %w (--read-only looks at it without taking its lock)", d.path, err)
	}
	return errors.Join(fn(fsys), lock.Close())
}

// printer writes results, as text or as JSON.
type printer struct {
	out io.Writer
	enc *json.Encoder // nil: text
	err error         // of the first write that failed
}

func (d *dataDir) printer(out io.Writer) *printer {
	p := &printer{out: out}
	if d.json {
		p.enc = json.NewEncoder(out)
	}
	return p
}

// put writes v: as JSON, or as its text.
func (p *printer) put(v any, text string) {
	var err error
	if p.enc != nil {
		err = p.enc.Encode(v)
	} else {
		_, err = fmt.Fprintln(p.out, text)
	}
	if p.err == nil {
		p.err = err
	}
}

// progress tells on stderr what is being read.
func (s stdio) progress(what string, _ int64) { fmt.Fprintln(s.err, "reading", what) }

func newLogVerify(io stdio, d *dataDir) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read every byte and say what is wrong",
		Long: `Read everything in the data directory and print a line for each thing that is wrong: LOST is acknowledged data that is damaged or
missing, heals is what the broker makes anew by itself, note is no damage. Nothing is changed.

Exit codes: 0 nothing is damaged, 3 something is.`,
		Example: "  weir log verify --data-dir /var/lib/weir",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress on stderr")
	cmd.RunE = func(*cobra.Command, []string) error {
		return d.with(func(fsys vfs.FS) error {
			p := d.printer(io.out)
			o := logtool.Options{FS: fsys, Dir: d.path, Finding: func(f damage.Finding) { p.put(f, f.String()) }}
			if !quiet {
				o.Progress = io.progress
			}
			rep, err := logtool.Verify(o)
			if err != nil {
				return err
			}
			p.put(rep, fmt.Sprintf("%d logs of %d topics: %d records in %d bytes of segments, %d entries in the write-ahead log; %d lost, %d that heal, %d notes",
				rep.Logs, rep.Topics, rep.Records, rep.Bytes, rep.Entries, rep.Lost, rep.Heals, rep.Notes))
			if p.err == nil && rep.Lost+rep.Heals > 0 {
				return &coded{code: exitDamage, err: fmt.Errorf("%d places are damaged, %d of them with acknowledged data", rep.Lost+rep.Heals, rep.Lost)}
			}
			return p.err
		})
	}
	return cmd
}

func newLogRepair(io stdio, d *dataDir) *cobra.Command {
	var yes, dry bool
	var o logtool.RepairOptions
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Make a damaged data directory one that a broker starts with",
		Long: `Make a damaged data directory one that a broker starts with. Without --yes nothing is changed: it says which records are gone and what would
be done. Everything that loses something has a flag of its own. Damaged files are kept beside the new ones as *.damaged.

Exit codes: 0 nothing is damaged any more, 3 damage is left because a flag was not given.`,
		Example: "  weir log repair --data-dir /var/lib/weir\n  weir log repair --data-dir /var/lib/weir --drop-damaged --yes",
		Args:    cobra.NoArgs,
	}
	f := cmd.Flags()
	f.BoolVar(&o.DropDamaged, "drop-damaged", false, "give up damaged records in segments: readers pass over their offsets, as in a compacted log")
	f.BoolVar(&o.SkipWAL, "skip-wal", false, "give up damaged entries of the write-ahead log; all others go into the segments, and the log begins anew")
	f.BoolVar(&o.Metadata, "metadata", false, "give up damaged entries of the metadata; topics whose data is on disk are kept")
	f.BoolVar(&o.NewCheckpoint, "new-checkpoint", false, "make lost recovery points from the segments; records deleted with DeleteRecords may come back")
	f.BoolVar(&yes, "yes", false, "do it")
	f.BoolVar(&dry, "dry-run", false, "only say what would be done; the default")
	cmd.MarkFlagsMutuallyExclusive("yes", "dry-run")
	cmd.RunE = func(*cobra.Command, []string) error {
		if yes && d.readOnly {
			return errors.New("--read-only and --yes contradict each other")
		}
		return d.with(func(fsys vfs.FS) error {
			return repairData(io, d, fsys, o, yes)
		})
	}
	return cmd
}

// repairData first says what is lost, and only then does it.
func repairData(io stdio, d *dataDir, fsys vfs.FS, o logtool.RepairOptions, yes bool) error {
	p := d.printer(io.out)
	o.Options = logtool.Options{FS: fsys, Dir: d.path, Finding: func(f damage.Finding) { fmt.Fprintln(io.err, f) }}
	o.DryRun = true
	rep, err := logtool.Repair(o)
	if err != nil {
		return err
	}
	printRepair(p, rep)
	if p.err != nil {
		return p.err
	}
	if yes {
		o.DryRun, o.Finding = false, nil
		if rep, err = logtool.Repair(o); err != nil {
			return err
		}
		for _, name := range rep.Kept {
			p.put(map[string]string{"kept": name}, "damaged bytes are kept in "+name)
		}
		p.put(map[string]bool{"repaired": len(rep.Needs) == 0}, "done")
	} else if len(rep.Changed) > 0 {
		p.put(map[string]bool{"dry_run": true}, "nothing was changed; --yes does it")
	}
	if p.err == nil && len(rep.Needs) > 0 {
		return &coded{code: exitDamage, err: fmt.Errorf("damage is left: it needs %v", rep.Needs)}
	}
	return p.err
}

func printRepair(p *printer, rep *logtool.RepairReport) {
	if p.enc != nil {
		p.put(rep, "")
		return
	}
	for _, l := range rep.Lost {
		p.put(nil, "lost: "+l.String())
	}
	for _, l := range rep.Metadata {
		p.put(nil, "lost: "+l)
	}
	if rep.Unnamed > 0 {
		p.put(nil, fmt.Sprintf("lost: whatever %d damaged places of the write-ahead log held at the ends of logs: they do not tell whose it was", rep.Unnamed))
	}
	for _, l := range rep.Doubtful {
		p.put(nil, "doubtful: "+l.String()+"; let the node fetch this partition anew, if another replica lives")
	}
	for _, l := range rep.Restored {
		p.put(nil, "put back: "+l.String())
	}
	for _, c := range rep.Changed {
		p.put(nil, "change: "+c)
	}
	if len(rep.Changed)+len(rep.Lost)+len(rep.Needs) == 0 {
		p.put(nil, "nothing to repair")
	}
}
