// Package clients shows that unmodified clients work: kcat (librdkafka), franz-go and Apache Kafka's Java client each
// produce records with every codec, and each of them reads what each of the others wrote, both with partitions
// assigned and as a consumer group. Every byte of every record is compared.
package clients

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
	"weir/test/internal/weirproc"
)

const (
	partitions  = 4                // a divisor of 1,000,000
	clientLimit = 10 * time.Minute // bounds a hang of one produce or consume
)

var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// client is one Kafka client. Produce sends records 0..perPartition-1 of each partition in order. Consume passes what it
// receives to sink until it has count records; group "" means assigned partitions.
type client interface {
	name() string
	produce(ctx context.Context, addr, topic, codec string, source *records.Source, perPartition int64) error
	consume(ctx context.Context, addr, topic, group string, count int64, sink func(*records.Record) error) error
	// setsTimestamps: false where the client stamps records with its own clock and always sends the same headers.
	setsTimestamps() bool
}

func TestMain(m *testing.M) {
	code := m.Run()
	if !weirproc.Reference() {
		weirproc.RemoveBuilt()
	}
	os.Exit(code)
}

// recordCount is how many records each client produces with each codec.
func recordCount(t *testing.T) int64 {
	text := os.Getenv("WEIR_CLIENT_RECORDS")
	if text == "" {
		if testing.Short() {
			return 30_000
		}
		return 1_000_000
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < partitions {
		t.Fatalf("WEIR_CLIENT_RECORDS=%q: want a number of at least %d", text, partitions)
	}
	return n
}

func TestEveryClientReadsWhatEveryClientWrote(t *testing.T) {
	all := clients(t)
	broker := weirproc.Start(t, weirproc.Options{Config: map[string]string{"group.initial.rebalance.delay.ms": "0"}})
	admin := newAdmin(t, broker.Addr)
	perPartition := (recordCount(t) + partitions - 1) / partitions
	for _, codec := range codecs {
		for p, producer := range all {
			t.Run(codec+"/"+producer.name(), func(t *testing.T) {
				topic := "clients-" + codec + "-" + producer.name()
				createTopic(t, admin, topic, partitions)
				check := newChecker(producer, codec, perPartition)
				elapsed := timed(t, "produce with "+producer.name(), func(ctx context.Context) error {
					return producer.produce(ctx, broker.Addr, topic, codec, check.source(), perPartition)
				})
				check.stamped(time.Now())
				report := fmt.Sprintf("%d records: produced in %v", perPartition*partitions, elapsed.Round(time.Millisecond))
				for c, consumer := range all {
					group := ""
					if (p+c)%2 == 1 || c == p && len(all) == 1 {
						group = "group-" + topic + "-" + consumer.name()
					}
					elapsed := consumeChecked(t, broker.Addr, admin, topic, group, consumer, check)
					report += fmt.Sprintf(", read by %s in %v", consumer.name(), elapsed.Round(time.Millisecond))
				}
				t.Log(report)
				deleteTopic(t, admin, topic)
			})
		}
	}
}

func consumeChecked(t *testing.T, addr string, admin *kadm.Client, topic, group string, consumer client, check *checker) time.Duration {
	t.Helper()
	pass := check.pass()
	what := "consume with " + consumer.name() + ", partitions assigned"
	if group != "" {
		what = "consume with " + consumer.name() + " in group " + group
	}
	elapsed := timed(t, what, func(ctx context.Context) error {
		return consumer.consume(ctx, addr, topic, group, check.perPartition*partitions, pass.record)
	})
	if err := pass.complete(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if group != "" {
		requireCommitted(t, admin, group, topic, check.perPartition)
	}
	return elapsed
}

func timed(t *testing.T, what string, do func(context.Context) error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientLimit)
	defer cancel()
	start := time.Now()
	if err := do(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(start)
}

func newAdmin(t *testing.T, addr string) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RetryTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

func createTopic(t *testing.T, admin *kadm.Client, topic string, partitions int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := admin.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
}

func deleteTopic(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		t.Errorf("delete topic %s: %v", topic, err)
	}
}

func requireCommitted(t *testing.T, admin *kadm.Client, group, topic string, want int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	offsets, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		t.Fatalf("offsets of group %s: %v", group, err)
	}
	for p := range int32(partitions) {
		if o, ok := offsets.Lookup(topic, p); !ok || o.At != want {
			t.Errorf("group %s committed offset %d for %s-%d (known: %v), want %d", group, o.At, topic, p, ok, want)
		}
	}
}
