package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

func newClusterReassign(io stdio, c *cluster) *cobra.Command {
	var partitions []int32
	var to string
	var cancel, list bool
	cmd := &cobra.Command{
		Use: "reassign [TOPIC...]", Short: "Move replicas between nodes, show or cancel moves",
		Long: `Move the replicas of partitions. The command returns once the move has begun; --list shows what still moves. A move ends by itself
when the new replicas are in sync; until then it can be cancelled.

  --to 2,3,1    these replicas, the first one preferred as leader, for all named partitions

To move everything away from a node: weir cluster decommission.`,
		Example: "  weir cluster reassign orders -p 0,1 --to 2,3,1\n  weir cluster reassign orders --cancel\n  weir cluster reassign --list",
	}
	cmd.Flags().Int32SliceVarP(&partitions, "partition", "p", nil, "partitions of the topic; all, if none is given")
	cmd.Flags().StringVar(&to, "to", "", "the new replicas: node ids, comma-separated")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "cancel the moves of the named topics")
	cmd.Flags().BoolVar(&list, "list", false, "show the moves in progress")
	cmd.MarkFlagsMutuallyExclusive("to", "cancel", "list")
	cmd.MarkFlagsOneRequired("to", "cancel", "list")
	cmd.RunE = func(_ *cobra.Command, topics []string) error {
		if !list && len(topics) == 0 {
			return errors.New("reassign: name the topics")
		}
		if len(partitions) > 0 && len(topics) != 1 {
			return errors.New("reassign --partition: name one topic")
		}
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			if list {
				return listMoves(ctx, io, admin, topics)
			}
			all, err := existing(ctx, admin, topics...)
			if err != nil {
				return err
			}
			req, err := moves(all, partitions, to)
			if err != nil {
				return err
			}
			return move(ctx, io, admin, req)
		})
	}
	return cmd
}

func nodeID(s string) (int32, error) {
	id, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("%q is no node id", s)
	}
	return int32(id), nil
}

// moves makes the request: new replicas for each partition, or a cancellation where none are given.
func moves(topics kadm.TopicDetails, partitions []int32, to string) (kadm.AlterPartitionAssignmentsReq, error) {
	var req kadm.AlterPartitionAssignmentsReq
	var replicas []int32
	for _, s := range strings.Split(to, ",") {
		if s == "" {
			continue
		}
		id, err := nodeID(s)
		if err != nil {
			return nil, fmt.Errorf("--to: %w", err)
		}
		replicas = append(replicas, id)
	}
	for _, t := range topics.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			switch {
			case len(partitions) > 0 && !slices.Contains(partitions, p.Partition):
			case replicas == nil:
				req.CancelAssign(t.Topic, p.Partition)
			default:
				req.Assign(t.Topic, p.Partition, replicas)
			}
		}
	}
	return req, nil
}

func move(ctx context.Context, io stdio, admin *kadm.Client, req kadm.AlterPartitionAssignmentsReq) error {
	if len(req) == 0 {
		_, err := fmt.Fprintln(io.out, "nothing to move")
		return err
	}
	results, err := admin.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return fmt.Errorf("reassign partitions: %w", err)
	}
	begun := 0
	var failed error
	for _, r := range results.Sorted() {
		if r.Err != nil {
			failed = errors.Join(failed, explained("reassign", fmt.Sprintf("%s-%d", r.Topic, r.Partition), r.Err, r.ErrMessage))
			continue
		}
		begun++
	}
	if _, err := fmt.Fprintf(io.out, "%d partitions reassigned; weir cluster reassign --list shows what still moves\n", begun); err != nil {
		return err
	}
	return failed
}

func listMoves(ctx context.Context, io stdio, admin *kadm.Client, topics []string) error {
	var set kadm.TopicsSet
	if len(topics) > 0 {
		found, err := existing(ctx, admin, topics...)
		if err != nil {
			return err
		}
		set = found.TopicsSet()
	}
	listed, err := admin.ListPartitionReassignments(ctx, set)
	if err != nil {
		return fmt.Errorf("list reassignments: %w", err)
	}
	w := table(io.out, "PARTITION", "REPLICAS", "ADDING", "REMOVING")
	for _, r := range listed.Sorted() {
		fmt.Fprintf(w, "%s-%d\t%v\t%v\t%v\n", r.Topic, r.Partition, r.Replicas, r.AddingReplicas, r.RemovingReplicas)
	}
	return w.Flush()
}
