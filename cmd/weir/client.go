package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/config"
)

const defaultBrokers = "127.0.0.1:9092"

// cluster is how the client commands find the brokers.
type cluster struct {
	brokers string
	timeout time.Duration
}

func (c *cluster) flags(f *pflag.FlagSet) {
	def := defaultBrokers
	if env := os.Getenv("WEIR_BROKERS"); env != "" {
		def = env
	}
	f.StringVar(&c.brokers, "brokers", def, "addresses of brokers, comma-separated; also WEIR_BROKERS")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait for the brokers")
}

// connect makes a client and checks that a broker answers, so that a wrong address is said at once and not retried.
func (c *cluster) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(c.brokers, ",")...),
		kgo.ClientID("weir-cli"),
		kgo.DialTimeout(min(c.timeout, 10*time.Second)),
		kgo.RetryTimeout(c.timeout),
		kgo.RecordDeliveryTimeout(c.timeout),
	}, opts...)...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("no broker answers at %s: %w (start one with: weir serve)", c.brokers, err)
	}
	return client, nil
}

// admin runs fn with an admin client and a deadline.
func (c *cluster) admin(fn func(ctx context.Context, admin *kadm.Client) error) error {
	ctx, stop := interruptible()
	defer stop()
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	admin := kadm.NewClient(client)
	admin.SetTimeoutMillis(c.millis())
	return fn(ctx, admin)
}

// millis is the time that a broker may take for a request.
func (c *cluster) millis() int32 { return int32(min(c.timeout.Milliseconds(), 1<<31-1)) }

// existing returns the topics of these names (all, if none is given) and an error that suggests the nearest name if one is missing.
func existing(ctx context.Context, admin *kadm.Client, names ...string) (kadm.TopicDetails, error) {
	all, err := admin.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	if len(names) == 0 {
		return all, nil
	}
	found := kadm.TopicDetails{}
	for _, name := range names {
		t, ok := all[name]
		if !ok {
			hint := ""
			if near := config.Nearest(name, all.Names()); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, fmt.Errorf("topic %q does not exist%s", name, hint)
		}
		if t.Err != nil {
			return nil, fmt.Errorf("topic %q: %w", name, t.Err)
		}
		found[name] = t
	}
	return found, nil
}
