package group

import (
	"math"
	"slices"
	"strings"
	"time"

	"weir/internal/clock"
)

// Offsets expire (KIP-211) offsets.retention.minutes after
//   - the commit, in a group without members that never had any (a simple group);
//   - the group became empty, in a group that had members;
//   - the commit, in a stable consumer group, for topics that nobody subscribes to any more;
//
// or at the time an old client's commit asked for. A group that is empty and has no offsets goes.

// expiryBase returns from when on an offset's retention counts; ok is false where the group's state keeps all.
func (g *group) expiryBase() (base func(offset) int64, ok bool) {
	committed := func(o offset) int64 { return o.committedMs }
	switch {
	case g.protocolType == "":
		return committed, true
	case g.state == Empty && g.sinceMs >= 0:
		return func(offset) int64 { return g.sinceMs }, true
	case g.state == Empty:
		return committed, true
	case g.state == Stable && g.protocolType == consumerType && g.subscribed != nil:
		return committed, true
	}
	return nil, false
}

// scanExpiry splits the offsets: which have expired by now, and when the next one will.
func (g *group) scanExpiry(nowMs int64) (gone []topicPartition, nextMs int64) {
	nextMs = math.MaxInt64
	base, ok := g.expiryBase()
	if !ok {
		return nil, nextMs
	}
	for topic, parts := range g.offsets {
		if g.subscribedTo(topic) {
			continue
		}
		for n, o := range parts {
			tp := topicPartition{topic, n}
			at := o.expireMs
			if at == 0 {
				at = base(o) + g.conf.offsetsRetention.Milliseconds()
			}
			switch {
			case g.inflight[tp] > 0: // a commit or a tombstone is under way, and looks again
			case at <= nowMs:
				gone = append(gone, tp)
			default:
				nextMs = min(nextMs, at)
			}
		}
	}
	slices.SortFunc(gone, func(a, b topicPartition) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.partition - b.partition)
	})
	return gone, nextMs
}

// armExpiry has the expiry timer come up for an offset that expires at atMs, unless it comes up earlier anyway.
func (g *group) armExpiry(fx *effects, atMs int64) {
	if g.state == Dead || g.expiryAtMs != 0 && g.expiryAtMs <= atMs {
		return
	}
	atMs = max(atMs, g.expiryFloorMs)
	g.expiryAtMs = atMs
	fx.arm(&g.expiry, min(time.Duration(atMs-fx.nowMs())*time.Millisecond, clock.WallWaitMax))
}

// rescanExpiry sets the expiry timer anew after the group's state changed.
func (g *group) rescanExpiry(fx *effects) {
	g.expiryAtMs = 0
	gone, next := g.scanExpiry(fx.nowMs())
	switch {
	case len(gone) > 0:
		next = fx.nowMs()
	case g.idle():
		// Nothing is left of it. Give it a while, as Kafka's periodic check does.
		next = fx.nowMs() + g.conf.retentionCheckInterval.Milliseconds()
	case next == math.MaxInt64:
		fx.cancel(&g.expiry)
		return
	}
	g.armExpiry(fx, next)
}

// commitExpiry is rescanExpiry for one commit only, which is all that changed.
func (g *group) commitExpiry(fx *effects, batch []staged) {
	base, ok := g.expiryBase()
	if !ok {
		return
	}
	next := int64(math.MaxInt64)
	for _, s := range batch {
		if s.o.expireMs != 0 {
			next = min(next, s.o.expireMs)
		} else {
			next = min(next, base(s.o)+g.conf.offsetsRetention.Milliseconds())
		}
	}
	g.armExpiry(fx, next)
}

// expireOffsets is the expiry timer's input. It does not come up again before the check interval has passed, so that
// offsets that expire one by one are buried together and a log that cannot be written is not tried in a loop.
func (g *group) expireOffsets(fx *effects) {
	g.expiryAtMs = 0
	g.expiryFloorMs = fx.nowMs() + g.conf.retentionCheckInterval.Milliseconds()
	if g.deleting {
		return // the end of it looks again
	}
	gone, _ := g.scanExpiry(fx.nowMs())
	if g.removable(gone) {
		g.log().Info("group is empty and its offsets have expired; it is removed", "group", g.id, "offsets", len(gone))
		g.delete(fx, func(_ *effects, code Code) {
			if code == OK {
				g.conf.metrics.expiredOffsets.Add(float64(len(gone)))
			}
		})
		return
	}
	if len(gone) == 0 {
		g.rescanExpiry(fx)
		return
	}
	g.bury(fx, gone, func(fx *effects, code Code) {
		if code == OK {
			g.log().Info("offsets expired", "group", g.id, "offsets", len(gone))
			g.conf.metrics.expiredOffsets.Add(float64(len(gone)))
		} else {
			g.log().Warn("expired offsets were not removed", "group", g.id, "offsets", len(gone), "code", code)
		}
		if g.state != Dead {
			g.rescanExpiry(fx)
		}
	})
}

// removable reports whether the group is without members and would have nothing left without the offsets in gone.
func (g *group) removable(gone []topicPartition) bool {
	n := 0
	for _, parts := range g.offsets {
		n += len(parts)
	}
	return g.state == Empty && len(g.pending) == 0 && len(g.inflight) == 0 && n == len(gone)
}

// delete removes the group, for which it must be Empty: tombstones first, then from memory. Until they are durable requests are
// told to come again.
func (g *group) delete(fx *effects, done func(*effects, Code)) {
	finish := func(fx *effects, code Code) {
		g.deleting = false
		switch {
		case g.state == Dead: // unloaded meanwhile
		case code == OK:
			g.die(fx, UnknownMemberID)
			fx.removed = append(fx.removed, g)
		default:
			g.log().Warn("group was not removed", "group", g.id, "code", code)
			g.rescanExpiry(fx)
		}
		done(fx, code)
	}
	records := g.tombstones(fx.nowMs())
	if len(records) == 0 {
		finish(fx, OK)
		return
	}
	g.deleting = true
	fx.append(records, finish)
}
