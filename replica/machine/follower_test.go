package machine

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// modelLog is a log as the epoch of each offset, and what was written there.
type modelLog struct {
	start   int64
	batches []written
	epochs  Epochs
}

// written is what one leader wrote at one offset: two logs that have the same are the same there.
type written struct {
	epoch int32
	by    int
}

func (l *modelLog) end() int64 { return l.start + int64(len(l.batches)) }

func (l *modelLog) append(w written) {
	if latest, _, ok := l.epochs.Latest(); !ok || latest < w.epoch {
		l.epochs.Assign(w.epoch, l.end())
	}
	l.batches = append(l.batches, w)
}

func (l *modelLog) truncate(at int64) {
	l.batches = l.batches[:at-l.start]
	l.epochs.TruncateEnd(at)
}

func (l *modelLog) state() LogState {
	return LogState{Start: l.start, HW: l.start, Durable: l.end(), End: l.end(), Epochs: &l.epochs}
}

// logOf writes epochs one offset each.
func logOf(epochs ...int32) *modelLog {
	l := &modelLog{}
	for _, e := range epochs {
		l.append(written{epoch: e})
	}
	return l
}

// answerOf is what a leader answers, by the rules of FollowerFetched.
func answerOf(leader *modelLog, a Ask) Answer {
	out := Answer{Epoch: a.CurrentEpoch, Offset: a.Offset, HW: leader.end(), LogStart: leader.start}
	if a.LastEpoch >= 0 {
		if epoch, end := leader.epochs.EndFor(a.LastEpoch, leader.end()); epoch < a.LastEpoch || end < a.Offset {
			out.Diverges, out.DivergingEpoch, out.DivergingEnd = true, epoch, end
			return out
		}
	}
	if a.Offset < leader.start || a.Offset > leader.end() {
		out.Reply = ReplyOutOfRange
		return out
	}
	out.HasRecords = a.Offset < leader.end()
	return out
}

// follow lets a follower's log become the leader's, and returns where it was cut, in order.
func follow(t interface{ Fatalf(string, ...any) }, leader, own *modelLog, epoch int32) (cuts []int64) {
	f := NewFollower(epoch)
	for range 100 {
		ask, ok := f.Ask(own.state())
		if !ok {
			t.Fatalf("it does not ask in phase %d", f.Phase())
		}
		switch act := f.Answer(answerOf(leader, ask), own.state()); act.Do {
		case DoAsk:
			return cuts
		case DoAppend:
			own.append(leader.batches[own.end()-leader.start])
		case DoTruncate:
			if act.Offset >= own.end() {
				t.Fatalf("cut at %d, the log ends at %d", act.Offset, own.end())
			}
			cuts = append(cuts, act.Offset)
			own.truncate(act.Offset)
			f.Truncated()
		case DoReset:
			cuts = append(cuts, act.Offset)
			*own = modelLog{start: act.Offset}
			f.Truncated()
		default:
			t.Fatalf("does %d: leader %+v, own %+v", act.Do, leader, own)
		}
	}
	t.Fatalf("no end: leader %+v, own %+v", leader, own)
	return nil
}

// TestTruncation has the cases of KIP-101 and KIP-279 by name. Logs are the epochs of their offsets.
func TestTruncation(t *testing.T) {
	for _, c := range []struct {
		name        string
		leader, own []int32
		started     int32 // the leader's epoch, which may have written nothing yet
		cuts        []int64
	}{
		{"KIP-101 scenario 1: a high watermark that came late does not cut what is committed", []int32{0, 0}, []int32{0, 0}, 1, nil},
		{"KIP-101 scenario 2: both lost power, and another epoch wrote the same offset", []int32{0, 1}, []int32{0, 0}, 1, []int64{1}},
		{"KIP-101: the follower is ahead in the same epoch", []int32{0, 0}, []int32{0, 0, 0, 0}, 1, []int64{2}},
		{"KIP-279: the leader lacks the follower's last epoch", []int32{0, 0, 2}, []int32{0, 0, 1, 1}, 2, []int64{2}},
		{"KIP-279 fast leader change: unclean, then back", []int32{1, 1, 1, 3}, []int32{1, 1, 2, 2, 2}, 3, []int64{2}},
		{"KIP-279: the follower lacks the epoch that the leader answers with", []int32{1, 1, 3, 3}, []int32{1, 1, 2, 4, 4}, 5, []int64{3, 2}},
		{"KIP-279: alternating epochs, none in common but the first", []int32{0, 2, 4, 6, 8}, []int32{0, 1, 3, 5, 7}, 9, []int64{4, 3, 2, 1}},
		{"nothing in common", []int32{4, 4}, []int32{3, 3, 3}, 4, []int64{0}},
		{"behind, nothing to cut", []int32{0, 1, 1, 2}, []int32{0, 1}, 2, nil},
		{"empty", []int32{0, 0}, nil, 0, nil},
		{"empty leader", nil, []int32{0, 0}, 1, []int64{0}},
		{"one more batch of an epoch that goes on elsewhere", []int32{1, 1, 2, 2}, []int32{1, 1, 1}, 2, []int64{2}},
	} {
		leader, own := logOf(c.leader...), logOf(c.own...)
		leader.epochs.Assign(c.started, leader.end())
		if cuts := follow(t, leader, own, c.started); !slices.Equal(cuts, c.cuts) {
			t.Errorf("%s: cut at %v, want %v", c.name, cuts, c.cuts)
		}
		if !slices.Equal(own.batches, leader.batches) {
			t.Errorf("%s: %v became %v, want %v", c.name, c.own, own.batches, leader.batches)
		}
	}
}

func TestFollowerResets(t *testing.T) {
	leader := logOf(0, 0, 1, 1, 1)
	leader.batches, leader.start = leader.batches[3:], 3
	leader.epochs.TruncateStart(3)
	own := logOf(0, 0)
	if cuts := follow(t, leader, own, 1); !slices.Equal(cuts, []int64{3}) || own.start != 3 || own.end() != 5 {
		t.Errorf("cut at %v, log %d to %d", cuts, own.start, own.end())
	}
	ahead := &modelLog{start: 9}
	if follow(t, leader, ahead, 1); ahead.start != 3 || ahead.end() != 5 {
		t.Errorf("an empty log beyond the leader's: %d to %d", ahead.start, ahead.end())
	}
}

func TestFollowerPhases(t *testing.T) {
	own := logOf(0, 0)
	unsettled := own.state()
	unsettled.Durable = 1
	f := NewFollower(3)
	if _, ok := f.Ask(unsettled); ok {
		t.Error("asks from an end that is not durable")
	}
	ask, ok := f.Ask(own.state())
	if !ok || ask != (Ask{CurrentEpoch: 3, LastEpoch: 0, Offset: 2}) {
		t.Errorf("asks %+v, %t", ask, ok)
	}
	for _, c := range []struct {
		name string
		a    Answer
		do   Do
	}{
		{"of an older epoch", Answer{Epoch: 2, Offset: 2, Reply: ReplyFenced}, DoAsk},
		{"to an older question", Answer{Epoch: 3, Offset: 1, HasRecords: true}, DoAsk},
		{"not yet", Answer{Epoch: 3, Offset: 2, Reply: ReplyUnknown}, DoPause},
		{"out of range, though the leader's log begins before: it must not be wiped", Answer{Epoch: 3, Offset: 2, Reply: ReplyOutOfRange, LogStart: 0}, DoPause},
		{"the leader knows nothing of epochs", Answer{Epoch: 3, Offset: 2, Diverges: true, DivergingEpoch: None, DivergingEnd: None}, DoPause},
		{"diverging where nothing is to be cut", Answer{Epoch: 3, Offset: 2, Diverges: true, DivergingEpoch: 0, DivergingEnd: 5}, DoPause},
		{"fenced", Answer{Epoch: 3, Offset: 2, Reply: ReplyFenced}, DoWait},
	} {
		if act := f.Answer(c.a, own.state()); act.Do != c.do {
			t.Errorf("%s: does %d, want %d", c.name, act.Do, c.do)
		}
	}
	if _, ok := f.Ask(own.state()); ok || f.Phase() != Fenced {
		t.Errorf("a fenced follower asks, phase %d", f.Phase())
	}
	if hw := SafeHW(9, own.state()); hw != 2 {
		t.Errorf("high watermark %d beyond what is here", hw)
	}
}

// TestDivergence: whatever two replicas of many have been through - elections of any of them, unclean ones too, writes that some have and some have not - a
// follower's log becomes the leader's, and nothing that they had in common, from the start, is cut.
func TestDivergence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logs := []*modelLog{{}, {}, {}}
		epoch, writes := int32(0), 0
		for range rapid.IntRange(1, 40).Draw(t, "elections") {
			epoch++
			leader := logs[rapid.IntRange(0, 2).Draw(t, "leader")]
			leader.epochs.Assign(epoch, leader.end())
			for range rapid.IntRange(0, 3).Draw(t, "writes") {
				writes++
				leader.append(written{epoch, writes})
			}
			for i, own := range logs {
				if own == leader || rapid.Bool().Draw(t, "cut off") {
					continue
				}
				own.epochs.TruncateEnd(own.end()) // an epoch of its own that wrote nothing
				common := int64(0)
				for common < min(own.end(), leader.end()) && own.batches[common] == leader.batches[common] {
					common++
				}
				for _, cut := range follow(t, leader, own, epoch) {
					if cut < common {
						t.Fatalf("log %d was cut at %d, %d are in common", i, cut, common)
					}
				}
				if !slices.Equal(own.batches, leader.batches) {
					t.Fatalf("log %d: %v, leader's: %v", i, own.batches, leader.batches)
				}
			}
		}
	})
}
