package machine

// LogState is a follower's log as it is now, with offsets in order: Start <= HW <= Durable <= End.
type LogState struct {
	Start, HW, Durable, End int64
	Epochs                  *Epochs // read only
}

// Ask is what a follower asks its leader.
type Ask struct {
	CurrentEpoch, LastEpoch         int32
	Offset, LogStart, HighWatermark int64
}

// Reply is the kind of a leader's answer.
type Reply int

const (
	// ReplyOK: with or without records.
	ReplyOK Reply = iota
	// ReplyOutOfRange: the leader's log begins behind the offset that was asked for.
	ReplyOutOfRange
	// ReplyFenced: there is a newer epoch than the follower knows.
	ReplyFenced
	// ReplyUnknown: the leader does not know the epoch yet, or does not know that it leads; or another failure that time may mend.
	ReplyUnknown
)

// Answer is a leader's answer.
type Answer struct {
	Reply        Reply
	Epoch        int32 // that it was asked with
	Offset       int64 // that it was asked for
	HW, LogStart int64 // the leader's
	Diverges     bool  // the logs differ: DivergingEpoch ends at DivergingEnd in the leader's

	DivergingEpoch int32
	DivergingEnd   int64
	HasRecords     bool
}

// Do is what a follower does next.
type Do int

const (
	// DoAsk: nothing but to ask again.
	DoAsk Do = iota
	// DoAppend: append the records, wait until they are durable, ask again.
	DoAppend
	// DoTruncate: take everything from Offset on out of the log, then call Truncated.
	DoTruncate
	// DoReset: empty the log and let it begin at Offset, then call Truncated.
	DoReset
	// DoPause: ask again after a while.
	DoPause
	// DoWait: ask again when the metadata names another leader or epoch.
	DoWait
)

// Action is what follows from an answer. HW and LogStart are the leader's where they may be taken over: SafeHW and SafeStart have the rest of the rule.
type Action struct {
	Do           Do
	Offset       int64
	HW, LogStart int64
}

// FollowerPhase is what a follower is at.
type FollowerPhase int

const (
	// Settling: the log's end is not durable yet, as of a former leader. Nothing is asked.
	Settling FollowerPhase = iota
	// Fetching: it asks and appends.
	Fetching
	// Truncating: its log is being cut.
	Truncating
	// Fenced: its epoch is old; only the metadata helps.
	Fenced
)

// Follower is one replica following one leader in one epoch: another epoch is another Follower. Not safe for concurrent use.
type Follower struct {
	epoch int32
	phase FollowerPhase
}

// NewFollower begins to follow in an epoch.
func NewFollower(epoch int32) *Follower { return &Follower{epoch: epoch} }

// Phase is what the follower is at.
func (f *Follower) Phase() FollowerPhase { return f.phase }

// Epoch is the leader epoch that it follows in.
func (f *Follower) Epoch() int32 { return f.epoch }

// Ask says what to ask the leader for; ok is false if it is not the time to ask. The offset is the durable end: the leader takes it for what this
// replica has for sure, and nothing that is asked for again can be in the log already.
func (f *Follower) Ask(log LogState) (a Ask, ok bool) {
	if f.phase == Settling && log.Durable == log.End {
		f.phase = Fetching
	}
	if f.phase != Fetching || log.Durable < log.End {
		return Ask{}, false
	}
	a = Ask{CurrentEpoch: f.epoch, LastEpoch: None, Offset: log.End, LogStart: log.Start, HighWatermark: log.HW}
	if log.End > log.Start {
		a.LastEpoch = log.Epochs.At(log.End - 1)
	}
	return a, true
}

// Answer decides what to do with an answer. One to an older question, of another epoch or another offset, does nothing.
func (f *Follower) Answer(a Answer, log LogState) Action {
	if f.phase != Fetching || a.Epoch != f.epoch || a.Offset != log.End {
		return Action{Do: DoAsk, HW: None, LogStart: None}
	}
	act := Action{HW: None, LogStart: None}
	switch a.Reply {
	case ReplyFenced:
		f.phase, act.Do = Fenced, DoWait
	case ReplyUnknown:
		act.Do = DoPause
	case ReplyOutOfRange:
		// A log that is not empty was held against the leader's epochs first: it can only end before the leader's begins.
		if act.Do = DoPause; a.LogStart >= 0 && (a.LogStart > log.End || (log.Start == log.End && a.LogStart != log.End)) {
			f.phase, act.Do, act.Offset = Truncating, DoReset, a.LogStart
		}
	case ReplyOK:
		return f.accepted(a, log)
	}
	return act
}

func (f *Follower) accepted(a Answer, log LogState) Action {
	act := Action{HW: None, LogStart: None}
	if a.Diverges {
		if act.Do, act.Offset = DoPause, divergence(a, log); act.Offset >= 0 && act.Offset < log.End {
			f.phase, act.Do = Truncating, DoTruncate
		}
		return act
	}
	act.HW, act.LogStart = a.HW, a.LogStart
	if a.HasRecords {
		act.Do = DoAppend
	}
	return act
}

// divergence is where the follower's log stops being the leader's, as far as one answer tells: below it all is the same or of an epoch that the next
// answer tells of (KIP-279). None if the leader knows nothing.
func divergence(a Answer, log LogState) int64 {
	if a.DivergingEnd < 0 || a.DivergingEpoch < 0 {
		return None
	}
	// Of the leader's epoch, and of those before it, the follower has what lies below end. Behind it are epochs that the leader does not have.
	_, end := log.Epochs.EndFor(a.DivergingEpoch, log.End)
	if end < 0 {
		end = log.End
	}
	return max(min(end, a.DivergingEnd), log.Start)
}

// Truncated tells that DoTruncate or DoReset has ended. If it failed, the next answer says again what to do.
func (f *Follower) Truncated() { f.phase = Settling }

// SafeHW is the high watermark of a follower that the leader told hw: never above what is durable here, never below what it was.
func SafeHW(hw int64, log LogState) int64 { return max(log.HW, min(hw, log.Durable)) }

// SafeStart is the log start of a follower that the leader told start.
func SafeStart(start int64, log LogState) int64 { return max(log.Start, min(start, log.HW)) }
