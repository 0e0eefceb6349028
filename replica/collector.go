package replica

import (
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// otherTopics stands for the topics beyond metrics.topics.max; no topic can have this name.
const otherTopics = "(other)"

// collector tells the size and the extent of the logs when metrics are read. It touches memory only. Series are bounded: per topic, for the first
// metrics.topics.max of them by name, the rest taken together; per partition only with metrics.partitions.enable.
type collector struct {
	m          *Manager
	topicsMax  int
	partitions bool

	topicBytes, topicSegments, topicRecords, topicEnd *prometheus.Desc
	bytes, logStart, highWatermark, logEnd            *prometheus.Desc
}

func newCollector(m *Manager) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("weir_replica_"+name, help, labels, nil)
	}
	return &collector{
		m: m, topicsMax: m.cfg.MetricsTopicsMax, partitions: m.cfg.MetricsPartitions,
		topicBytes:    desc("topic_log_size_bytes", "Size of the topic's logs on this node, unflushed bytes included.", "topic"),
		topicSegments: desc("topic_log_segments", "Segments of the topic's logs on this node.", "topic"),
		topicRecords:  desc("topic_log_offsets", "Offsets between log start and log end, over the topic's partitions on this node.", "topic"),
		topicEnd:      desc("topic_log_end_offsets_total", "Sum of the log end offsets of the topic's partitions on this node: its growth is what was appended.", "topic"),
		bytes:         desc("partition_log_size_bytes", "Size of the partition's log, unflushed bytes included.", "topic", "partition"),
		logStart:      desc("partition_log_start_offset", "First offset of the partition's log.", "topic", "partition"),
		highWatermark: desc("partition_high_watermark", "Offset up to which consumers see the partition.", "topic", "partition"),
		logEnd:        desc("partition_log_end_offset", "Offset of the next record of the partition.", "topic", "partition"),
	}
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.topicBytes, c.topicSegments, c.topicRecords, c.topicEnd} {
		out <- d
	}
	if c.partitions {
		for _, d := range []*prometheus.Desc{c.bytes, c.logStart, c.highWatermark, c.logEnd} {
			out <- d
		}
	}
}

// extent is what logs have together.
type extent struct{ bytes, segments, offsets, end int64 }

// Collect is prometheus.Collector's.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	var rest extent
	topics := c.m.topicsByName()
	for i, t := range topics {
		var sum extent
		for _, p := range t.partitions {
			if p == nil {
				continue
			}
			c.partition(out, p, &sum)
		}
		if i >= c.topicsMax {
			rest.add(sum)
			continue
		}
		c.topic(out, t.name, sum)
	}
	if len(topics) > c.topicsMax {
		c.topic(out, otherTopics, rest)
	}
}

func (e *extent) add(x extent) {
	e.bytes += x.bytes
	e.segments += x.segments
	e.offsets += x.offsets
	e.end += x.end
}

func (c *collector) topic(out chan<- prometheus.Metric, name string, e extent) {
	gauge := func(d *prometheus.Desc, v int64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), name)
	}
	gauge(c.topicBytes, e.bytes)
	gauge(c.topicSegments, e.segments)
	gauge(c.topicRecords, e.offsets)
	out <- prometheus.MustNewConstMetric(c.topicEnd, prometheus.CounterValue, float64(e.end), name)
}

// partition adds p to its topic's sum and, if wanted, tells it by itself.
func (c *collector) partition(out chan<- prometheus.Metric, p *Partition, sum *extent) {
	// The start is read first: it never passes the end.
	start, bytes, segments, end := p.LogStart(), p.Size(), p.log.Segments(), p.End()
	sum.add(extent{bytes: bytes, segments: int64(segments), offsets: end - start, end: end})
	if !c.partitions {
		return
	}
	index := strconv.Itoa(int(p.index))
	gauge := func(d *prometheus.Desc, v int64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), p.topic, index)
	}
	gauge(c.bytes, bytes)
	gauge(c.logStart, start)
	gauge(c.highWatermark, p.HighWatermark())
	gauge(c.logEnd, end)
}

// topicsByName lists the topics as they are now.
func (m *Manager) topicsByName() []*topicState {
	m.mu.RLock()
	topics := make([]*topicState, 0, len(m.mu.byName))
	for _, t := range m.mu.byName {
		topics = append(topics, t)
	}
	m.mu.RUnlock()
	slices.SortFunc(topics, func(a, b *topicState) int { return strings.Compare(a.name, b.name) })
	return topics
}
