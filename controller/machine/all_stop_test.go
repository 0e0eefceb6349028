package machine

import "testing"

// TestAllStopAtOnce: when all brokers of a partition shut down at the same time, those that are in sync when the last leader ends stay so, as nothing is added
// any more. Whichever of them comes back first leads.
func TestAllStopAtOnce(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{1, 2, 3})
	bye := func(id int32) *Heartbeat {
		h := w.heartbeat(id)
		h.WantShutdown = true
		return h
	}
	w.round(bye(1), bye(2), bye(3))
	w.is("a", 0, 1, 0, 1, 2, 3)
	for range 5 { // 1 has stopped, then 2; 3 is the last and does not come back
		w.round(bye(1), w.heartbeat(2), w.heartbeat(3))
	}
	for range 5 {
		w.round(bye(2), w.heartbeat(3))
	}
	w.silent[1], w.silent[2], w.silent[3] = true, true, true
	w.register(1, "", 2)
	w.revive(1)
	w.register(2, "", 2)
	w.revive(2)
	w.pass(3 * sessionMax)
	if p := w.part("a", 0); p.Leader != 1 && p.Leader != 2 {
		t.Fatalf("1 and 2 live, both were in sync when the last leader ended, and nobody led since: %+v", p)
	}
}
