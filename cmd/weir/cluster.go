package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func newClusterCommand(io stdio) *cobra.Command {
	c := new(cluster)
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Look after a cluster: status, leaders, replicas, nodes",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.flags(cmd.PersistentFlags())
	cmd.AddCommand(newClusterStatus(io, c), newClusterElect(io, c), newClusterReassign(io, c), newClusterDecommission(io, c), newClusterUnregister(io, c),
		newClusterVoters(io, c))
	return cmd
}

// client runs fn with a client and a deadline, for requests that kadm has no method for.
func (c *cluster) client(fn func(ctx context.Context, client *kgo.Client) error) error {
	ctx, stop := interruptible()
	defer stop()
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return fn(ctx, client)
}

func newClusterElect(io stdio, c *cluster) *cobra.Command {
	var unclean bool
	var partitions []int32
	cmd := &cobra.Command{
		Use: "elect [TOPIC...]", Short: "Give partitions back to their preferred leaders",
		Long: `Make the first replica of each partition its leader, where that one is in sync. Without topics: all of them.

With --unclean, a partition that has no leader gets one from the replicas that are alive, although they are not in sync:
records that were acknowledged are lost. The partitions must be named then.`,
		Example: "  weir cluster elect\n  weir cluster elect orders --unclean -p 3",
	}
	cmd.Flags().BoolVar(&unclean, "unclean", false, "elect a replica that is not in sync, losing acknowledged records")
	cmd.Flags().Int32SliceVarP(&partitions, "partition", "p", nil, "partitions of the topic; all, if none is given")
	cmd.RunE = func(_ *cobra.Command, topics []string) error {
		if unclean && (len(topics) != 1 || len(partitions) == 0) {
			return errors.New("elect --unclean loses records: name one topic and its partitions with -p")
		}
		if len(partitions) > 0 && len(topics) != 1 {
			return errors.New("elect --partition: name one topic")
		}
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			set, err := partitionSet(ctx, admin, topics, partitions)
			if err != nil {
				return err
			}
			how := kadm.ElectPreferredReplica
			if unclean {
				how = kadm.ElectLiveReplica
			}
			results, err := admin.ElectLeaders(ctx, how, set)
			if err != nil {
				return fmt.Errorf("elect leaders: %w", err)
			}
			return reportElection(io, results)
		})
	}
	return cmd
}

// partitionSet names partitions; nil stands for all of the cluster's.
func partitionSet(ctx context.Context, admin *kadm.Client, topics []string, partitions []int32) (kadm.TopicsSet, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	found, err := existing(ctx, admin, topics...)
	if err != nil {
		return nil, err
	}
	if len(partitions) == 0 {
		return found.TopicsSet(), nil
	}
	set := kadm.TopicsSet{}
	set.Add(topics[0], partitions...)
	return set, nil
}

// reportElection counts what was done and names what could not be.
func reportElection(io stdio, results kadm.ElectLeadersResults) error {
	elected, kept := 0, 0
	var failed []string
	for topic, partitions := range results {
		for partition, r := range partitions {
			switch {
			case r.Err == nil:
				elected++
			case errors.Is(r.Err, kerr.ElectionNotNeeded):
				kept++
			default:
				failed = append(failed, explained("elect a leader of", fmt.Sprintf("%s-%d", topic, partition), r.Err, r.ErrMessage).Error())
			}
		}
	}
	if _, err := fmt.Fprintf(io.out, "%d leaders elected, %d already led\n", elected, kept); err != nil {
		return err
	}
	if len(failed) == 0 {
		return nil
	}
	slices.Sort(failed)
	return errors.New(strings.Join(failed, "\n"))
}

func newClusterUnregister(io stdio, c *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "unregister NODE", Short: "Forget a node that is stopped and holds no replicas", Args: cobra.ExactArgs(1),
		Long: `Forget a node that will not come back. It must be stopped, and no partition may have a replica on it:
weir cluster decommission sees to that.`,
		RunE: func(_ *cobra.Command, args []string) error {
			node, err := nodeID(args[0])
			if err != nil {
				return err
			}
			return c.client(func(ctx context.Context, client *kgo.Client) error {
				if err := stopped(ctx, client, node); err != nil {
					return err
				}
				req := kmsg.NewPtrUnregisterBrokerRequest()
				req.BrokerID = node
				resp, err := req.RequestWith(ctx, client)
				if err != nil {
					return fmt.Errorf("unregister node %d: %w", node, err)
				}
				if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
					return explained("unregister node", args[0], err, textOf(resp.ErrorMessage))
				}
				_, err = fmt.Fprintf(io.out, "node %d is forgotten\n", node)
				return err
			})
		},
	}
}

// stopped refuses a node that is alive: it would register again at once.
func stopped(ctx context.Context, client *kgo.Client, node int32) error {
	meta, err := kadm.NewClient(client).Metadata(ctx)
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	for _, b := range meta.Brokers { // fenced ones are not among them
		if b.NodeID == node {
			return fmt.Errorf("node %d is alive at %s:%d and would register again: stop it first", node, b.Host, b.Port)
		}
	}
	return nil
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
