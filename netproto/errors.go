package netproto

import "errors"

var (
	// ErrFrameSize: a frame's length is negative, below the smallest header, or above the limit.
	ErrFrameSize = errors.New("bad frame size")
	// ErrTruncated: the peer closed the connection inside a frame.
	ErrTruncated = errors.New("connection closed inside a frame")
	// ErrFrameStalled: no byte of a begun frame came for ReadTimeout.
	ErrFrameStalled = errors.New("frame stalled")
	// ErrMalformed: the bytes of a header or body contradict its schema.
	ErrMalformed = errors.New("malformed request")
	// ErrUnsupported: there is no decoder for that API key or version.
	ErrUnsupported = errors.New("unsupported api")
	// ErrIdle: nothing happened on the connection for IdleTimeout.
	ErrIdle = errors.New("connection idle")
	// ErrWrite: a response could not be written.
	ErrWrite = errors.New("write response")
	// ErrTooManyConnections: MaxConnections are open.
	ErrTooManyConnections = errors.New("too many connections")
	// ErrServerClosed: the server is shutting down or has.
	ErrServerClosed = errors.New("server closed")
	// ErrReset: the connection was reset on purpose, by ResetAll.
	ErrReset = errors.New("connection reset by policy")
)

// errPeerClosed is the ordinary end of a connection; it is not logged.
var errPeerClosed = errors.New("peer closed the connection")
