package machine

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"time"

	"weir/raftmeta"
)

// Kinds of elections.
const (
	ElectFailover   = iota // the leader was fenced, shuts down, or there was none
	ElectUnclean           // the new leader was not in sync
	ElectPreferred         // asked for
	ElectBalance           // by the automatic balance
	ElectReassigned        // the leader was moved away
	ElectionKinds          // how many kinds there are
)

// Plan is what Decide came to.
type Plan struct {
	// Answers are of requests that change nothing.
	Answers []Answer
	// Entries are to be committed one after another, each as one change; after one that was not, none of the following.
	Entries [][]raftmeta.Command
	// Later are requests that have to be decided on the next image.
	Later []Request
	// Elections counts the leaders that the plan elects, by kind.
	Elections [ElectionKinds]int
	// Fenced and Unfenced are the brokers of which that changes.
	Fenced, Unfenced []int32

	cmds   []raftmeta.Command
	ends   []int // of the entries that are full
	bytes  int   // of all
	entry  int   // bytes of the entry being filled
	pieces []piece
	reign  uint64
	// The commands in between are the machine's own wish: it must hear if one is refused.
	ownFrom, ownTo int
}

// piece is a request and the commands that it waits for.
type piece struct {
	request  Request
	from, to int
	finish   func(results []raftmeta.Result, now time.Time) (any, error)
}

const (
	// planBytesMax is how much a plan takes in before the rest has to wait: what is urgent must not wait long for an image.
	planBytesMax = raftmeta.EntryBytesMax / 2
	entryHead    = 16 // what an entry has besides its commands
)

func (p *Plan) answer(r Request, value any, err error) {
	p.Answers = append(p.Answers, Answer{Token: r.Token, Value: value, Err: err})
}

// add appends a command of so many bytes at most.
func (p *Plan) add(c raftmeta.Command, bytes int) {
	if p.entry > 0 && p.entry+bytes > raftmeta.EntryBytesMax {
		p.ends, p.entry = append(p.ends, len(p.cmds)), 0
	}
	if p.entry == 0 {
		p.entry = entryHead
	}
	p.cmds = append(p.cmds, c)
	p.entry += bytes
	p.bytes += bytes
}

// await has a request answered by finish when the commands since from are done; without any, at once.
func (p *Plan) await(r Request, from int, finish func([]raftmeta.Result, time.Time) (any, error)) {
	p.pieces = append(p.pieces, piece{r, from, len(p.cmds), finish})
}

// cut makes the entries. Pieces of a plan without commands are answered, as there is nothing to wait for.
func (p *Plan) cut() {
	if len(p.cmds) == 0 {
		for _, piece := range p.pieces {
			value, err := piece.finish(nil, time.Time{})
			p.answer(piece.request, value, err)
		}
		p.pieces = nil
		return
	}
	from := 0
	for _, end := range append(p.ends, len(p.cmds)) {
		p.Entries = append(p.Entries, p.cmds[from:end])
		from = end
	}
}

// missed says that a command was refused that should not have been.
func (p *Plan) missed(results []raftmeta.Result) bool {
	for i := range results {
		if err := results[i].Err; err != nil && (isStale(err) || i >= p.ownFrom && i < p.ownTo) {
			return true
		}
	}
	return false
}

// bytesOf is how much a command other than a ChangePartition takes.
func bytesOf(c raftmeta.Command) int { return raftmeta.EntryBytes(c) }

// bytesOfChange is what a ChangePartition takes, or a little more: it is asked for tens of thousands at once.
func bytesOfChange(c *raftmeta.ChangePartition) int {
	const head = 2*binary.MaxVarintLen16 + 1 + 16 // kind and length, flags, topic
	n := head + bytesOfInt(c.Partition) + bytesOfInt(c.PartitionEpoch) + bytesOfInt(c.Leader)
	for _, list := range [...][]int32{c.ISR, c.Replicas, c.Adding, c.Removing} {
		n++ // how many there are: fewer than 128
		for _, id := range list {
			n += bytesOfInt(id)
		}
	}
	return n
}

// bytesOfInt is the length of a signed varint.
func bytesOfInt(v int32) int {
	return (bits.Len32(uint32(v)<<1^uint32(v>>31)|1) + 6) / 7
}

// isStale says that a command was refused because something had changed before it.
func isStale(err error) bool {
	return errors.Is(err, raftmeta.ErrStaleBroker) || errors.Is(err, raftmeta.ErrStalePartition)
}
