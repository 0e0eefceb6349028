package raftmeta

import (
	"fmt"
	"slices"
)

func (c RegisterBroker) apply(b *builder) Result {
	if err := c.validate(); err != nil {
		return Result{Err: err}
	}
	next := Broker{
		ID: c.ID, Host: c.Host, Port: c.Port, Rack: c.Rack, Epoch: int64(b.index),
		PeerHost: c.PeerHost, PeerPort: c.PeerPort, Incarnation: c.Incarnation, Fenced: c.Fenced,
	}
	if was := b.next.Broker(c.ID); was != nil {
		next.Leaving = was.Leaving // a restart does not call a decommission off
		if c.Incarnation != ([16]byte{}) && was.Incarnation == c.Incarnation {
			next.Epoch, next.Fenced, next.ShuttingDown = was.Epoch, was.Fenced, was.ShuttingDown
		}
	}
	b.putBroker(next)
	return Result{BrokerEpoch: next.Epoch}
}

func (c RegisterBroker) validate() error {
	switch {
	case c.ID < 0:
		return fmt.Errorf("%w: id %d is negative", ErrInvalidBroker, c.ID)
	case c.Host == "" || len(c.Host) > hostBytesMax:
		return fmt.Errorf("%w: broker %d: host of %d bytes, want 1 to %d", ErrInvalidBroker, c.ID, len(c.Host), hostBytesMax)
	case c.Port < 1 || c.Port > portMax:
		return fmt.Errorf("%w: broker %d: port %d, want 1 to %d", ErrInvalidBroker, c.ID, c.Port, portMax)
	case len(c.Rack) > hostBytesMax:
		return fmt.Errorf("%w: broker %d: rack of %d bytes, want at most %d", ErrInvalidBroker, c.ID, len(c.Rack), hostBytesMax)
	case len(c.PeerHost) > hostBytesMax:
		return fmt.Errorf("%w: broker %d: peer host of %d bytes, want at most %d", ErrInvalidBroker, c.ID, len(c.PeerHost), hostBytesMax)
	case c.PeerHost != "" && (c.PeerPort < 1 || c.PeerPort > portMax):
		return fmt.Errorf("%w: broker %d: peer port %d, want 1 to %d", ErrInvalidBroker, c.ID, c.PeerPort, portMax)
	case c.PeerHost == "" && c.PeerPort != 0:
		return fmt.Errorf("%w: broker %d: peer port %d without a host", ErrInvalidBroker, c.ID, c.PeerPort)
	}
	return nil
}

func (c SetBroker) apply(b *builder) Result {
	was := b.next.Broker(c.ID)
	switch {
	case was == nil:
		return failed("%w: broker %d is not registered", ErrInvalidBroker, c.ID)
	case was.Epoch != c.Epoch:
		return failed("%w: broker %d has epoch %d, not %d", ErrStaleBroker, c.ID, was.Epoch, c.Epoch)
	}
	next := *was
	next.Fenced, next.ShuttingDown = c.Fenced, c.ShuttingDown
	b.putBroker(next)
	return Result{BrokerEpoch: next.Epoch}
}

func (c SetLeaving) apply(b *builder) Result {
	was := b.next.Broker(c.ID)
	if was == nil {
		return failed("%w: broker %d is not registered", ErrInvalidBroker, c.ID)
	}
	if was.Leaving != c.Leaving {
		next := *was
		next.Leaving = c.Leaving
		b.putBroker(next)
	}
	return Result{BrokerEpoch: was.Epoch}
}

func (c UnregisterBroker) apply(b *builder) Result {
	if b.next.Broker(c.ID) == nil {
		return failed("%w: broker %d is not registered", ErrInvalidBroker, c.ID)
	}
	for t := range b.names.all() {
		for i := range t.Partitions {
			if slices.Contains(t.Partitions[i].Replicas, c.ID) {
				return failed("%w: broker %d still holds a replica of %s-%d", ErrInvalidCommand, c.ID, t.Name, i)
			}
		}
	}
	b.removeBroker(c.ID)
	return Result{}
}
