package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/coordinator/group"
	"weir/internal/config"
	"weir/internal/record"
	"weir/raftmeta"
	"weir/replica"
)

// offsetsTopic is where groups and their offsets are stored, under Kafka's name and in Kafka's format.
const offsetsTopic = "__consumer_offsets"

// offsetsStorage stores the group coordinator's records in __consumer_offsets (group.Storage).
type offsetsStorage struct {
	parts *replica.Manager
	waits *commitWaits
	roles *groupRoles
}

// Append writes records as one batch, for which this node must lead the partition in that epoch. done is called once, when they are on all in-sync
// replicas' disks (on the WAL's thread, in the order of the appends to the partition) or, before Append returns, if they were refused.
func (s offsetsStorage) Append(partition, epoch int32, records []record.Record, done func(error)) {
	if err := s.append(partition, epoch, records, done); err != nil {
		done(groupError(err))
	}
}

func (s offsetsStorage) append(partition, epoch int32, records []record.Record, done func(error)) error {
	p, err := s.find(partition, epoch)
	if err != nil {
		return err
	}
	b, err := record.Build(record.NewSpec(), records)
	if err != nil {
		return fmt.Errorf("%s-%d: %w", offsetsTopic, partition, err)
	}
	if err := s.parts.TryReserveKept(len(b)); err != nil {
		return err
	}
	s.waits.begin(p, replica.Append{Batch: b, AcksAll: true, Fenced: true, Epoch: epoch}, done)
	return nil
}

// groupError adds what the coordinator tells apart. What is left, too few replicas or no answer of theirs in time, passes: clients try again.
func groupError(err error) error {
	switch {
	case errors.Is(err, replica.ErrNotHere), errors.Is(err, replica.ErrNotLeader), errors.Is(err, replica.ErrStorage):
		return fmt.Errorf("%w: %w", group.ErrNotLeader, err)
	case errors.Is(err, replica.ErrTooLarge):
		return fmt.Errorf("%w: %w", group.ErrTooLarge, err)
	}
	return err
}

// Load hands out all records of a partition, oldest first, and waits until all of them are committed: an offset that is told to a client must not
// be gone again when the next leader was not in sync.
func (s offsetsStorage) Load(partition, epoch int32, fn func(*record.Record) error) error {
	p, err := s.find(partition, epoch)
	if err != nil {
		return groupError(err)
	}
	end := p.End() // nobody else appends
	err = p.ReadAll(func(b record.Batch) error {
		if err := errors.Join(s.roles.ctx.Err(), leads(p, epoch)); err != nil {
			return groupError(err) // nobody waits for it any more
		}
		if b.IsControl() {
			return nil
		}
		var failed error
		err := b.Each(func(r *record.Record) bool {
			failed = fn(r)
			return failed == nil
		})
		return errors.Join(failed, err)
	})
	if err != nil {
		return err
	}
	return s.committed(p, epoch, end)
}

// loadWaitMax bounds how long a load waits for the in-sync replicas to have what was read. After it the load has failed, which is said, and begins anew.
const loadWaitMax = 30 * time.Second

// committed waits until the high watermark has reached end.
func (s offsetsStorage) committed(p *replica.Partition, epoch int32, end int64) error {
	if p.HighWatermark() >= end {
		return nil
	}
	woken := make(chan struct{}, 1)
	w := replica.Waiter{Wake: func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}}
	p.Wait(&w)
	defer w.Stop()
	late := make(chan struct{})
	timer := s.roles.b.clk.AfterFunc(loadWaitMax, func() { close(late) })
	defer timer.Stop()
	for {
		if err := leads(p, epoch); err != nil {
			return groupError(err)
		}
		if p.HighWatermark() >= end {
			return nil
		}
		select {
		case <-woken:
		case <-late:
			return fmt.Errorf("%s-%d: the high watermark is %d of %d after %v, %d replicas are in sync", offsetsTopic, p.Index(), p.HighWatermark(), end, loadWaitMax, len(p.ISR()))
		case <-s.roles.ctx.Done():
			return s.roles.ctx.Err()
		}
	}
}

// find returns the partition, which this node must lead in that epoch.
func (s offsetsStorage) find(partition, epoch int32) (*replica.Partition, error) {
	p := s.parts.ByName(offsetsTopic, partition)
	if p == nil {
		return nil, fmt.Errorf("%w: %s-%d", replica.ErrNotHere, offsetsTopic, partition)
	}
	return p, leads(p, epoch)
}

func leads(p *replica.Partition, epoch int32) error {
	switch leader, now := p.Leader(); {
	case p.Closed():
		return fmt.Errorf("%w: %s-%d", replica.ErrNotHere, p.Topic(), p.Index())
	case !p.IsLeader() || now != epoch:
		return fmt.Errorf("%w: %s-%d in epoch %d: broker %d leads it in epoch %d", replica.ErrNotLeader, p.Topic(), p.Index(), epoch, leader, now)
	}
	return nil
}

// openGroups starts the group coordinator. It has a shard for each partition of __consumer_offsets, as many as the topic has or will be
// created with; a shard serves when its partition was loaded.
func (b *Broker) openGroups(reg prometheus.Registerer) {
	partitions := b.cfg.OffsetsTopicNumPartitions
	if t := b.meta.Image().Topic(offsetsTopic); t != nil {
		partitions = int32(len(t.Partitions))
	}
	b.commits.clk, b.commits.limit = b.clk, config.Millis(b.cfg.OffsetsCommitTimeoutMs)
	b.groups = group.New(group.Options{
		Storage: offsetsStorage{b.parts, &b.commits, &b.groupRoles}, Partitions: partitions,
		SessionTimeoutMin:      config.Millis(b.cfg.GroupMinSessionTimeoutMs),
		SessionTimeoutMax:      config.Millis(b.cfg.GroupMaxSessionTimeoutMs),
		InitialRebalanceDelay:  config.Millis(b.cfg.GroupInitialRebalanceDelayMs),
		GroupSizeMax:           b.cfg.GroupMaxSize,
		OffsetMetadataMax:      b.cfg.OffsetMetadataMaxBytes,
		OffsetsRetention:       time.Duration(b.cfg.OffsetsRetentionMinutes) * time.Minute,
		RetentionCheckInterval: config.Millis(b.cfg.OffsetsRetentionCheckIntervalMs),
		Clock:                  b.clk, Logger: b.log, Metrics: group.NewMetrics(reg), Locks: b.locks,
	})
	b.groupRoles.start(b)
	b.unsubGroups = b.meta.Subscribe(b.followGroups)
}

// followGroups forgets the offsets of topics that go. It subscribes after the partitions' manager, so a partition that it sees is open, and
// its role was told; that of an offsets topic that took the place of another is told again, when the old one's epochs are forgotten.
func (b *Broker) followGroups(_ *raftmeta.Image, d *raftmeta.Delta) {
	for _, t := range d.Deleted {
		b.groups.TopicDeleted(t.Name, t.ID)
		if t.Name == offsetsTopic {
			for i := range t.Partitions {
				b.groups.Forget(int32(i))
			}
		}
	}
	for _, t := range d.Created {
		if t.Name != offsetsTopic {
			continue
		}
		for i := range t.Partitions {
			if p := b.parts.Partition(t.ID, int32(i)); p != nil && p.IsLeader() {
				_, epoch := p.Leader()
				b.onRole(p, true, epoch)
			}
		}
	}
}

// closeGroups answers what waits in the coordinator and ends its timers.
func (b *Broker) closeGroups() {
	b.unsubGroups()
	b.groupRoles.stop()
	b.groups.Close()
	b.loading.Wait()
	b.commits.close()
}
