// Package netproto speaks Kafka's wire protocol on TCP: it reads request frames, hands them to a Handler, and writes
// the responses in the order of the requests; and it calls the other nodes of a cluster in the same protocol.
//
// # Threads
//
// Each connection has a reader goroutine, which also runs Handler.Handle, and a writer goroutine, started the first time a
// response cannot be written by the reader itself. Respond may be called from any goroutine, also from one that must never
// touch a socket (the committer of the log): it takes the connection's lock for a few instructions and wakes the writer. The
// writer takes every consecutive response that is ready and sends them with one writev.
//
// # Limits
//
// A frame's size is checked before anything is done about it, and memory follows the bytes that have arrived, not the size a
// stranger announced. A connection has a bounded number of requests, and of their bytes, in flight; at the bound the reader
// stops reading, and TCP tells the client to wait. So does it while the requests of all connections together are at their bound
// (memory.go). Every read within a frame and every write has a deadline; between frames the idle timeout applies.
//
// # Other nodes
//
// Peers is the other side: it calls other nodes, over one connection per node and class of traffic, with requests pipelined by correlation
// id (peer_link.go has a call's way). The framing is Kafka's; each connection begins with Hello (peer_hello.go), which NewPeerHandler demands at
// the other end. Every call has one outcome, within its context; what happens when a queue is full is written down in docs/ARCHITECTURE.md.
//
// # Buffers
//
// Small frames that arrive together share one read buffer, each holding a reference; a large frame is read straight into
// a buffer of its own. A Request's Buf is released when its response was written, so whoever keeps a part of the request
// longer retains it. A response is a Payload: bytes of its own, and references to the bytes of others, which are released
// once they were written or the connection has died.
//
// # Codecs
//
// Produce and Fetch have hand-written codecs, which keep records as views and do not allocate once warm. All other APIs go
// through kmsg, behind a walk over the bytes by the request's schema (schema.go), which bounds what kmsg will allocate.
package netproto
