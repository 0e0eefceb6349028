package broker

import (
	"fmt"

	"weir/netproto"
)

// Handle serves one request on its connection's reader goroutine (netproto.Handler). A request that cannot be
// understood closes the connection, as in Kafka: there is no error answer that its sender could read. The exception is
// ApiVersions in an unknown version, which is answered in version 0.
func (b *Broker) Handle(r *netproto.Request) {
	b.onBusy()
	if r.Conn.State == nil {
		r.Conn.State = &connState{}
	}
	c := &call{b: b, r: r}
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
	a.handle(c, req)
}

// Closed ends what a connection was waiting for (netproto.Handler).
func (b *Broker) Closed(conn *netproto.Conn) {
	if s, ok := conn.State.(*connState); ok {
		s.close()
	}
}
