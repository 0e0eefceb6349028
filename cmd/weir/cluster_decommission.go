package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/broker"
	"weir/internal/clock"
)

// progressEvery is how often --wait asks.
const progressEvery = 2 * time.Second

func newClusterDecommission(io stdio, c *cluster) *cobra.Command {
	d := decommission{c: c, out: io.out}
	cmd := &cobra.Command{
		Use: "decommission [NODE]", Short: "Move everything away from a node, so that it can be taken out", Args: cobra.MaximumNArgs(1),
		Long: `Move all replicas of a node to others, spread over racks and nodes. From then on the node gets nothing new, whatever restarts, until it
is unregistered or --cancel takes the decommission back. The node may be alive or dead; the cluster goes on with it by itself, so this
command may be ended and given again at any time. When the node holds nothing: stop it, then weir cluster unregister NODE.

Without a node: the nodes that are being decommissioned. A node that votes on the metadata must hand its vote over first, see
weir cluster voters.`,
		Example: "  weir cluster decommission 4 --dry-run\n  weir cluster decommission 4 --wait\n  weir cluster decommission 4 --cancel\n  weir cluster decommission",
	}
	cmd.Flags().BoolVar(&d.wait, "wait", false, "show the progress until the node holds nothing")
	cmd.Flags().BoolVar(&d.dryRun, "dry-run", false, "only say what would be moved where")
	cmd.Flags().BoolVar(&d.cancel, "cancel", false, "take it back: what still moves stays; what has moved is not moved back")
	cmd.MarkFlagsMutuallyExclusive("wait", "dry-run", "cancel")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			if d.wait || d.dryRun || d.cancel {
				return errors.New("decommission: name the node")
			}
			return c.client(d.list)
		}
		node, err := nodeID(args[0])
		if err != nil {
			return err
		}
		d.node = node
		return d.run()
	}
	return cmd
}

// decommission is one use of the command.
type decommission struct {
	c                    *cluster
	out                  io.Writer
	node                 int32
	wait, dryRun, cancel bool
}

// askDecommission sends one request. The nodes are those that leave with list, else the one asked for.
func askDecommission(ctx context.Context, client *kgo.Client, action broker.DecommissionAction, node int32) ([]broker.DecommissionState, error) {
	req, err := broker.NewDecommissionRequest(broker.DecommissionRequest{Action: action, Node: node})
	if err != nil {
		return nil, err
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("decommission: %w", err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, explained("decommission node", fmt.Sprint(node), err, textOf(resp.ErrorMessage))
	}
	answer, known, err := broker.DecommissionAnswerOf(resp)
	if err == nil && !known {
		err = errNoDecommission
	}
	return answer.Nodes, err
}

var errNoDecommission = errors.New("the cluster's controller cannot decommission nodes: it is not Weir, or an older one")

func (d *decommission) run() error {
	action := broker.DecommissionStart
	switch {
	case d.dryRun:
		action = broker.DecommissionTry
	case d.cancel:
		action = broker.DecommissionCancel
	}
	var state broker.DecommissionState
	err := d.c.client(func(ctx context.Context, client *kgo.Client) error {
		nodes, err := askDecommission(ctx, client, action, d.node)
		if err != nil {
			return err
		}
		if len(nodes) != 1 || nodes[0].Node != d.node {
			return fmt.Errorf("decommission node %d: the answer is about %d other nodes", d.node, len(nodes))
		}
		state = nodes[0]
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case d.dryRun:
		return d.printTry(state)
	case d.cancel:
		_, err = fmt.Fprintf(d.out, "node %d stays: %d partitions were taken back, it holds %d\n", d.node, state.Started, state.Left)
		return err
	}
	if err := d.begun(state); err != nil || !d.wait {
		return err
	}
	return d.await(state)
}

func (d *decommission) printTry(s broker.DecommissionState) error {
	fmt.Fprintf(d.out, "node %d holds %d partitions: %d would begin to move, %d move already, %d would wait for more nodes to be alive\n",
		s.Node, s.Left, s.Started, s.Moving-s.Started, s.Stuck)
	if len(s.Heirs) == 0 {
		return nil
	}
	w := table(d.out, "NODE", "REPLICAS MORE")
	heirs := make([]int32, 0, len(s.Heirs))
	for id := range s.Heirs {
		heirs = append(heirs, id)
	}
	slices.Sort(heirs)
	for _, id := range heirs {
		fmt.Fprintf(w, "%d\t%d\n", id, s.Heirs[id])
	}
	return w.Flush()
}

func (d *decommission) begun(s broker.DecommissionState) error {
	if s.Left == 0 {
		return d.done()
	}
	if _, err := fmt.Fprintf(d.out, "node %d: %d partitions left%s\n", d.node, s.Left, stuckText(s)); err != nil {
		return err
	}
	if d.wait {
		return nil
	}
	_, err := fmt.Fprintf(d.out, "the cluster goes on with it; weir cluster decommission %d --wait shows how far it is\n", d.node)
	return err
}

// stuckText says what cannot move now.
func stuckText(s broker.DecommissionState) string {
	if s.Stuck == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them wait for more nodes to be alive (%s ...)", s.Stuck, strings.Join(s.StuckAt[:min(3, len(s.StuckAt))], ", "))
}

func (d *decommission) done() error {
	_, err := fmt.Fprintf(d.out, "node %d holds nothing: stop it, then weir cluster unregister %d\n", d.node, d.node)
	return err
}

// await shows the progress until nothing is left. Each question has the time of --timeout; one that fails is asked again.
func (d *decommission) await(s broker.DecommissionState) error {
	ctx, stop := interruptible()
	defer stop()
	client, err := d.c.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	shown := ""
	for s.Left > 0 {
		if !wait(ctx, progressEvery) {
			_, err := fmt.Fprintf(d.out, "the cluster goes on with it: %d partitions left\n", s.Left)
			return err
		}
		next, text, err := d.progress(ctx, client)
		switch {
		case ctx.Err() != nil:
			continue
		case err != nil:
			text = err.Error()
		case next == nil:
			return fmt.Errorf("node %d is not being decommissioned any more", d.node)
		default:
			s = *next
		}
		if text == shown || s.Left == 0 {
			continue
		}
		shown = text
		if _, err := fmt.Fprintf(d.out, "node %d: %s\n", d.node, text); err != nil {
			return err
		}
	}
	return d.done()
}

// wait waits; false: ctx ended before.
func wait(ctx context.Context, limit time.Duration) bool {
	late := make(chan struct{})
	t := clock.Real{}.AfterFunc(limit, func() { close(late) })
	defer t.Stop()
	select {
	case <-late:
		return true
	case <-ctx.Done():
		return false
	}
}

// progress asks once how far it is; nil: the node does not leave any more.
func (d *decommission) progress(ctx context.Context, client *kgo.Client) (*broker.DecommissionState, string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.timeout)
	defer cancel()
	nodes, err := askDecommission(ctx, client, broker.DecommissionList, d.node)
	if err != nil {
		return nil, "", err
	}
	i := slices.IndexFunc(nodes, func(s broker.DecommissionState) bool { return s.Node == d.node })
	if i < 0 {
		return nil, "", nil
	}
	s := &nodes[i]
	text := fmt.Sprintf("%d partitions left", s.Left)
	if bytes, ok := bytesToCopy(ctx, client, d.node); ok {
		text += ", " + sizeOf(bytes) + " to copy"
	}
	return s, text + stuckText(*s), nil
}

// bytesToCopy is what the replicas that take over from a node still lack, as far as the nodes tell how much they have; ok is false if they do not.
func bytesToCopy(ctx context.Context, client *kgo.Client, node int32) (int64, bool) {
	admin := kadm.NewClient(client)
	moves, err := admin.ListPartitionReassignments(ctx, nil)
	if err != nil {
		return 0, false
	}
	set := kadm.TopicsSet{}
	for _, m := range moves.Sorted() {
		if slices.Contains(m.RemovingReplicas, node) {
			set.Add(m.Topic, m.Partition)
		}
	}
	dirs, err := admin.DescribeAllLogDirs(ctx, set)
	if err != nil && len(dirs) == 0 || len(set) == 0 {
		return 0, false
	}
	var lacking int64
	for _, m := range moves.Sorted() {
		if slices.Contains(m.RemovingReplicas, node) {
			lacking += lacks(m, dirs)
		}
	}
	return lacking, true
}

// lacks compares the new replicas of a partition with the largest one.
func lacks(m kadm.ListPartitionReassignmentsResponse, dirs kadm.DescribedAllLogDirs) (n int64) {
	size := func(node int32) int64 {
		p, _ := dirs[node].LookupPartition(m.Topic, m.Partition)
		return p.Size
	}
	var whole int64
	for _, r := range m.Replicas {
		whole = max(whole, size(r))
	}
	for _, r := range m.AddingReplicas {
		n += max(0, whole-size(r))
	}
	return n
}

// sizeOf renders bytes as people read them.
func sizeOf(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// list shows the nodes that leave.
func (d *decommission) list(ctx context.Context, client *kgo.Client) error {
	nodes, err := askDecommission(ctx, client, broker.DecommissionList, 0)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		_, err := fmt.Fprintln(d.out, "no node is being decommissioned")
		return err
	}
	w := table(d.out, "NODE", "STATE", "PARTITIONS LEFT", "MOVING", "WAITING FOR NODES")
	for _, s := range nodes {
		state := "alive"
		if !s.Alive {
			state = "FENCED"
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\n", s.Node, state, s.Left, s.Moving, s.Stuck)
	}
	return w.Flush()
}

// leavingNodes is the nodes that leave; none where the cluster cannot tell.
func leavingNodes(ctx context.Context, client *kgo.Client) (map[int32]broker.DecommissionState, error) {
	nodes, err := askDecommission(ctx, client, broker.DecommissionList, 0)
	if errors.Is(err, errNoDecommission) || unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	leaving := map[int32]broker.DecommissionState{}
	for _, s := range nodes {
		leaving[s.Node] = s
	}
	return leaving, nil
}
