package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func newClusterVoters(io stdio, c *cluster) *cobra.Command {
	cmd := &cobra.Command{
		Use: "voters", Short: "Show and change which nodes vote on the metadata",
		Long: `The voters hold the cluster's metadata and elect the controller from among them; the others, observers, only follow. A change needs a majority
of the voters: three of them survive the loss of one, five of two. An even number survives no more than the odd one below it.`,
		Example: "  weir cluster voters list\n  weir cluster voters add 4\n  weir cluster voters remove 1",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newVotersList(io, c), newVotersAdd(io, c), newVotersRemove(io, c))
	return cmd
}

func newVotersList(io stdio, c *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "Show voters and observers, and how far they are", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return c.client(func(ctx context.Context, client *kgo.Client) error {
				q, err := quorum(ctx, client)
				if err != nil {
					return err
				}
				if q == nil {
					return fmt.Errorf("describe quorum: %w", kerr.UnsupportedVersion)
				}
				return q.print(io)
			})
		},
	}
}

// print lists the members of the quorum.
func (q *quorumState) print(io stdio) error {
	fmt.Fprintf(io.out, "leader %d, epoch %d, entries up to %d are committed\n\n", q.Leader, q.Epoch, q.HighWatermark)
	w := table(io.out, "NODE", "ROLE", "LOG END", "BEHIND", "HEARD OF")
	for _, m := range q.Members {
		heard := "never"
		if ago, ok := q.silence(m); ok {
			heard = ago.String() + " ago"
		}
		if m.Node == q.Leader {
			heard = "-"
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\n", m.Node, q.role(m), m.End, max(0, q.HighWatermark-m.End), heard)
	}
	return w.Flush()
}

func (q *quorumState) role(m memberState) string {
	switch {
	case m.Node == q.Leader:
		return "leader"
	case m.Voter:
		return "voter"
	}
	return "observer"
}

func newVotersAdd(io stdio, c *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "add NODE", Short: "Give a node a vote", Args: cobra.ExactArgs(1),
		Long: "Give a node a vote on the metadata. It must be running, as part of this cluster, and be caught up with the metadata.",
		RunE: func(_ *cobra.Command, args []string) error {
			node, err := nodeID(args[0])
			if err != nil {
				return err
			}
			return c.client(func(ctx context.Context, client *kgo.Client) error {
				req := kmsg.NewPtrAddRaftVoterRequest()
				req.VoterID, req.TimeoutMillis = node, c.millis()
				resp, err := req.RequestWith(ctx, client)
				if err != nil {
					return fmt.Errorf("add voter %d: %w", node, err)
				}
				if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
					return explained("add voter", args[0], err, textOf(resp.ErrorMessage))
				}
				return votersNow(ctx, io, client)
			})
		},
	}
}

func newVotersRemove(io stdio, c *cluster) *cobra.Command {
	return &cobra.Command{
		Use: "remove NODE", Short: "Take a node's vote away", Args: cobra.ExactArgs(1),
		Long: `Take a node's vote away; it may be dead. One that lives goes on following the metadata and serving clients. If it is the controller, another voter
becomes that first.`,
		RunE: func(_ *cobra.Command, args []string) error {
			node, err := nodeID(args[0])
			if err != nil {
				return err
			}
			return c.client(func(ctx context.Context, client *kgo.Client) error {
				req := kmsg.NewPtrRemoveRaftVoterRequest()
				req.VoterID = node
				resp, err := req.RequestWith(ctx, client)
				if err != nil {
					return fmt.Errorf("remove voter %d: %w", node, err)
				}
				if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
					return explained("remove voter", args[0], err, textOf(resp.ErrorMessage))
				}
				return votersNow(ctx, io, client)
			})
		},
	}
}

// votersNow says who votes after a change, and that an even number is one node more than it is worth.
func votersNow(ctx context.Context, io stdio, client *kgo.Client) error {
	q, err := quorum(ctx, client)
	if err != nil || q == nil {
		return err
	}
	var voters []string
	for _, m := range q.Members {
		if m.Voter {
			voters = append(voters, fmt.Sprint(m.Node))
		}
	}
	if _, err := fmt.Fprintf(io.out, "voters: %s\n", strings.Join(voters, ", ")); err != nil {
		return err
	}
	if n := len(voters); n%2 == 0 {
		_, err = fmt.Fprintf(io.out, "%d voters survive the loss of %d, as %d would: add or remove one\n", n, (n-1)/2, n-1)
	}
	return err
}
