package replica

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/vfs"
	"weir/raftmeta"
)

// series gathers the metrics of a collector as "name{label,label} value" lines, sorted.
func series(t *testing.T, m *Manager) (lines []string) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newCollector(m))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, v := range f.Metric {
			var labels []string
			for _, l := range v.Label {
				labels = append(labels, l.GetValue())
			}
			lines = append(lines, fmt.Sprintf("%s{%s} %g", strings.TrimPrefix(f.GetName(), "weir_replica_"), strings.Join(labels, ","),
				v.GetGauge().GetValue()+v.GetCounter().GetValue()))
		}
	}
	slices.Sort(lines)
	return lines
}

func TestLogMetrics(t *testing.T) {
	batch := valuesBatch(t, "x", "y")
	size := len(batch)
	for _, partitions := range []string{"false", "true"} {
		n := openNodeOn(t, vfs.NewMem(), "/data", map[string]string{
			"io.engine": "portable", "metrics.topics.max": "2", "metrics.partitions.enable": partitions,
		})
		for i, name := range []string{"d", "c", "b", "a"} {
			n.propose(raftmeta.CreateTopic{Name: name, Partitions: 2})
			for range i {
				n.mustAppend(n.ByName(name, 1), valuesBatch(t, "x", "y"))
			}
		}
		if _, err := n.deleteRecords(3, n.ByName("a", 1)); err != nil {
			t.Fatal(err)
		}
		want := []string{
			fmt.Sprintf("topic_log_size_bytes{(other)} %d", size), fmt.Sprintf("topic_log_size_bytes{a} %d", 3*size), fmt.Sprintf("topic_log_size_bytes{b} %d", 2*size),
			"topic_log_segments{(other)} 4", "topic_log_segments{a} 2", "topic_log_segments{b} 2",
			"topic_log_offsets{(other)} 2", "topic_log_offsets{a} 3", "topic_log_offsets{b} 4",
			"topic_log_end_offsets_total{(other)} 2", "topic_log_end_offsets_total{a} 6", "topic_log_end_offsets_total{b} 4",
		}
		if partitions == "true" {
			for i, name := range []string{"d", "c", "b", "a"} {
				start := 0
				if name == "a" {
					start = 3
				}
				want = append(want,
					fmt.Sprintf("partition_log_size_bytes{0,%s} 0", name), fmt.Sprintf("partition_log_size_bytes{1,%s} %d", name, i*size),
					fmt.Sprintf("partition_log_start_offset{0,%s} 0", name), fmt.Sprintf("partition_log_start_offset{1,%s} %d", name, start),
					fmt.Sprintf("partition_high_watermark{0,%s} 0", name), fmt.Sprintf("partition_high_watermark{1,%s} %d", name, 2*i),
					fmt.Sprintf("partition_log_end_offset{0,%s} 0", name), fmt.Sprintf("partition_log_end_offset{1,%s} %d", name, 2*i))
			}
		}
		slices.Sort(want)
		if got := series(t, n.Manager); !slices.Equal(got, want) {
			t.Errorf("partitions %s:\n%s\nwant\n%s", partitions, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		n.close()
	}
}
