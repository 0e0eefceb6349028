// Package faults does to a broker what machines and networks do: kills it, fills its disk, sends it nonsense, cuts its
// connections, restarts it and leaves it alone. After each, what was acknowledged must be there.
package faults

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if !weirproc.Reference() {
		weirproc.RemoveBuilt()
	}
	os.Exit(code)
}

// quick are options for clients that meet brokers which go away and come back within a second.
func quick(addr string, more ...kgo.Opt) []kgo.Opt { return verify.Quick([]string{addr}, more...) }

// verifyLedger reads a topic from where the scans stand, and says what is around a record that is wrong.
func verifyLedger(t *testing.T, l *verify.Ledger, addr string, admin *kadm.Client, scans map[int32]*verify.Scan) {
	t.Helper()
	l.Verify(t, quick(addr), admin, scans, 0, func(r *kgo.Record) string { return verify.DumpBatches(t, addr, l.Topic, r.Partition, r.Offset) })
}

func newClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(quick(addr, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func newAdmin(t *testing.T, addr string) *kadm.Client {
	t.Helper()
	return kadm.NewClient(newClient(t, addr))
}

// limit is a context that bounds a hang; no test expects it to end.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func createTopics(t *testing.T, admin *kadm.Client, partitions int32, topics ...string) {
	t.Helper()
	resp, err := admin.CreateTopics(limit(t, time.Minute), partitions, 1, nil, topics...)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatalf("create topics %v: %v", topics, err)
	}
}

func deleteTopic(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	if _, err := admin.DeleteTopic(limit(t, time.Minute), topic); err != nil {
		t.Fatalf("delete topic %s: %v", topic, err)
	}
}

// endOffsets returns a topic's end offset per partition.
func endOffsets(t *testing.T, admin *kadm.Client, topic string) map[int32]int64 {
	t.Helper()
	ends, err := verify.ListEnds(admin, topic)
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

// each reads a partition from one offset up to another and calls fn with every record in order.
func each(t *testing.T, addr, topic string, partition int32, from, to int64, fn func(*kgo.Record) error) {
	t.Helper()
	verify.Each(t, quick(addr), topic, partition, from, to, fn)
}

// envInt reads a number from the environment.
func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// skipOnReference skips what only Weir promises.
func skipOnReference(t *testing.T) {
	t.Helper()
	if weirproc.Reference() {
		t.Skip("not asked of the reference")
	}
}

// eventually waits for a condition that the broker brings about in the background.
func eventually(t *testing.T, within time.Duration, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !met(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
