package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"weir/internal/budget"
	"weir/netproto"
	"weir/raftmeta"
)

// A topic can be used once the brokers that lead its partitions know of it. So the controller asks them, all at the same time, to say when they have
// applied the change, before it answers who created the topic. It does not wait for a broker that is slow: the topic exists all the same,
// and clients who come too early ask again.

// settleMax bounds the wait for the leaders of new partitions.
const settleMax = time.Second

const awaitMetadataVersion = 0

// Answers to KeyAwaitMetadata, whose request is a version of the metadata (int64) and how long to wait for it (ms, int32).
const (
	awaitApplied = 0
	awaitLate    = 1
)

// settle waits until the brokers that lead the partitions of new topics have applied the metadata up to now.
func (b *Broker) settle(ctx context.Context, results []raftmeta.Result) {
	if !b.clustered() {
		return
	}
	defer b.lap(ctx, budget.Settle)
	leaders := leadersOf(results, b.cfg.NodeID)
	if len(leaders) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	version := b.meta.Image().Version
	done := make(chan error, len(leaders))
	for _, node := range leaders {
		b.peers.Start(ctx, node, netproto.ClassControl, netproto.KeyAwaitMetadata, awaitMetadataVersion, awaitRequest(version, settleMax),
			func(r *netproto.PeerResponse, err error) { done <- awaitAnswer(node, r, err) })
	}
	for range leaders {
		select {
		case err := <-done:
			if err != nil {
				b.log.Info("the leader of new partitions may not serve them yet", "version", version, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// leadersOf are the nodes, but for self, that lead partitions of the topics in results.
func leadersOf(results []raftmeta.Result, self int32) []int32 {
	var leaders []int32
	seen := map[int32]bool{self: true, -1: true}
	for i := range results {
		if results[i].Topic == nil {
			continue
		}
		for _, p := range results[i].Topic.Partitions {
			if !seen[p.Leader] {
				seen[p.Leader] = true
				leaders = append(leaders, p.Leader)
			}
		}
	}
	slices.Sort(leaders)
	return leaders
}

func awaitRequest(version uint64, wait time.Duration) []byte {
	b := binary.BigEndian.AppendUint64(nil, version)
	return binary.BigEndian.AppendUint32(b, uint32(wait.Milliseconds()))
}

func awaitAnswer(node int32, r *netproto.PeerResponse, err error) error {
	if err != nil {
		return err
	}
	defer r.Release()
	if len(r.Body) != 1 || r.Body[0] != awaitApplied {
		return fmt.Errorf("node %d: %w", node, errNotReady)
	}
	return nil
}

// serveAwait answers when this node has applied a version of the metadata.
func (b *Broker) serveAwait(ctx context.Context, body []byte) []byte {
	r := reader{b: body}
	version, wait := r.uint64(), time.Duration(int32(r.uint32()))*time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, min(max(wait, 0), b.requestTimeout()))
	defer cancel()
	if r.short || b.meta.Await(ctx, version) != nil {
		return []byte{awaitLate}
	}
	return []byte{awaitApplied}
}
