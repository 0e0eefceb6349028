package broker

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"weir/coordinator/group"
	"weir/internal/clock"
)

type slowLines struct {
	slog.Handler
	first chan struct{}
	n     int
}

func (h *slowLines) Enabled(context.Context, slog.Level) bool { return true }
func (h *slowLines) Handle(context.Context, slog.Record) error {
	if h.n++; h.n == 1 {
		<-h.first // whoever says it first is slow about it
	}
	return nil
}

// TestGroupRetryOfAnOlderEpoch: a load of an older epoch that says late that it failed must not take away the retry of the present one.
func TestGroupRetryOfAnOlderEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &failingLog{}
		lines := &slowLines{first: make(chan struct{})}
		b := &Broker{clk: clock.Real{}, log: slog.New(lines)}
		b.groups = group.New(group.Options{Storage: l, Partitions: 2})
		l.failures.Store(2)
		b.groupRoles.start(b)
		b.groupRoles.changed(groupRole{0, true, 5})
		synctest.Wait() // epoch 5's load has failed, and says so
		b.groupRoles.changed(groupRole{0, true, 6})
		synctest.Wait() // epoch 6's has failed too, and is to be tried again
		close(lines.first)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := b.groups.Describe("").Code; got != group.GroupIDNotFound {
			t.Errorf("an hour later the partition that this node leads in epoch 6 is %v after %d loads", got, l.loads.Load())
		}
		b.groupRoles.stop()
		b.groups.Close()
		b.loading.Wait()
	})
}
