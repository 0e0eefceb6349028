package broker

import (
	"context"
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
type offsetsStorage struct{ parts *replica.Manager }

// Append writes records as one batch. done is called once, when they are durable (on the WAL's thread, in the order of the
// appends to the partition) or, before Append returns, if they were refused.
func (s offsetsStorage) Append(partition int32, records []record.Record, done func(error)) {
	if err := s.append(partition, records, done); err != nil {
		done(groupError(err))
	}
}

func (s offsetsStorage) append(partition int32, records []record.Record, done func(error)) error {
	p, err := s.find(partition)
	if err != nil {
		return err
	}
	b, err := record.Build(record.NewSpec(), records)
	if err != nil {
		return fmt.Errorf("%s-%d: %w", offsetsTopic, partition, err)
	}
	if err := s.parts.TryReserve(len(b)); err != nil {
		return err
	}
	p.Append(&replica.Append{Batch: b, Done: func(a *replica.Append) { done(groupError(a.Err)) }})
	return nil
}

// groupError adds what the coordinator tells apart.
func groupError(err error) error {
	switch {
	case errors.Is(err, replica.ErrNotHere), errors.Is(err, replica.ErrStorage):
		return fmt.Errorf("%w: %w", group.ErrNotLeader, err)
	case errors.Is(err, replica.ErrTooLarge):
		return fmt.Errorf("%w: %w", group.ErrTooLarge, err)
	}
	return err
}

// Load hands out all records of a partition, oldest first.
func (s offsetsStorage) Load(partition int32, fn func(*record.Record) error) error {
	p, err := s.find(partition)
	if err != nil {
		return err
	}
	return p.ReadAll(func(b record.Batch) error {
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
}

func (s offsetsStorage) find(partition int32) (*replica.Partition, error) {
	p := s.parts.ByName(offsetsTopic, partition)
	if p == nil {
		return nil, fmt.Errorf("%w: %s-%d", replica.ErrNotHere, offsetsTopic, partition)
	}
	return p, nil
}

// ensureOffsetsTopic creates __consumer_offsets if it is missing. When it returns nil the topic can be written.
func (b *Broker) ensureOffsetsTopic(ctx context.Context) error {
	if b.meta.Image().Topic(offsetsTopic) != nil {
		return nil
	}
	results, err := b.meta.Propose(ctx, raftmeta.CreateTopic{
		Name: offsetsTopic, Partitions: b.cfg.OffsetsTopicNumPartitions, Internal: true,
		ReplicationFactor: int16(b.cfg.OffsetsTopicReplicationFactor),
		Configs: map[string]string{
			"cleanup.policy": "compact", "compression.type": "producer",
			"segment.bytes": fmt.Sprint(b.cfg.OffsetsTopicSegmentBytes),
		},
	})
	if err == nil {
		err = results[0].Err
	}
	if err != nil && !errors.Is(err, raftmeta.ErrTopicExists) {
		return fmt.Errorf("create %s: %w", offsetsTopic, err)
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
	b.groups = group.New(group.Options{
		Storage: offsetsStorage{b.parts}, Partitions: partitions,
		SessionTimeoutMin:      config.Millis(b.cfg.GroupMinSessionTimeoutMs),
		SessionTimeoutMax:      config.Millis(b.cfg.GroupMaxSessionTimeoutMs),
		InitialRebalanceDelay:  config.Millis(b.cfg.GroupInitialRebalanceDelayMs),
		GroupSizeMax:           b.cfg.GroupMaxSize,
		OffsetMetadataMax:      b.cfg.OffsetMetadataMaxBytes,
		OffsetsRetention:       time.Duration(b.cfg.OffsetsRetentionMinutes) * time.Minute,
		RetentionCheckInterval: config.Millis(b.cfg.OffsetsRetentionCheckIntervalMs),
		Clock:                  b.clk, Logger: b.log, Metrics: group.NewMetrics(reg),
	})
	b.unsubGroups = b.meta.Subscribe(b.followGroups)
}

// followGroups loads the partitions of __consumer_offsets that appear, and forgets the offsets of topics that go. It subscribes
// after the partitions' manager, so a partition that it sees is open.
func (b *Broker) followGroups(_ *raftmeta.Image, d *raftmeta.Delta) {
	for _, t := range d.Created {
		if t.Name != offsetsTopic {
			continue
		}
		for i := range t.Partitions {
			b.loading.Go(func() {
				if err := b.groups.Load(int32(i)); err != nil {
					b.log.Error("groups cannot be loaded", "topic", offsetsTopic, "partition", i, "err", err)
				}
			})
		}
	}
	for _, t := range d.Deleted {
		b.groups.TopicDeleted(t.Name, t.ID)
	}
}

// closeGroups answers what waits in the coordinator and ends its timers.
func (b *Broker) closeGroups() {
	b.unsubGroups()
	b.groups.Close()
	b.loading.Wait()
}
