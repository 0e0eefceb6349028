package netproto

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
)

func benchPeers(b *testing.B) *Peers {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewServer(Options{Handler: NewPeerHandler(testHandler{handle: echo}, PeerHandlerOptions{NodeID: 2}), MaxInFlight: 2048})
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	b.Cleanup(func() {
		s.ResetAll()
		<-served
		s.wg.Wait()
	})
	return newPeers(b, PeersOptions{Resolve: at(ln.Addr().String())})
}

// BenchmarkPeerCall is one call at a time, and 64 callers at once, with the body sent there and back.
func BenchmarkPeerCall(b *testing.B) {
	for _, size := range []int{100, 1 << 20} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%d bytes, %d callers", size, callers), func(b *testing.B) {
				p := benchPeers(b)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				body := make([]byte, size)
				call := func() {
					r, err := p.Call(ctx, 2, ClassProduce, KeyForward, 0, body)
					if err != nil {
						b.Error(err)
						return
					}
					r.Release()
				}
				call()
				b.ReportAllocs()
				b.SetBytes(int64(2 * size))
				b.ResetTimer()
				if callers == 1 {
					for range b.N {
						call()
					}
					return
				}
				work := make(chan struct{}, callers)
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for range work {
							call()
						}
					})
				}
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				wg.Wait()
			})
		}
	}
}
