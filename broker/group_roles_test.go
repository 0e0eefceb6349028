package broker

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/coordinator/group"
	"weir/internal/clock"
	"weir/internal/record"
)

// failingLog is an offsets topic that cannot be read for a while.
type failingLog struct{ loads, failures atomic.Int32 }

func (l *failingLog) Append(_, _ int32, _ []record.Record, done func(error)) { done(nil) }

func (l *failingLog) Load(int32, int32, func(*record.Record) error) error {
	l.loads.Add(1)
	if l.failures.Add(-1) >= 0 {
		return errors.New("not now")
	}
	return nil
}

// TestGroupRoles: roles that come before the coordinator is there count; a load that fails is tried again, at growing distances, until it
// succeeds or the role has changed.
func TestGroupRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &failingLog{}
		b := &Broker{clk: clock.Real{}, log: slog.New(slog.DiscardHandler)}
		b.groups = group.New(group.Options{Storage: l, Partitions: 2})
		expect := func(what string, loads int32, code group.Code) {
			t.Helper()
			synctest.Wait()
			if got := l.loads.Load(); got != loads {
				t.Errorf("%s: %d loads, want %d", what, got, loads)
			}
			if got := b.groups.Describe("").Code; got != code { // "" is in partition 0
				t.Errorf("%s: %v, want %v", what, got, code)
			}
		}
		l.failures.Store(2)
		b.groupRoles.changed(groupRole{0, false, 4})
		b.groupRoles.changed(groupRole{0, true, 5})
		expect("before the start", 0, group.NotCoordinator)
		b.groupRoles.start(b)
		expect("a failed load", 1, group.NotCoordinator)
		time.Sleep(groupRetryMin)
		expect("a second one", 2, group.NotCoordinator)
		time.Sleep(groupRetryMin)
		expect("too early for the third", 2, group.NotCoordinator)
		time.Sleep(groupRetryMin)
		expect("the third", 3, group.GroupIDNotFound)
		b.groupRoles.changed(groupRole{0, true, 5})
		expect("the same role again", 3, group.GroupIDNotFound)

		l.failures.Store(100)
		b.groupRoles.changed(groupRole{0, true, 7})
		expect("a later epoch", 4, group.NotCoordinator)
		b.groupRoles.changed(groupRole{0, false, 8})
		time.Sleep(time.Hour)
		expect("leads no more", 4, group.NotCoordinator)

		b.groupRoles.changed(groupRole{0, true, 9})
		expect("leads again", 5, group.NotCoordinator)
		b.groupRoles.stop()
		b.groups.Close()
		b.loading.Wait()
		b.groupRoles.changed(groupRole{0, true, 10})
		time.Sleep(time.Hour)
		expect("after the end", 5, group.CoordinatorNotAvailable)
	})
}
