package netproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inAnyOrder runs test with the requests 1 to n, which a server that answers in any order has read from nc.
func inAnyOrder(t *testing.T, n int, test func(t *testing.T, nc net.Conn, requests []*Request)) {
	synctest.Test(t, func(t *testing.T) {
		handled := make(chan *Request, n)
		ln := newPipeListener()
		start(t, Options{AnyOrder: true, Handler: testHandler{handle: func(r *Request) { handled <- r }}}, ln)
		nc := ln.dial()
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		requests := make([]*Request, n+1)
		for id := range n {
			write(t, nc, heartbeat(int32(id+1)))
			requests[id+1] = <-handled
		}
		test(t, nc, requests)
	})
}

// TestAnyOrder: an answer does not wait for those to earlier requests.
func TestAnyOrder(t *testing.T) {
	inAnyOrder(t, 4, func(t *testing.T, nc net.Conn, requests []*Request) {
		for _, id := range []int32{3, 1, 4, 2} {
			requests[id].Respond(echoPayload(requests[id]))
			if got, _ := readResponse(t, nc); got != id {
				t.Fatalf("response %d, only %d is ready", got, id)
			}
		}
	})
}

// TestAnyOrderIsFair: answers that wait for the writer leave in the order in which they were given.
func TestAnyOrderIsFair(t *testing.T) {
	inAnyOrder(t, 7, func(t *testing.T, nc net.Conn, requests []*Request) {
		order := []int32{5, 2, 6, 4, 3, 7} // the writer is stuck in the first; 1 waits all the time
		for _, id := range order {
			requests[id].Respond(echoPayload(requests[id]))
			synctest.Wait()
		}
		for _, id := range order {
			if got, _ := readResponse(t, nc); got != id {
				t.Fatalf("response %d where %d is due", got, id)
			}
		}
		requests[1].RespondNone()
	})
}

// TestAnyOrderEndsInTurn: what ends the connection waits for the answers to earlier requests all the same.
func TestAnyOrderEndsInTurn(t *testing.T) {
	inAnyOrder(t, 3, func(t *testing.T, nc net.Conn, requests []*Request) {
		requests[3].Close(errors.New("refused"))
		for _, id := range []int32{2, 1} {
			synctest.Wait()
			requests[id].Respond(echoPayload(requests[id]))
			if got, _ := readResponse(t, nc); got != id {
				t.Fatalf("response %d, only %d is ready", got, id)
			}
		}
		if n, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d bytes, %v; want the end", n, err)
		}
	})
}

// TestAnyOrderCallsGetTheirAnswers: each call gets its own answer, whoever gives it and when.
func TestAnyOrderCallsGetTheirAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 1000
		ln := newPipeListener()
		n := 0
		start(t, Options{AnyOrder: true, MaxInFlight: calls, Handler: NewPeerHandler(testHandler{handle: func(r *Request) {
			n++
			switch n % 3 {
			case 0:
				r.RespondRaw(r.Body)
			case 1:
				go r.RespondRaw(r.Body)
			default:
				time.AfterFunc(time.Duration(n*7%11)*time.Millisecond, func() { r.RespondRaw(r.Body) })
			}
		}}, PeerHandlerOptions{NodeID: 2})}, ln)
		p := newPeers(t, PeersOptions{Resolve: at("peer:1"), MaxInFlight: calls,
			dialer: func(context.Context, string) (net.Conn, error) { return ln.dial(), nil }})
		var wg sync.WaitGroup
		for i := range calls {
			want := fmt.Sprint(i)
			wg.Add(1)
			p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, []byte(want), func(r *PeerResponse, err error) {
				defer wg.Done()
				if err != nil {
					t.Error(err)
					return
				}
				if string(r.Body) != want {
					t.Errorf("%s answered with %s", want, r.Body)
				}
				r.Release()
			})
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		wg.Wait()
		p.Close()
	})
}
