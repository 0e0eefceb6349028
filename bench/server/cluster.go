package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// MinInSync is min.insync.replicas of the topics of a cluster.
const MinInSync = 2

// Cluster is a running server of one or more nodes. What it costs is the sum over its processes.
type Cluster struct {
	Spec  Spec
	Nodes []*Instance
	dir   string
}

// placesOf finds places for n nodes: one on 127.0.0.1, one on 127.0.0.2, and so on, each with a directory of its own if there are several.
func placesOf(n int, dir string) ([]place, error) {
	all := make([]place, n)
	for i := range all {
		addrs, err := FreeAddrs("127.0.0."+strconv.Itoa(i+1), 3)
		if err != nil {
			return nil, err
		}
		all[i] = place{id: i + 1, dir: dir, addr: addrs[0], http: addrs[1], peer: addrs[2]}
		if n > 1 {
			all[i].dir = filepath.Join(dir, strconv.Itoa(i+1))
		}
	}
	for i := range all {
		all[i].all = all
	}
	return all, nil
}

// StartCluster starts all nodes of a server at once, in directories below dir, and waits until each of them knows all.
func StartCluster(ctx context.Context, spec Spec, dir string) (*Cluster, error) {
	places, err := placesOf(max(spec.Nodes, 1), dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Spec: spec, dir: dir}
	for _, p := range places {
		c.Nodes = append(c.Nodes, newInstance(spec, p))
	}
	// A node may wait for the others before it answers, so all run before the first is asked.
	err = c.each((*Instance).spawn)
	if err == nil {
		err = c.allOrNone(ctx, (*Instance).awaitReady)
	}
	if err == nil && len(c.Nodes) > 1 {
		err = c.allOrNone(ctx, func(i *Instance, ctx context.Context) error { return i.awaitNodes(ctx, len(c.Nodes)) })
	}
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("start %s: %w; its output:\n%s", spec.Name, err, c.Output())
	}
	return c, nil
}

// each does something with all nodes side by side.
func (c *Cluster) each(do func(*Instance) error) error {
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for n, i := range c.Nodes {
		wg.Go(func() {
			if err := do(i); err != nil {
				errs[n] = fmt.Errorf("node %d: %w", i.place.id, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// allOrNone waits for something of all nodes, and for none any more when one has failed.
func (c *Cluster) allOrNone(ctx context.Context, do func(*Instance, context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return c.each(func(i *Instance) error {
		err := do(i, ctx)
		if err != nil {
			cancel()
		}
		return err
	})
}

// awaitNodes asks until the node knows n brokers.
func (i *Instance) awaitNodes(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(i.Addr), kgo.RetryTimeout(time.Second))
	if err != nil {
		return fmt.Errorf("probe client: %w", err)
	}
	defer client.Close()
	known := 0
	for {
		// To this node, whatever the client learns of the others. Metadata of no topics.
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{}
		if resp, err := client.SeedBrokers()[0].Request(ctx, req); err == nil {
			if known = len(resp.(*kmsg.MetadataResponse).Brokers); known >= n {
				return nil
			}
		}
		select {
		case <-i.exited:
			return errors.New("it exited")
		case <-ctx.Done():
			return fmt.Errorf("it knows %d of %d brokers: %w", known, n, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Addrs are the nodes' addresses for clients.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, i := range c.Nodes {
		addrs = append(addrs, i.Addr)
	}
	return addrs
}

// Output is the end of what the nodes wrote.
func (c *Cluster) Output() string {
	var out strings.Builder
	for _, i := range c.Nodes {
		if i.output == nil {
			continue
		}
		if len(c.Nodes) > 1 {
			fmt.Fprintf(&out, "node %d:\n", i.place.id)
		}
		out.WriteString(i.Output())
	}
	return out.String()
}

// Stop asks all nodes to end and kills those that do not.
func (c *Cluster) Stop() {
	_ = c.each(func(i *Instance) error { // Stop has no error
		i.Stop()
		return nil
	})
}

// Discard ends a server whose data nobody wants any more.
func (c *Cluster) Discard() {
	if len(c.Nodes) > 1 { // a node that hands its leaderships over to one that ends as well takes its time
		c.kill()
		return
	}
	c.Stop()
}

// kill ends those that were started.
func (c *Cluster) kill() {
	_ = c.each(func(i *Instance) error {
		if i.cmd != nil {
			i.Kill()
		}
		return nil
	})
}

// RestartCold stops the server, drops its files from the page cache and starts it again where it was. It reports how the cache was dropped.
func (c *Cluster) RestartCold(ctx context.Context) (how string, err error) {
	c.Stop()
	if how, err = dropCache(c.dir); err != nil {
		return "", err
	}
	if err = c.each((*Instance).spawn); err == nil {
		err = c.each(func(i *Instance) error { return i.answers(ctx) })
	}
	return how, err
}

// Sample sums up the nodes' counters. The device is the same for all.
func (c *Cluster) Sample() (Sample, error) {
	var sum Sample
	for n, i := range c.Nodes {
		s, err := i.Sample()
		if err != nil {
			return sum, err
		}
		if n == 0 {
			sum = s
			continue
		}
		sum.CPU, sum.PeakRSS, sum.WriteBytes = sum.CPU+s.CPU, sum.PeakRSS+s.PeakRSS, sum.WriteBytes+s.WriteBytes
		sum.Switches += s.Switches
		for name, value := range s.Metrics {
			sum.Metrics[name] += value
		}
	}
	return sum, nil
}

// SaveProfile records all nodes' CPU for a time and writes one profile for each: <file>.pprof, or <file>-node1.pprof and so on.
func (c *Cluster) SaveProfile(file string, d time.Duration) error {
	return c.each(func(i *Instance) error {
		if len(c.Nodes) == 1 {
			return i.SaveProfile(file+".pprof", d)
		}
		return i.SaveProfile(fmt.Sprintf("%s-node%d.pprof", file, i.place.id), d)
	})
}
