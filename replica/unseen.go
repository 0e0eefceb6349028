package replica

// unseen counts bytes that are durable here and not visible to consumers yet, because other replicas do not have them. A consumer that waits for so many bytes
// (min.bytes) is woken by what it can read. It is an estimate where more groups wait than unseenMax, and after a truncation.
type unseen struct {
	groups []unseenGroup // by end
}

// unseenGroup is what became durable together.
type unseenGroup struct{ end, bytes int64 }

// unseenMax bounds what is remembered: beyond it groups are counted together.
const unseenMax = 64

// add notes that the log is durable up to end.
func (u *unseen) add(end, bytes int64) {
	n := len(u.groups)
	for n > 0 && u.groups[n-1].end >= end { // was cut off the log
		n--
	}
	u.groups = u.groups[:n]
	if n == unseenMax {
		last := &u.groups[n-1]
		last.end, last.bytes = end, last.bytes+bytes
		return
	}
	u.groups = append(u.groups, unseenGroup{end, bytes})
}

// take returns how many bytes became visible when the high watermark rose to hw.
func (u *unseen) take(hw int64) (bytes int64) {
	n := 0
	for n < len(u.groups) && u.groups[n].end <= hw {
		bytes += u.groups[n].bytes
		n++
	}
	u.groups = u.groups[:copy(u.groups, u.groups[n:])]
	return bytes
}
