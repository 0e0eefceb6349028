package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weir/internal/vfs"
	"weir/logtool"
)

func newLogDump(io stdio, d *dataDir) *cobra.Command {
	var o logtool.DumpOptions
	var offsets string
	cmd := &cobra.Command{
		Use:   "dump WHAT...",
		Short: "Show what is in the files",
		Long: `Show what is in the files. WHAT is a partition (orders-0) or a topic, a segment, index, or snapshot file, or one of the words wal, metadata,
checkpoint. Damaged places are shown where they are, and passed over.`,
		Example: "  weir log dump orders-0 --offsets 100-120 --deep\n  weir log dump wal metadata",
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().BoolVar(&o.Deep, "deep", false, "records, not only batches")
	cmd.Flags().StringVar(&offsets, "offsets", "", "only these offsets: 100, 100-120, 100-")
	cmd.RunE = func(_ *cobra.Command, what []string) error {
		var err error
		if o.From, o.To, err = parseOffsets(offsets); err != nil {
			return err
		}
		return d.with(func(fsys vfs.FS) error {
			p := d.printer(io.out)
			o.Options = logtool.Options{FS: fsys, Dir: d.path}
			o.Line = p.put
			for _, w := range what {
				if err := logtool.Dump(o, w); err != nil {
					return err
				}
			}
			return p.err
		})
	}
	return cmd
}

// parseOffsets reads 5, 5-9 or 5-; both ends are included. to is the offset behind the last, 0 for all.
func parseOffsets(s string) (from, to int64, err error) {
	if s == "" {
		return 0, 0, nil
	}
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	if from, err = strconv.ParseInt(first, 10, 64); err == nil && last != "" {
		to, err = strconv.ParseInt(last, 10, 64)
		to++
	}
	if err != nil || from < 0 || to != 0 && to <= from {
		return 0, 0, fmt.Errorf("--offsets %q: want a range such as 100-120", s)
	}
	return from, to, nil
}
