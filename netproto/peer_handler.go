package netproto

import (
	"fmt"
	"log/slog"

	"weir/internal/iobuf"
)

// PeerHandlerOptions configure NewPeerHandler.
type PeerHandlerOptions struct {
	NodeID    int32
	ClusterID func() string    // "": not known yet
	OnHello   func(node int32) // a node has connected; may be nil; must not block
	Logger    *slog.Logger     // nil: discard. A refusal is logged by the Server, rate-limited.
}

// NewPeerHandler wraps the handler of the listener for peers: each connection must begin with Hello, and those of another cluster, or meant
// for another node, are refused.
func NewPeerHandler(next Handler, o PeerHandlerOptions) Handler {
	if o.ClusterID == nil {
		o.ClusterID = func() string { return "" }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &peerHandler{next: next, o: o}
}

type peerHandler struct {
	next Handler
	o    PeerHandlerOptions
}

// peerIdentity is what an accepted Hello said.
type peerIdentity struct {
	node  int32
	class Class
}

// Peer is the node at the other end and what it uses the connection for; ok is false where no Hello was accepted: on the clients' listener.
func (c *Conn) Peer() (node int32, class Class, ok bool) {
	if id := c.peer.Load(); id != nil {
		return id.node, id.class, true
	}
	return -1, 0, false
}

// Handle lets requests through once Hello was said.
func (h *peerHandler) Handle(r *Request) {
	known := r.Conn.peer.Load() != nil
	switch {
	case known && r.APIKey != KeyHello:
		h.next.Handle(r)
	case known:
		r.Close(fmt.Errorf("%w: a second Hello on the connection", ErrPeerRefused))
	case r.APIKey != KeyHello:
		r.Close(fmt.Errorf("%w: %s before Hello; is this a client? This is the listener for nodes (peer-addr)", ErrPeerRefused, APIName(r.APIKey)))
	default:
		h.hello(r)
	}
}

// Closed passes it on.
func (h *peerHandler) Closed(c *Conn) { h.next.Closed(c) }

// hello answers a Hello. A refusal is answered, so that the other side can say why, and then the connection ends.
func (h *peerHandler) hello(r *Request) {
	answer := helloAnswer{node: h.o.NodeID, clusterID: h.o.ClusterID()}
	said, err := parseHello(r.Body)
	switch {
	case r.Version != peerProtocol:
		answer.code, answer.message = helloWrongProtocol, fmt.Sprintf("protocol version %d, node %d speaks %d", r.Version, h.o.NodeID, peerProtocol)
	case err != nil:
		answer.code, answer.message = helloMalformed, err.Error()
	default:
		answer.code, answer.message = said.judge(h.o.NodeID, answer.clusterID)
	}
	var closing error
	if answer.code != helloWelcome {
		closing = fmt.Errorf("%w: %v: %s", ErrPeerRefused, answer.code, answer.message)
	} else {
		r.Conn.peer.Store(&peerIdentity{said.node, said.class})
		r.Conn.frames.max, r.Conn.frames.limit = r.Conn.srv.opts.MaxFrameBytes, frameLimit // Handle is the reader's
		h.o.Logger.Debug("node connected", "node", said.node, "class", said.class.String(), "remote", r.Conn.RemoteAddr())
		if h.o.OnHello != nil {
			h.o.OnHello(said.node)
		}
	}
	r.respondClosing(answer.appendTo(nil), closing)
}

// RespondRaw answers a request of a private API: the response is the correlation id and body, which is copied.
func (r *Request) RespondRaw(body []byte) { r.respondClosing(body, nil) }

// respondClosing answers with body and, if closing is not nil, ends the connection after that.
func (r *Request) respondClosing(body []byte, closing error) {
	p := NewPayload()
	if len(body) > ownBytesKept { // a large one goes into pooled memory
		buf := iobuf.Get(len(body))
		copy(buf.Bytes(), body)
		p.RefOwned([][]byte{buf.Bytes()}, buf)
	} else {
		p.SetOwn(append(p.Own(), body...))
	}
	p.seal(r.CorrelationID, flexibleResponse(r.APIKey, r.Version))
	r.Conn.answer(r, p, closing)
}
