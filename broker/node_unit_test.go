package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/clock"
	"weir/internal/faultlog"
	"weir/netproto"
	"weir/raftmeta"
)

// What may have been done is told from what was certainly not done: only the latter may be sent again, and is NOT_CONTROLLER for a client.
func TestNothingDone(t *testing.T) {
	b := &Broker{clk: clock.Real{}, faults: faultlog.New(slog.New(slog.DiscardHandler), clock.Real{})}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"no controller":         {errNoController, true},
		"not the controller":    {errNotController, true},
		"it starts":             {errNotReady, true},
		"not understood":        {errNotUnderstood, true},
		"never sent":            {&netproto.PeerError{Op: "dial", Err: netproto.ErrPeerDown}, true},
		"sent, connection lost": {&netproto.PeerError{Op: "response", Sent: true, Err: netproto.ErrPeerLost}, false},
		"sent, no answer":       {&netproto.PeerError{Op: "response", Sent: true, Err: netproto.ErrPeerTimeout}, false},
		"answer is garbage":     {netproto.ErrMalformed, false},
	} {
		err := fmt.Errorf("forward: %w", tt.err)
		if got := nothingDone(err); got != tt.want {
			t.Errorf("%s: nothing done is %v, want %v", name, got, tt.want)
		}
		want := kerr.RequestTimedOut.Code
		if tt.want {
			want = kerr.NotController.Code
		}
		req := createRequest(7, topicSpec("t", 1, 1))
		resp := b.adminFailed(context.Background(), apisByKey[createTopicsKey], req, origin{}, err).(*kmsg.CreateTopicsResponse)
		if got := resp.Topics[0].ErrorCode; got != want {
			t.Errorf("%s: code %d, want %d", name, got, want)
		}
	}
}

// Every administrative API can say of a whole request that it failed, in each of its versions, and the answer can be read.
func TestAdministrativeFailures(t *testing.T) {
	text := "why"
	seen := 0
	for i := range apis {
		a := &apis[i]
		if a.admin == nil {
			continue
		}
		seen++
		for v := a.min; v <= a.max; v++ {
			req := kmsg.RequestForKey(a.key)
			req.SetVersion(v)
			resp := a.fail(req, kerr.NotController.Code, &text)
			resp.SetVersion(v)
			again := req.ResponseKind()
			again.SetVersion(v)
			if err := again.ReadFrom(resp.AppendTo(nil)); err != nil {
				t.Errorf("%s v%d: %v", a.name, v, err)
			}
		}
	}
	if seen < 8 {
		t.Errorf("%d administrative APIs", seen)
	}
}

func TestChangesWakeWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c changes
		clk := clock.Real{}
		seen := c.count()
		go func() {
			time.Sleep(3 * time.Second)
			c.happened()
		}()
		began := time.Now()
		if !c.wait(t.Context(), clk, seen, time.Minute) || time.Since(began) != 3*time.Second {
			t.Errorf("woken after %v, want 3s", time.Since(began))
		}
		// What has happened since is not waited for.
		began = time.Now()
		if !c.wait(t.Context(), clk, seen, time.Minute) || time.Since(began) != 0 {
			t.Errorf("waited %v for what had happened", time.Since(began))
		}
		began = time.Now()
		if !c.wait(t.Context(), clk, c.count(), 5*time.Second) || time.Since(began) != 5*time.Second {
			t.Errorf("waited %v, want the limit, 5s", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c.wait(ctx, clk, c.count(), time.Minute) {
			t.Error("the end of the context passes for an event")
		}
	})
}

// The controller hears of every change of office in order, also of one that came before it was there.
func TestOfficeRelay(t *testing.T) {
	type change struct {
		term    uint64
		leading bool
	}
	var got []change
	var o officeRelay
	o.changed(1, true)
	o.changed(1, false)
	o.changed(2, true)
	o.connect(func(term uint64, leading bool) { got = append(got, change{term, leading}) })
	o.changed(2, false)
	if want := []change{{2, true}, {2, false}}; !slices.Equal(got, want) {
		t.Errorf("the controller heard %v, want %v", got, want)
	}
}

func TestLeadersOf(t *testing.T) {
	topic := func(leaders ...int32) raftmeta.Result {
		top := &raftmeta.Topic{}
		for _, l := range leaders {
			top.Partitions = append(top.Partitions, raftmeta.Partition{Leader: l})
		}
		return raftmeta.Result{Topic: top}
	}
	results := []raftmeta.Result{topic(3, 1, 3), {Err: errors.New("not made")}, topic(-1, 2, 5)}
	if got, want := leadersOf(results, 2), []int32{1, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("leaders to wait for: %v, want %v", got, want)
	}
}

// A failure that every request meets is one line in a while, for each API.
func TestFailedAdministrativeRequestsAreOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := &countingHandler{}
		b := &Broker{clk: clock.Real{}, faults: faultlog.New(slog.New(lines), clock.Real{})}
		fail := func(key int16, req kmsg.Request) {
			b.adminFailed(context.Background(), apisByKey[key], req, origin{}, errNoController)
		}
		for range 100 {
			fail(createTopicsKey, createRequest(7))
		}
		fail(55, kmsg.NewPtrDescribeQuorumRequest())
		time.Sleep(faultlog.Every)
		fail(createTopicsKey, createRequest(7))
		if lines.n != 3 || lines.suppressed != 99 {
			t.Errorf("%d lines, the last of which counts %d, want 3 and 99", lines.n, lines.suppressed)
		}
	})
}

type countingHandler struct {
	slog.Handler
	n          int
	suppressed int64
}

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	h.n++
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "suppressed" {
			h.suppressed = a.Value.Int64()
		}
		return true
	})
	return nil
}
