package group

import "fmt"

// State is where a group stands.
type State uint8

// The states. A group is Empty with offsets or pending members only; PreparingRebalance while it waits for members to
// (re)join; CompletingRebalance from the new generation until the leader's assignment is stored; then Stable. Dead: it is
// no longer in the shard's map, and objects that still refer to it only answer.
const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
	Dead
	stateCount
)

var stateNames = [stateCount]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String is the state as Kafka's clients know it.
func (s State) String() string {
	if s < stateCount {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// validFrom lists the states that may precede each state.
var validFrom = [stateCount][stateCount]bool{
	Empty:               {PreparingRebalance: true},
	PreparingRebalance:  {Empty: true, CompletingRebalance: true, Stable: true},
	CompletingRebalance: {PreparingRebalance: true},
	Stable:              {CompletingRebalance: true},
	Dead:                {Empty: true, PreparingRebalance: true, CompletingRebalance: true, Stable: true},
}
