package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

const deleteRecordsHelp = `Delete the oldest records of a topic, up to an offset, for good. The topic stays.

--before says which is the first record to stay, in each partition: an offset; end, which deletes all there is; -N, to keep the last N; or
@ and a time, to keep what is not older: @2026-01-02T15:04:05Z, @1767366245000 (milliseconds), or @-24h (ago).`

func newTopicDeleteRecords(io stdio, c *cluster) *cobra.Command {
	var before string
	var partitions []int32
	cmd := &cobra.Command{
		Use: "delete-records NAME", Short: "Delete the oldest records of a topic", Long: deleteRecordsHelp,
		Example: "  weir topic delete-records orders --before @-24h\n  weir topic delete-records orders --partitions 3 --before 120000",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVarP(&before, "before", "b", "", "the first record to stay: an offset, end, -N, or @time")
	cmd.Flags().Int32SliceVarP(&partitions, "partitions", "p", nil, "only these partitions, comma-separated")
	if err := cmd.MarkFlagRequired("before"); err != nil {
		panic("BUG: " + err.Error())
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		limit, err := parseBefore(before, time.Now())
		if err != nil {
			return err
		}
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			topics, err := existing(ctx, admin, args[0])
			if err != nil {
				return err
			}
			chosen, err := choose(topics[args[0]], partitions)
			if err != nil {
				return err
			}
			offsets, err := limit.offsets(ctx, admin, args[0], chosen)
			if err != nil {
				return err
			}
			deleted, err := admin.DeleteRecords(ctx, offsets)
			if err != nil {
				return fmt.Errorf("delete records: %w", err)
			}
			return showDeleted(io, deleted)
		})
	}
	return cmd
}

// before is a parsed --before.
type before struct {
	offset int64 // -1: the end
	keep   int64 // > 0: so many before the end
	milli  int64 // >= 0: the first record at or after this time
}

func parseBefore(s string, now time.Time) (before, error) {
	bad := fmt.Errorf("--before %q: expected an offset, end, -N, or @time", s)
	if s == "end" {
		return before{offset: -1, milli: -1}, nil
	}
	if at, ok := strings.CutPrefix(s, "@"); ok {
		milli, err := parseTime(at, now)
		if err != nil {
			return before{}, bad
		}
		return before{milli: milli}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return before{}, bad
	case n < 0:
		return before{keep: -n, milli: -1}, nil
	}
	return before{offset: n, milli: -1}, nil
}

// choose returns the partitions to delete from: all, if none is named.
func choose(t kadm.TopicDetail, named []int32) ([]int32, error) {
	all := t.Partitions.Numbers()
	if len(named) == 0 {
		return all, nil
	}
	for _, p := range named {
		if !slices.Contains(all, p) {
			return nil, fmt.Errorf("topic %s has no partition %d, it has %d of them", t.Topic, p, len(all))
		}
	}
	return named, nil
}

// offsets finds the first offset to stay in each partition.
func (b before) offsets(ctx context.Context, admin *kadm.Client, topic string, partitions []int32) (kadm.Offsets, error) {
	var listed kadm.ListedOffsets
	var err error
	switch {
	case b.milli >= 0:
		listed, err = admin.ListOffsetsAfterMilli(ctx, b.milli, topic)
	case b.keep > 0:
		listed, err = admin.ListEndOffsets(ctx, topic)
	}
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	offsets := kadm.Offsets{}
	for _, p := range partitions {
		at := b.offset
		if listed != nil {
			o, ok := listed.Lookup(topic, p)
			if !ok || o.Err != nil {
				return nil, fmt.Errorf("offsets of %s partition %d: %w", topic, p, errors.Join(o.Err))
			}
			at = max(o.Offset-b.keep, 0)
		}
		offsets.AddOffset(topic, p, at, -1)
	}
	return offsets, nil
}

// showDeleted prints where each partition begins now and returns the errors of those where nothing was deleted.
func showDeleted(io stdio, deleted kadm.DeleteRecordsResponses) error {
	w := table(io.out, "PARTITION", "START")
	var failed error
	for _, d := range deleted.Sorted() {
		if d.Err != nil {
			failed = errors.Join(failed, fmt.Errorf("delete records of %s partition %d: %w", d.Topic, d.Partition, d.Err))
			continue
		}
		fmt.Fprintf(w, "%d\t%d\n", d.Partition, d.LowWatermark)
	}
	return errors.Join(w.Flush(), failed)
}
