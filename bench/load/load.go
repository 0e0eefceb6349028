package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Target is what a load runs against.
type Target struct {
	Addrs      []string // of the nodes
	Topic      string
	Partitions int32
	Replicas   int               // 0 is 1
	Configs    map[string]string // of the topic, where they are not the server's
	// MaxRate is the broker's measured maximum in messages per second, for loads that run at a share of it.
	MaxRate float64
}

// Load generates load until its context ends, which is no error. It returns nil earlier where it has a natural end.
type Load interface {
	Run(ctx context.Context, t Target, m *Meter) error
}

const leaderWait = 30 * time.Second

// CreateTopic makes the target's topic and waits until its partitions can serve.
func CreateTopic(ctx context.Context, t Target) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.Addrs...))
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	admin := kadm.NewClient(cl)
	configs := map[string]*string{}
	for key, value := range t.Configs {
		configs[key] = &value
	}
	resp, err := admin.CreateTopics(ctx, t.Partitions, int16(max(t.Replicas, 1)), configs, t.Topic)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		return fmt.Errorf("create topic %s: %w", t.Topic, err)
	}
	return awaitLeaders(ctx, admin, t)
}

// leaders are the addresses of those who lead the target's partitions.
func leaders(ctx context.Context, t Target) ([]string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.Addrs...))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	meta, err := kadm.NewClient(cl).Metadata(ctx, t.Topic)
	if err != nil {
		return nil, fmt.Errorf("who leads %s: %w", t.Topic, err)
	}
	nodes := map[int32]string{}
	for _, b := range meta.Brokers {
		nodes[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	addrs := make([]string, t.Partitions)
	for p := range addrs {
		part := meta.Topics[t.Topic].Partitions[int32(p)]
		if addrs[p] = nodes[part.Leader]; part.Err != nil || addrs[p] == "" {
			return nil, fmt.Errorf("who leads %s-%d: node %d is not among %d brokers: %w", t.Topic, p, part.Leader, len(nodes), errors.Join(part.Err, errNoLeader))
		}
	}
	return addrs, nil
}

var errNoLeader = errors.New("no leader to connect to")

// awaitLeaders waits until all partitions serve: Apache Kafka answers a creation before the leaders know that they lead.
func awaitLeaders(ctx context.Context, admin *kadm.Client, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	for {
		listed, err := admin.ListEndOffsets(ctx, t.Topic)
		if err == nil {
			err = listed.Error()
		}
		if err == nil && len(listed[t.Topic]) == int(t.Partitions) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topic %s cannot serve after it was made: %d of %d partitions: %w", t.Topic, len(listed[t.Topic]), t.Partitions, errors.Join(err, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// values are records' values that do not compress, shared by all who send.
type values struct {
	block []byte
	size  int
}

func newValues(size int) values {
	v := values{block: make([]byte, 4<<20+size), size: size}
	_, _ = newRand(uint64(size)).Read(v.block) // never fails
	return v
}

// at is the n-th value; neighbours overlap by nothing that a codec would find.
func (v values) at(n int) []byte {
	from := n * 8191 % (len(v.block) - v.size)
	return v.block[from : from+v.size : from+v.size]
}

func newRand(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(key)
}

// group runs goroutines that stop together: the first error ends all.
type group struct {
	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newGroup(ctx context.Context) *group {
	ctx, cancel := context.WithCancelCause(ctx)
	return &group{ctx: ctx, cancel: cancel}
}

func (g *group) run(fn func(ctx context.Context) error) {
	g.wg.Go(func() {
		if err := fn(g.ctx); err != nil {
			g.cancel(err)
		}
	})
}

// stop ends the goroutines and waits for them.
func (g *group) stop() error {
	g.cancel(nil)
	return g.wait()
}

// wait returns the first error. That the caller's context ended is none.
func (g *group) wait() error {
	g.wg.Wait()
	err := context.Cause(g.ctx)
	g.cancel(nil)
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
