package budget

// Note is what a slow request's log line and trace say of it besides its times. Filling it in must cost nothing: all strings are of others.
type Note struct {
	Topic      string // of the slowest partition; "" if there is none
	Partition  int32
	Partitions int32 // how many there were
	Error      int16 // the first error code in the answer
	Role       NodeRole
	Node       int32 // see Role
}

// NodeRole is what another node had to do with a request.
type NodeRole uint8

// The roles.
const (
	NoNode    NodeRole = iota
	Slowest            // the in-sync replica that the acknowledgement waited for in the end
	Forwarded          // the node that the request was forwarded to
)
