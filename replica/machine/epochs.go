package machine

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// EpochStart says at which offset a leader epoch begins in a log.
type EpochStart struct {
	Epoch int32
	Start int64
}

// Epochs is the history of a log's leader epochs: for each the first offset that it wrote, or could have. Both rise strictly from entry
// to entry. The zero value is the history of an empty log.
type Epochs struct{ list []EpochStart }

// None stands for an epoch, or an offset, that is not known.
const None = -1

// ErrEpochs: a file of leader epochs that is damaged, or of a format that is not known.
var ErrEpochs = errors.New("bad leader epoch checkpoint")

// Assign notes that epoch begins at start. What contradicts it - the same or a later epoch that begins at or behind start, a later epoch at
// all - goes: those wrote nothing, or what they wrote is not in the log any more. It reports whether anything changed.
func (e *Epochs) Assign(epoch int32, start int64) bool {
	if epoch < 0 || start < 0 {
		return false
	}
	if n := len(e.list); n > 0 && e.list[n-1].Epoch == epoch && e.list[n-1].Start <= start {
		return false
	}
	n := len(e.list)
	for n > 0 && (e.list[n-1].Epoch >= epoch || e.list[n-1].Start >= start) {
		n--
	}
	e.list = append(e.list[:n:n], EpochStart{epoch, start})
	return true
}

// Latest is the last entry.
func (e *Epochs) Latest() (epoch int32, start int64, ok bool) {
	if len(e.list) == 0 {
		return None, None, false
	}
	last := e.list[len(e.list)-1]
	return last.Epoch, last.Start, true
}

// At is the epoch that wrote offset; None if the history does not reach back that far.
func (e *Epochs) At(offset int64) int32 {
	i := sort.Search(len(e.list), func(i int) bool { return e.list[i].Start > offset })
	if i == 0 {
		return None
	}
	return e.list[i-1].Epoch
}

// EndFor tells where the newest epoch that is not newer than epoch ends, in a log that ends at logEnd: the start of the epoch after it. An epoch that is
// older than all known ones ends where the oldest begins, and is answered itself. (None, None) if epoch is newer than all, or nothing is known.
func (e *Epochs) EndFor(epoch int32, logEnd int64) (floor int32, end int64) {
	latest, _, ok := e.Latest()
	if epoch < 0 || !ok || epoch > latest {
		return None, None
	}
	if epoch == latest {
		return epoch, logEnd
	}
	i := sort.Search(len(e.list), func(i int) bool { return e.list[i].Epoch > epoch }) // there is one
	if i == 0 {
		return epoch, e.list[0].Start
	}
	return e.list[i-1].Epoch, e.list[i].Start
}

// TruncateEnd forgets epochs that begin at or beyond offset, where the log now ends. It reports whether anything changed.
func (e *Epochs) TruncateEnd(offset int64) bool {
	n := len(e.list)
	for n > 0 && e.list[n-1].Start >= offset {
		n--
	}
	changed := n < len(e.list)
	e.list = e.list[:n:n]
	return changed
}

// TruncateStart lets the history begin at offset, where the log now begins. It reports whether anything changed.
func (e *Epochs) TruncateStart(offset int64) bool {
	i := sort.Search(len(e.list), func(i int) bool { return e.list[i].Start > offset })
	if i == 0 || (i == 1 && e.list[0].Start == offset) {
		return false
	}
	e.list = slices.Clone(e.list[i-1:])
	e.list[0].Start = offset
	return true
}

// Clear forgets everything.
func (e *Epochs) Clear() { e.list = nil }

// All is the history, oldest first. It is a copy.
func (e *Epochs) All() []EpochStart { return slices.Clone(e.list) }

// Below is the history of the log below offset.
func (e *Epochs) Below(offset int64) Epochs {
	n := sort.Search(len(e.list), func(i int) bool { return e.list[i].Start >= offset })
	return Epochs{slices.Clone(e.list[:n])}
}

// Len is the number of entries.
func (e *Epochs) Len() int { return len(e.list) }

// Encode writes the history in the text format of Kafka's leader-epoch-checkpoint: a version, the number of entries, one entry a line.
func (e *Epochs) Encode() []byte {
	out := fmt.Appendf(nil, "0\n%d\n", len(e.list))
	for _, s := range e.list {
		out = fmt.Appendf(out, "%d %d\n", s.Epoch, s.Start)
	}
	return out
}

// Decode reads what Encode wrote. Errors: ErrEpochs.
func Decode(data []byte) (Epochs, error) {
	text, whole := strings.CutSuffix(string(data), "\n")
	lines := strings.Split(text, "\n")
	if !whole || len(lines) < 2 || lines[0] != "0" {
		return Epochs{}, fmt.Errorf("%w: version 0 and a count expected in %d bytes", ErrEpochs, len(data))
	}
	count, err := strconv.Atoi(lines[1])
	if err != nil || count != len(lines)-2 {
		return Epochs{}, fmt.Errorf("%w: %d entries, count is %q", ErrEpochs, len(lines)-2, lines[1])
	}
	var e Epochs
	for i, line := range lines[2:] {
		left, right, _ := strings.Cut(line, " ")
		epoch, err := strconv.ParseInt(left, 10, 32)
		start, err2 := strconv.ParseInt(right, 10, 64)
		if err != nil || err2 != nil || epoch < 0 || start < 0 {
			return Epochs{}, fmt.Errorf("%w: entry %d is %q", ErrEpochs, i, line)
		}
		if last, at, ok := e.Latest(); ok && (int32(epoch) <= last || start <= at) {
			return Epochs{}, fmt.Errorf("%w: entry %d, epoch %d at %d, follows epoch %d at %d", ErrEpochs, i, epoch, start, last, at)
		}
		e.list = append(e.list, EpochStart{int32(epoch), start})
	}
	return e, nil
}
