package scale

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"weir/test/internal/weirproc"
)

// TestFewDescriptors: with a limit of open files far below the number of partitions the broker says so, and serves.
func TestFewDescriptors(t *testing.T) {
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Skip("NOT TESTED: prlimit is not installed")
	}
	const files = 256
	broker := weirproc.Start(t, weirproc.Options{
		Prefix: []string{prlimit, fmt.Sprintf("--nofile=%d:%d", files, files), "--"},
		Config: map[string]string{"log.writeback.ms": "200"},
	})
	if out := broker.Logs().Tail(100); !strings.Contains(out, "LimitNOFILE") {
		t.Errorf("no advice about the limit of open files in:\n%s", out)
	}
	c := connect(t, broker)
	const topics = 5
	names := make([]string, topics)
	for i := range names {
		names[i] = topicName(i)
	}
	if err := createTopics(c, names, perTopic, nil); err != nil {
		t.Fatal(err)
	}
	f := newFleet(broker.Addr, topics)
	for range 3 {
		if err := f.run(sweep{connections: 4, valueBytes: 1 << 10, perRequest: 50, rounds: 4}); err != nil {
			t.Fatal(err)
		}
	}
	// More connections than there is room for: they are refused, and the broker goes on.
	for range 2 * files {
		if extra, err := dial(broker.Addr); err == nil {
			defer extra.Close()
		}
	}
	broker.Kill()
	if err := broker.Launch(); err != nil {
		t.Fatal(err)
	}
	f.requireAll(t, offsets{connect(t, broker)})
	for topic := range topics {
		if err := readWhole(t, broker.Addr, topic, 17, f.acked[topic][17].Load()); err != nil {
			t.Errorf("%s: %v", topicName(topic), err)
		}
	}
	if err := broker.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}
