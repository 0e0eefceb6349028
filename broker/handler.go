package broker

import (
	"fmt"

	"weir/internal/budget"
	"weir/netproto"
)

// Handle serves one request on its connection's reader goroutine (netproto.Handler). A request that cannot be
// understood closes the connection, as in Kafka: there is no error answer that its sender could read. The exception is
// ApiVersions in an unknown version, which is answered in version 0.
func (b *Broker) Handle(r *netproto.Request) {
	b.serve(r, clientPeer)
}

// serve answers one of Kafka's requests; peer is the node it came from, or clientPeer.
func (b *Broker) serve(r *netproto.Request, peer int32) {
	b.onBusy()
	if r.Conn.State == nil {
		r.Conn.State = newConnState(b)
	}
	if peer == clientPeer {
		r.Trace = budget.Trace{} // who is no node has no say in what is exported
	}
	c := &call{b: b, r: r, peer: peer}
	a := apisByKey[r.APIKey]
	switch {
	case a == nil:
		r.Close(fmt.Errorf("%w: api key %d", netproto.ErrUnsupported, r.APIKey))
		return
	case r.Version < a.min || r.Version > a.max:
		if a.key == apiVersionsKey {
			c.apiVersionsUnsupported()
			return
		}
		r.Close(fmt.Errorf("%w: %s version %d, served are %d to %d", netproto.ErrUnsupported, a.name, r.Version, a.min, a.max))
		return
	}
	if a.raw != nil {
		a.raw(c)
		return
	}
	req, err := netproto.DecodeKmsg(r)
	if err != nil {
		r.Close(err)
		return
	}
	if a.admin != nil {
		c.administer(a, req)
		return
	}
	a.handle(c, req)
}

// Closed ends what a connection was waiting for (netproto.Handler).
func (b *Broker) Closed(conn *netproto.Conn) {
	if s, ok := conn.State.(*connState); ok {
		s.close()
	}
}
