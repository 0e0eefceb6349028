package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sickMax is how many partitions the status lists; --json has all.
const sickMax = 20

// clusterState is what weir cluster status shows; the names are those of --json.
type clusterState struct {
	ClusterID  string           `json:"cluster_id"`
	Controller int32            `json:"controller"` // -1: none known
	Quorum     *quorumState     `json:"quorum,omitempty"`
	Nodes      []nodeState      `json:"nodes"`
	Topics     int              `json:"topics"`
	Partitions int              `json:"partitions"`
	Under      []partitionState `json:"under_replicated"`
	Offline    []partitionState `json:"offline"`
	Misled     int              `json:"not_led_by_preferred"` // has a leader, but not the first replica
}

type quorumState struct {
	Leader        int32         `json:"leader"`
	Epoch         int32         `json:"epoch"`
	HighWatermark int64         `json:"high_watermark"`
	Now           int64         `json:"now_ms"` // at the leader
	Members       []memberState `json:"members"`
}

type memberState struct {
	Node  int32 `json:"node"`
	Voter bool  `json:"voter"`
	End   int64 `json:"log_end"`
	// Heard is when the leader last heard of it, as it tells, Unix ms; -1: never.
	Heard int64 `json:"last_heard_ms"`
}

type nodeState struct {
	ID       int32  `json:"id"`
	Addr     string `json:"addr"`
	Rack     string `json:"rack,omitempty"`
	Fenced   bool   `json:"fenced"`
	Leaving  bool   `json:"leaving"` // being decommissioned
	Leads    int    `json:"leads"`
	Replicas int    `json:"replicas"`
	Behind   int    `json:"out_of_sync"` // replicas that are not in the ISR
}

type partitionState struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"` // -1: none
	Replicas  []int32 `json:"replicas"`
	ISR       []int32 `json:"isr"`
}

func newClusterStatus(io stdio, c *cluster) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show controller, nodes, and partitions that are not well", Args: cobra.NoArgs,
		Example: "  weir cluster status --brokers 127.0.0.1:9092,127.0.0.2:9092",
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "everything, as JSON")
	cmd.RunE = func(*cobra.Command, []string) error {
		return c.client(func(ctx context.Context, client *kgo.Client) error {
			s, err := clusterStatus(ctx, client)
			if err != nil {
				return err
			}
			if !asJSON {
				return s.print(io.out)
			}
			e := json.NewEncoder(io.out)
			e.SetIndent("", "  ")
			return e.Encode(s)
		})
	}
	return cmd
}

func clusterStatus(ctx context.Context, client *kgo.Client) (*clusterState, error) {
	admin := kadm.NewClient(client)
	meta, err := admin.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	s := &clusterState{ClusterID: meta.Cluster, Controller: meta.Controller, Topics: len(meta.Topics)}
	if s.Nodes, err = clusterNodes(ctx, client, meta); err != nil {
		return nil, err
	}
	if s.Controller >= 0 { // without one there is nobody to ask, and the rest is worth showing all the more
		if s.Quorum, err = quorum(ctx, client); err != nil {
			return nil, err
		}
	}
	if s.Quorum != nil {
		s.Controller = s.Quorum.Leader
	}
	s.countPartitions(meta.Topics)
	if s.Controller < 0 {
		return s, nil
	}
	leaving, err := leavingNodes(ctx, client)
	for i := range s.Nodes {
		_, s.Nodes[i].Leaving = leaving[s.Nodes[i].ID]
	}
	return s, err
}

// clusterNodes lists the nodes, fenced ones too where the broker can tell of them.
func clusterNodes(ctx context.Context, client *kgo.Client, meta kadm.Metadata) ([]nodeState, error) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	resp, err := req.RequestWith(ctx, client)
	var nodes []nodeState
	switch {
	case unsupported(err):
		for _, b := range meta.Brokers {
			n := nodeState{ID: b.NodeID, Addr: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))}
			if b.Rack != nil {
				n.Rack = *b.Rack
			}
			nodes = append(nodes, n)
		}
	case err != nil:
		return nil, fmt.Errorf("describe cluster: %w", err)
	case resp.ErrorCode != 0:
		return nil, explained("describe", "cluster", kerr.ErrorForCode(resp.ErrorCode), textOf(resp.ErrorMessage))
	default:
		for _, b := range resp.Brokers {
			nodes = append(nodes, nodeState{
				ID: b.NodeID, Addr: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), Rack: textOf(b.Rack), Fenced: b.IsFenced,
			})
		}
	}
	slices.SortFunc(nodes, func(a, b nodeState) int { return int(a.ID) - int(b.ID) })
	return nodes, nil
}

// unsupported: the broker does not have the API.
func unsupported(err error) bool {
	return err != nil && (errors.Is(err, kerr.UnsupportedVersion) || strings.Contains(err.Error(), "broker is too old"))
}

// quorum asks the metadata's leader for its followers; nil where the broker cannot tell.
func quorum(ctx context.Context, client *kgo.Client) (*quorumState, error) {
	req := kmsg.NewPtrDescribeQuorumRequest()
	topic := kmsg.NewDescribeQuorumRequestTopic()
	topic.Topic = "__cluster_metadata"
	topic.Partitions = append(topic.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, client)
	switch {
	case unsupported(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("describe quorum: %w", err)
	case resp.ErrorCode != 0:
		return nil, explained("describe", "quorum", kerr.ErrorForCode(resp.ErrorCode), textOf(resp.ErrorMessage))
	case len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1:
		return nil, errors.New("describe quorum: the response lacks the metadata's partition")
	}
	p := resp.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return nil, explained("describe", "quorum", kerr.ErrorForCode(p.ErrorCode), textOf(p.ErrorMessage))
	}
	q := &quorumState{Leader: p.LeaderID, Epoch: p.LeaderEpoch, HighWatermark: p.HighWatermark}
	for _, m := range p.CurrentVoters {
		q.Members = append(q.Members, memberState{Node: m.ReplicaID, Voter: true, End: m.LogEndOffset, Heard: m.LastFetchTimestamp})
	}
	for _, m := range p.Observers {
		q.Members = append(q.Members, memberState{Node: m.ReplicaID, End: m.LogEndOffset, Heard: m.LastFetchTimestamp})
	}
	for _, m := range q.Members {
		if m.Node == q.Leader {
			q.Now = m.Heard // the leader's row has its own time
		}
	}
	return q, nil
}

func (s *clusterState) countPartitions(topics kadm.TopicDetails) {
	nodes := map[int32]*nodeState{}
	for i := range s.Nodes {
		nodes[s.Nodes[i].ID] = &s.Nodes[i]
	}
	for _, t := range topics.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			s.Partitions++
			if n := nodes[p.Leader]; n != nil {
				n.Leads++
			}
			for _, r := range p.Replicas {
				if n := nodes[r]; n != nil {
					n.Replicas++
					if !slices.Contains(p.ISR, r) {
						n.Behind++
					}
				}
			}
			state := partitionState{Topic: t.Topic, Partition: p.Partition, Leader: p.Leader, Replicas: p.Replicas, ISR: p.ISR}
			switch {
			case p.Leader < 0:
				s.Offline = append(s.Offline, state)
			case len(p.ISR) < len(p.Replicas):
				s.Under = append(s.Under, state)
			}
			if p.Leader >= 0 && len(p.Replicas) > 0 && p.Replicas[0] != p.Leader {
				s.Misled++
			}
		}
	}
}

// print shows it on one screen.
func (s *clusterState) print(out io.Writer) error {
	fmt.Fprintf(out, "cluster %s, %s, %d nodes\n\n", s.ClusterID, s.controllerText(), len(s.Nodes))
	w := table(out, "NODE", "STATE", "METADATA", "RACK", "ADDRESS", "LEADS", "REPLICAS", "OUT OF SYNC")
	for _, n := range s.Nodes {
		state := "alive"
		if n.Fenced {
			state = "FENCED"
		}
		if n.Leaving {
			state += ", leaving"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", n.ID, state, s.memberText(n.ID), dash(n.Rack), n.Addr, n.Leads, n.Replicas, n.Behind)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d topics, %d partitions: %d under-replicated, %d offline, %d not led by their preferred replica\n",
		s.Topics, s.Partitions, len(s.Under), len(s.Offline), s.Misled)
	sick := append(slices.Clone(s.Offline), s.Under...)
	if len(sick) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	w = table(out, "PARTITION", "LEADER", "REPLICAS", "ISR")
	for _, p := range sick[:min(len(sick), sickMax)] {
		leader := strconv.Itoa(int(p.Leader))
		if p.Leader < 0 {
			leader = "NONE"
		}
		fmt.Fprintf(w, "%s-%d\t%s\t%v\t%v\n", p.Topic, p.Partition, leader, p.Replicas, p.ISR)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if more := len(sick) - sickMax; more > 0 {
		_, err := fmt.Fprintf(out, "and %d more; --json has all\n", more)
		return err
	}
	return nil
}

func (s *clusterState) controllerText() string {
	if s.Controller < 0 {
		return "NO CONTROLLER"
	}
	return fmt.Sprintf("controller %d", s.Controller)
}

// memberText says what a node is in the metadata's quorum.
func (s *clusterState) memberText(node int32) string {
	if s.Quorum == nil {
		return "-"
	}
	for _, m := range s.Quorum.Members {
		if m.Node != node {
			continue
		}
		what := "observer"
		if m.Voter {
			what = "voter"
		}
		behind := s.Quorum.HighWatermark - m.End
		ago, heard := s.Quorum.silence(m)
		switch {
		case node == s.Quorum.Leader:
			return "leader"
		case heard && ago > silentAfter:
			what += ", silent for " + ago.String()
		}
		if behind > 0 {
			what += fmt.Sprintf(", %d behind", behind)
		}
		return what
	}
	return "no member"
}

// silentAfter is when a member that was not heard of is worth a word; they are heard of several times a second.
const silentAfter = 2 * time.Second

// silence is for how long the leader has not heard of a member; false: it never has, or does not tell.
func (q *quorumState) silence(m memberState) (time.Duration, bool) {
	if m.Heard <= 0 || q.Now <= 0 {
		return 0, false
	}
	return time.Duration(max(0, q.Now-m.Heard)) * time.Millisecond, true
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
