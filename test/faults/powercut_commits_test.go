package faults

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kadm"
)

const (
	commitTopic      = "committed"
	commitPartitions = 3
	commitGroups     = 4
)

// cutCommits commits offsets for groups, deletes groups, and remembers what was acknowledged.
type cutCommits struct {
	admin     *kadm.Client
	registers map[string]*register // by group and partition
	next      int64
	count     atomic.Int64 // commits acknowledged
}

func newCutCommits() *cutCommits {
	c := &cutCommits{registers: map[string]*register{}}
	for g := range commitGroups {
		for p := range int32(commitPartitions) {
			name := c.name(g, p)
			c.registers[name] = &register{name: "the committed offset of " + name}
		}
	}
	return c
}

func (c *cutCommits) group(g int) string { return "group-" + strconv.Itoa(g) }

func (c *cutCommits) name(g int, partition int32) string {
	return fmt.Sprintf("%s for partition %d", c.group(g), partition)
}

// start commits until stop.
func (c *cutCommits) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c.next++
			if c.next%10 == 0 {
				c.delete(ctx, int(c.next/10)%commitGroups)
			} else {
				c.commit(ctx, int(c.next)%commitGroups)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// valueOf is what a register holds for an offset and its metadata.
func valueOf(offset int64, metadata string) string { return fmt.Sprintf("%d (%s)", offset, metadata) }

func (c *cutCommits) commit(ctx context.Context, g int) {
	metadata := fmt.Sprintf("commit %d", c.next)
	offsets := kadm.Offsets{}
	for p := range int32(commitPartitions) {
		offsets.Add(kadm.Offset{Topic: commitTopic, Partition: p, At: c.next*10 + int64(p), LeaderEpoch: -1, Metadata: metadata})
		c.registers[c.name(g, p)].begin(valueOf(c.next*10+int64(p), metadata))
	}
	resp, err := c.admin.CommitOffsets(ctx, c.group(g), offsets)
	if err != nil {
		return
	}
	for p := range int32(commitPartitions) {
		if r, ok := resp.Lookup(commitTopic, p); ok && r.Err == nil {
			c.registers[c.name(g, p)].settle(valueOf(r.At, r.Metadata))
			c.count.Add(1)
		}
	}
}

func (c *cutCommits) delete(ctx context.Context, g int) {
	for p := range int32(commitPartitions) {
		c.registers[c.name(g, p)].begin("")
	}
	if resp, err := c.admin.DeleteGroup(ctx, c.group(g)); err != nil || resp.Err != nil {
		return
	}
	for p := range int32(commitPartitions) {
		c.registers[c.name(g, p)].settle("")
	}
}

func (c *cutCommits) verify(ctx context.Context) error {
	for g := range commitGroups {
		fetched, err := c.admin.FetchOffsets(ctx, c.group(g))
		if err != nil {
			return fmt.Errorf("offsets of %s: %w", c.group(g), err)
		}
		for p := range int32(commitPartitions) {
			value := ""
			if r, ok := fetched.Lookup(commitTopic, p); ok && r.At >= 0 {
				if r.Err != nil {
					return fmt.Errorf("offsets of %s, partition %d: %w", c.group(g), p, r.Err)
				}
				value = valueOf(r.At, r.Metadata)
			}
			if err := c.registers[c.name(g, p)].see(value); err != nil {
				return err
			}
		}
	}
	return nil
}
