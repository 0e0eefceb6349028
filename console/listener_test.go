package console

import (
	"net"
	"testing"
)

// pipes is a listener whose connections the test makes.
type pipes struct{ conns chan net.Conn }

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipes) Close() error   { close(p.conns); return nil }
func (p *pipes) Addr() net.Addr { return nil }

// TestConnectionsAreBounded: with all slots taken nothing is accepted, a close lets one in, once, and Close ends who waits.
func TestConnectionsAreBounded(t *testing.T) {
	p := &pipes{conns: make(chan net.Conn, 8)}
	for range cap(p.conns) {
		a, b := net.Pipe()
		p.conns <- a
		defer b.Close()
	}
	l := bounded(p, 2)
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error)
	accept := func() {
		_, err := l.Accept()
		accepted <- err
	}
	go accept()
	if left := len(p.conns); left != 6 || len(l.slots) != 2 {
		t.Fatalf("%d connections left of 8, %d slots taken; want 6 and 2", left, len(l.slots))
	}
	for range 2 { // closing twice gives one slot back
		_ = first.Close()
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if left := len(p.conns); left != 5 || len(l.slots) != 2 {
		t.Fatalf("%d connections left of 8, %d slots taken; want 5 and 2", left, len(l.slots))
	}
	go accept()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err == nil {
		t.Fatal("a connection was accepted beyond the bound")
	}
}
