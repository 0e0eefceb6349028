package raftmeta

import (
	"context"
	"fmt"
	"path"
)

// The cluster's id is invented by its first controller and replicated as any other change. A node that is new writes it into its
// meta.properties when it applies it, before it says that it is ready: from then on it takes part in no other cluster. A node
// alone invents it at its first start.

// watch is the Meta's own subscription.
func (m *Meta) watch(img *Image, d *Delta) {
	if d.ClusterID && img.ClusterID != "" {
		if err := m.checkCluster(img.ClusterID); err != nil {
			m.poison(fmt.Errorf("%w: %w", ErrPoisoned, err))
			return
		}
		notify(m.named)
	}
	if len(d.Brokers) > 0 && m.Leading() {
		notify(m.office.registered)
	}
}

// checkCluster compares the cluster's id with that of the directory.
func (m *Meta) checkCluster(id string) error {
	if own := m.ClusterID(); id != "" && own != "" && id != own {
		return fmt.Errorf("%w: %s says cluster.id=%s, the metadata is of %s", ErrWrongCluster, propertiesName, own, id)
	}
	return nil
}

// identify waits for the cluster's id and writes it down. It runs apart from raft, which must not wait for the disk.
func (m *Meta) identify() {
	defer m.wg.Done()
	select {
	case <-m.named:
	case <-m.failed:
		return
	case <-m.closing:
		return
	}
	if m.ClusterID() != "" { // written down in a former life; that it is applied again may be the last thing that Ready waits for
		notify(m.settled)
		return
	}
	p := properties{nodeID: m.o.NodeID, clusterID: m.Image().ClusterID}
	if err := m.disk.write(path.Join(m.o.Dir, propertiesName), []byte(p.String())); err != nil {
		m.poison(fmt.Errorf("%w: %w", ErrPoisoned, err))
		return
	}
	m.cluster.Store(&p.clusterID)
	m.o.Logger.Info("this node belongs to a cluster now", "node", m.o.NodeID, "cluster", p.clusterID)
	notify(m.settled)
}

// claimCluster gives a new cluster its id.
func (m *Meta) claimCluster() error {
	own := m.ClusterID()
	switch id := m.Image().ClusterID; {
	case id != "" && (own == "" || own == id):
		return nil
	case id == "":
		if own == "" {
			own = m.o.ClusterID
		}
		if own == "" {
			own = FormatID(NewID())
		}
		results, err := m.Propose(context.Background(), SetClusterID{ID: own})
		if err != nil {
			return err
		}
		return results[0].Err
	default:
		return m.Poisoned() // watch has seen it
	}
}

// Ready waits until the metadata can be used. A node alone: until it leads, has applied its log and the cluster has its id. In a
// cluster: until a controller is known and the cluster's id is applied and written down here; the rest of the log may still come,
// see Await.
func (m *Meta) Ready(ctx context.Context) error {
	select {
	case <-m.ready:
		return nil
	default:
	}
	select {
	case <-m.ready:
		return nil
	case <-m.failed:
		return m.Poisoned()
	case <-m.closing:
		return ErrClosed
	case <-ctx.Done():
		err := fmt.Errorf("metadata is not ready: %w (raft is %s)", ctx.Err(), m.raft().State())
		if wrong := m.trans.stranger(); wrong != nil {
			err = fmt.Errorf("%w: %w", err, wrong)
		}
		return err
	}
}

// checkReady opens Ready once it is due.
func (m *Meta) checkReady() {
	select {
	case <-m.ready:
		return
	default:
	}
	img := m.Image()
	due := m.Leading()
	if m.o.Sender != nil {
		due = img.ControllerID != -1 && img.ClusterID != "" && img.ClusterID == m.ClusterID()
	}
	if due {
		close(m.ready)
		m.o.Logger.Info("metadata is ready", "node", m.o.NodeID, "cluster", m.ClusterID(), "controller", img.ControllerID,
			"version", img.Version, "topics", img.NumTopics())
	}
}

// Await waits until Image().Version is at least version, and all subscribers have run.
func (m *Meta) Await(ctx context.Context, version uint64) error {
	w, err := m.pub.wait(version)
	if err != nil || w == nil {
		return err
	}
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-m.failed:
		err = m.Poisoned()
	case <-m.closing:
		err = ErrClosed
	}
	m.pub.giveUp(w)
	return fmt.Errorf("wait for metadata version %d, have %d: %w", version, m.Image().Version, err)
}
