package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func newTopic(io stdio) *cobra.Command {
	c := new(cluster)
	cmd := &cobra.Command{
		Use:   "topic",
		Short: "Create, list, describe, grow and delete topics and their records",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.flags(cmd.PersistentFlags())
	cmd.AddCommand(newTopicCreate(io, c), newTopicList(io, c), newTopicDescribe(io, c), newTopicGrow(io, c), newTopicDelete(io, c), newTopicDeleteRecords(io, c))
	return cmd
}

func newTopicCreate(io stdio, c *cluster) *cobra.Command {
	var partitions int32
	var replicas int16
	var settings []string
	cmd := &cobra.Command{
		Use:     "create NAME...",
		Short:   "Create topics",
		Example: "  weir topic create orders --partitions 8 --replication-factor 3 --config retention.ms=86400000",
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().Int32VarP(&partitions, "partitions", "p", -1, "number of partitions; -1: the broker's num.partitions")
	cmd.Flags().Int16VarP(&replicas, "replicas", "r", -1, "replication factor (also --replication-factor); -1: the broker's default.replication.factor")
	cmd.Flags().StringArrayVarP(&settings, "config", "c", nil, "topic configuration key=value; may be repeated")
	// Kafka's own tool calls it so.
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "replication-factor" {
			name = "replicas"
		}
		return pflag.NormalizedName(name)
	})
	cmd.RunE = func(_ *cobra.Command, names []string) error {
		configs := map[string]*string{}
		for _, s := range settings {
			key, value, ok := strings.Cut(s, "=")
			if !ok {
				return fmt.Errorf("--config %q: expected key=value", s)
			}
			configs[key] = &value
		}
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			created, err := admin.CreateTopics(ctx, partitions, replicas, configs, names...)
			if err != nil {
				return fmt.Errorf("create topics: %w", err)
			}
			var failed error
			for _, t := range created.Sorted() {
				if t.Err != nil {
					failed = errors.Join(failed, explained("create topic", t.Topic, t.Err, t.ErrMessage))
					continue
				}
				if _, err := fmt.Fprintf(io.out, "created %s: %d partitions\n", t.Topic, t.NumPartitions); err != nil {
					return err
				}
			}
			return failed
		})
	}
	return cmd
}

// explained joins a Kafka error code with the message that the broker sent along, if it did.
func explained(what, topic string, err error, message string) error {
	var known *kerr.Error
	if message != "" && errors.As(err, &known) {
		return &brokerError{fmt.Sprintf("%s %s: %s: %s", what, topic, known.Message, message), err}
	}
	return fmt.Errorf("%s %s: %w", what, topic, err)
}

// brokerError is a broker's own message, which says more than the description of its code.
type brokerError struct {
	text string
	err  error
}

func (e *brokerError) Error() string { return e.text }

func (e *brokerError) Unwrap() error { return e.err }

func newTopicList(io stdio, c *cluster) *cobra.Command {
	var internal bool
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List topics", Args: cobra.NoArgs}
	cmd.Flags().BoolVarP(&internal, "internal", "i", false, "internal topics, too")
	cmd.RunE = func(*cobra.Command, []string) error {
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			topics, err := existing(ctx, admin)
			if err != nil {
				return err
			}
			w := table(io.out, "TOPIC", "PARTITIONS", "REPLICAS")
			for _, t := range topics.Sorted() {
				if t.IsInternal && !internal {
					continue
				}
				fmt.Fprintf(w, "%s\t%d\t%d\n", t.Topic, len(t.Partitions), t.Partitions.NumReplicas())
			}
			return w.Flush()
		})
	}
	return cmd
}

// table begins aligned columns; Flush writes them and reports what went wrong on the way.
func table(out io.Writer, columns ...string) *tabwriter.Writer {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	return w
}

func newTopicDescribe(io stdio, c *cluster) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "describe NAME...", Short: "Show the partitions, offsets and configuration of topics", Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "every configuration key, not only those that were set")
	cmd.RunE = func(_ *cobra.Command, names []string) error {
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			topics, err := existing(ctx, admin, names...)
			if err != nil {
				return err
			}
			starts, err := admin.ListStartOffsets(ctx, names...)
			if err != nil {
				return fmt.Errorf("list offsets: %w", err)
			}
			ends, err := admin.ListEndOffsets(ctx, names...)
			if err != nil {
				return fmt.Errorf("list offsets: %w", err)
			}
			// Sizes need a right of their own: without it the rest is shown.
			dirs, _ := admin.DescribeAllLogDirs(ctx, topics.TopicsSet())
			configs, err := admin.DescribeTopicConfigs(ctx, names...)
			if err != nil {
				return fmt.Errorf("describe configuration: %w", err)
			}
			for i, t := range topics.Sorted() {
				if i > 0 {
					fmt.Fprintln(io.out)
				}
				if err := describe(io.out, t, starts, ends, dirs); err != nil {
					return err
				}
				if err := describeConfig(io.out, t.Topic, configs, all); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

func describe(out io.Writer, t kadm.TopicDetail, starts, ends kadm.ListedOffsets, dirs kadm.DescribedAllLogDirs) error {
	fmt.Fprintf(out, "topic %s, id %s\n\n", t.Topic, base64.RawURLEncoding.EncodeToString(t.ID[:]))
	w := table(out, "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END", "BYTES")
	for _, p := range t.Partitions.Sorted() {
		fmt.Fprintf(w, "%d\t%d\t%d\t%v\t%v\t%s\t%s\t%s\n", p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR,
			offsetText(starts, t.Topic, p.Partition), offsetText(ends, t.Topic, p.Partition), sizeText(dirs, t.Topic, p))
	}
	return w.Flush()
}

// sizeText is what a partition takes on its leader's disk.
func sizeText(dirs kadm.DescribedAllLogDirs, topic string, p kadm.PartitionDetail) string {
	d, ok := dirs[p.Leader].LookupPartition(topic, p.Partition)
	if !ok {
		return "?"
	}
	return fmt.Sprint(d.Size)
}

func offsetText(offsets kadm.ListedOffsets, topic string, partition int32) string {
	o, ok := offsets.Lookup(topic, partition)
	switch {
	case !ok:
		return "?"
	case o.Err != nil:
		return o.Err.Error()
	}
	return fmt.Sprint(o.Offset)
}

func describeConfig(out io.Writer, topic string, configs kadm.ResourceConfigs, all bool) error {
	r, err := configs.On(topic, nil)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		return fmt.Errorf("describe configuration of %s: %w", topic, err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	heading := "\nCONFIG\tVALUE\tSOURCE"
	for _, c := range r.Configs {
		if !all && c.Source != kmsg.ConfigSourceDynamicTopicConfig {
			continue
		}
		if heading != "" {
			fmt.Fprintln(w, heading)
			heading = ""
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Key, c.MaybeValue(), c.Source)
	}
	return w.Flush()
}

func newTopicDelete(io stdio, c *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME...", Short: "Delete topics and their records", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, names []string) error {
			return c.admin(func(ctx context.Context, admin *kadm.Client) error {
				// All or none of a mistyped list.
				if _, err := existing(ctx, admin, names...); err != nil {
					return err
				}
				deleted, err := admin.DeleteTopics(ctx, names...)
				if err != nil {
					return fmt.Errorf("delete topics: %w", err)
				}
				var failed error
				for _, t := range deleted.Sorted() {
					if t.Err != nil {
						failed = errors.Join(failed, explained("delete topic", t.Topic, t.Err, t.ErrMessage))
						continue
					}
					if _, err := fmt.Fprintln(io.out, "deleted", t.Topic); err != nil {
						return err
					}
				}
				return failed
			})
		},
	}
}
