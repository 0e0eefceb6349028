package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const consumeHelp = `Print the records of a topic until Ctrl-C, --count records, or, with --exit-at-end, the present end.

--from says where to begin: beginning, end, an offset, -N for the last N of each partition, or @ and a time: @2026-01-02T15:04:05Z,
@1767366245000 (milliseconds), or @-1h (ago). With --group it matters only where the group has no committed offset.

--format says what is printed for each record:
  %v value  %k key  %h headers  %t topic  %p partition  %o offset  %d timestamp (ms)  %V %K their sizes
  %v{base64} %v{hex} encoded    %h{%k=%v } each header    %d{go##2006-01-02##} formatted    \n newline  \t tab  %% per cent`

// consumeFlags are the flags of weir consume.
type consumeFlags struct {
	cluster
	from       string
	group      string
	format     string
	count      int64
	exitAtEnd  bool
	partitions []int32
}

func newConsume(io stdio) *cobra.Command {
	var f consumeFlags
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Print the records of a topic",
		Long:  consumeHelp,
		Example: `  weir consume orders --exit-at-end
  weir consume orders --from @-10m --format '%p %o %k %v\n' --count 100
  weir consume orders --group billing`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return f.run(io, args[0]) },
	}
	f.flags(cmd.Flags())
	cmd.Flags().StringVarP(&f.from, "from", "o", "beginning", "where to begin")
	cmd.Flags().StringVarP(&f.group, "group", "g", "", "consume as a member of this group and commit what was printed")
	cmd.Flags().StringVarP(&f.format, "format", "f", `%v\n`, "what to print for each record")
	cmd.Flags().Int64VarP(&f.count, "count", "n", 0, "end after this many records; 0: go on")
	cmd.Flags().BoolVarP(&f.exitAtEnd, "exit-at-end", "e", false, "end at the offsets that are the end now")
	cmd.Flags().Int32SliceVarP(&f.partitions, "partitions", "p", nil, "only these partitions")
	cmd.MarkFlagsMutuallyExclusive("group", "exit-at-end")
	cmd.MarkFlagsMutuallyExclusive("group", "partitions")
	return cmd
}

// position is a parsed --from.
type position struct {
	offset kgo.Offset
	milli  int64 // >= 0: the first record at or after this time
}

func parseFrom(s string, now time.Time) (position, error) {
	bad := fmt.Errorf("--from %q: expected beginning, end, an offset, -N, or @time", s)
	switch {
	case s == "beginning" || s == "start":
		return position{kgo.NewOffset().AtStart(), -1}, nil
	case s == "end":
		return position{kgo.NewOffset().AtEnd(), -1}, nil
	case strings.HasPrefix(s, "@"):
		milli, err := parseTime(s[1:], now)
		if err != nil {
			return position{}, bad
		}
		return position{kgo.NewOffset().AfterMilli(milli), milli}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return position{}, bad
	case n < 0:
		return position{kgo.NewOffset().AtEnd().Relative(n), -1}, nil
	}
	return position{kgo.NewOffset().At(n), -1}, nil
}

func parseTime(s string, now time.Time) (int64, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 {
		return ms, nil
	}
	if ago, err := time.ParseDuration(s); err == nil && ago <= 0 {
		return now.Add(ago).UnixMilli(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return t.UnixMilli(), err
}

func (f *consumeFlags) run(io stdio, topic string) error {
	from, err := parseFrom(f.from, time.Now())
	if err != nil {
		return err
	}
	format, err := kgo.NewRecordFormatter(f.format)
	if err != nil {
		return fmt.Errorf("--format %q: %w", f.format, err)
	}
	ctx, stop := interruptible()
	defer stop()
	probe, err := f.connect(ctx)
	if err != nil {
		return err
	}
	partitions, ends, err := f.plan(ctx, kadm.NewClient(probe), topic, from)
	probe.Close()
	if err != nil {
		return err
	}
	if f.exitAtEnd && len(ends) == 0 {
		return nil
	}
	client, err := f.connect(ctx, f.options(topic, partitions, from)...)
	if err != nil {
		return err
	}
	defer client.Close()
	c := &consuming{f: f, client: client, format: format, out: bufio.NewWriter(io.out), ends: ends}
	return c.run(ctx)
}

func (f *consumeFlags) options(topic string, partitions []int32, from position) []kgo.Opt {
	// Control records are received, and skipped, so that a transaction's marker at the end of a partition counts as reaching it.
	opts := []kgo.Opt{kgo.KeepControlRecords()}
	if f.group != "" {
		return append(opts, kgo.ConsumerGroup(f.group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(from.offset), kgo.DisableAutoCommit())
	}
	at := make(map[int32]kgo.Offset, len(partitions))
	for _, p := range partitions {
		at[p] = from.offset
	}
	return append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}))
}

// plan finds the partitions to consume and, with --exit-at-end, the offsets to stop at, of those that have any record to print.
func (f *consumeFlags) plan(ctx context.Context, admin *kadm.Client, topic string, from position) ([]int32, map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	topics, err := existing(ctx, admin, topic)
	if err != nil {
		return nil, nil, err
	}
	partitions := topics[topic].Partitions.Numbers()
	if len(f.partitions) > 0 {
		for _, p := range f.partitions {
			if _, ok := topics[topic].Partitions[p]; !ok {
				return nil, nil, fmt.Errorf("--partitions %d: topic %s has partitions 0 to %d", p, topic, len(partitions)-1)
			}
		}
		partitions = f.partitions
	}
	if !f.exitAtEnd {
		return partitions, nil, nil
	}
	ends, err := f.findEnds(ctx, admin, topic, partitions, from)
	return partitions, ends, err
}

func (f *consumeFlags) findEnds(ctx context.Context, admin *kadm.Client, topic string, partitions []int32, from position) (map[int32]int64, error) {
	end, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	begin, err := admin.ListStartOffsets(ctx, topic)
	if from.milli >= 0 && err == nil {
		begin, err = admin.ListOffsetsAfterMilli(ctx, from.milli, topic)
	}
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	ends := map[int32]int64{}
	for _, p := range partitions {
		e, _ := end.Lookup(topic, p)
		b, _ := begin.Lookup(topic, p)
		if err := errors.Join(e.Err, b.Err); err != nil {
			return nil, fmt.Errorf("offsets of %s partition %d: %w", topic, p, err)
		}
		start := b.Offset
		if at := from.offset.EpochOffset().Offset; from.milli < 0 && at > start {
			start = at
		}
		if f.from != "end" && start < e.Offset {
			ends[p] = e.Offset
		}
	}
	return ends, nil
}

// consuming is one run of weir consume.
type consuming struct {
	f       *consumeFlags
	client  *kgo.Client
	format  *kgo.RecordFormatter
	out     *bufio.Writer
	ends    map[int32]int64 // partitions that have not reached their end yet; nil without --exit-at-end
	printed int64
	line    []byte
}

// run prints records until one of the reasons to end.
func (c *consuming) run(ctx context.Context) error {
	for {
		fetches := c.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return c.out.Flush() // Ctrl-C
		}
		for _, e := range fetches.Errors() {
			return errors.Join(c.out.Flush(), fmt.Errorf("consume %s partition %d: %w", e.Topic, e.Partition, e.Err))
		}
		var taken []*kgo.Record
		finished := false
		for iter := fetches.RecordIter(); !iter.Done() && !finished; {
			r := iter.Next()
			if err := c.take(r); err != nil {
				return err
			}
			taken = append(taken, r)
			finished = c.finished()
		}
		if err := c.out.Flush(); err != nil {
			return err
		}
		if c.f.group != "" && len(taken) > 0 {
			// After printing: a record is printed again rather than lost.
			if err := c.client.CommitRecords(ctx, taken...); err != nil {
				return fmt.Errorf("commit offsets of group %s: %w", c.f.group, err)
			}
		}
		if finished {
			return nil
		}
	}
}

func (c *consuming) take(r *kgo.Record) error {
	end, limited := c.ends[r.Partition]
	if c.ends != nil && !limited {
		return nil // came after its partition's end was reached
	}
	if limited && r.Offset >= end-1 {
		delete(c.ends, r.Partition)
		if r.Offset >= end {
			return nil
		}
	}
	if r.Attrs.IsControl() {
		return nil
	}
	c.line = c.format.AppendRecord(c.line[:0], r)
	if _, err := c.out.Write(c.line); err != nil {
		return err
	}
	c.printed++
	return nil
}

func (c *consuming) finished() bool {
	return c.f.count > 0 && c.printed >= c.f.count || c.ends != nil && len(c.ends) == 0
}
