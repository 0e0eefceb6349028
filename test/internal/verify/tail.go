package verify

import (
	"context"
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Tail reads all partitions of a ledger's topic while things happen, and tells the ledger what it was given: that must have been committed.
type Tail struct {
	ledger *Ledger
	client *kgo.Client
	cancel context.CancelFunc
	wait   sync.WaitGroup
	mu     struct {
		sync.Mutex
		err error // the first that no fault explains
	}
}

// StartTail begins to read from the start of each partition.
func StartTail(l *Ledger, partitions int32, opts []kgo.Opt) (*Tail, error) {
	from := map[int32]kgo.Offset{}
	for p := range partitions {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.Topic: from}))...)
	if err != nil {
		return nil, err
	}
	t := &Tail{ledger: l, client: cl}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	t.wait.Go(func() { t.run(ctx) })
	return t, nil
}

func (t *Tail) run(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := t.client.PollFetches(ctx)
		fetches.EachError(func(_ string, _ int32, err error) {
			// The client tells and goes on. What it was given and lost later is data loss to it, and it is right.
			var loss *kgo.ErrDataLoss
			if errors.As(err, &loss) || errors.Is(err, kerr.CorruptMessage) {
				t.fail(err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			which, err := ParseID(r.Key)
			if err != nil {
				t.fail(err)
				return
			}
			t.ledger.Saw(r.Partition, r.Offset, which)
		})
	}
}

func (t *Tail) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.err == nil {
		t.mu.err = err
	}
}

// Err is the first error that no fault explains.
func (t *Tail) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.err
}

// Close ends the reading.
func (t *Tail) Close() {
	t.cancel()
	t.client.Close()
	t.wait.Wait()
}
