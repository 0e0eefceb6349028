package netproto

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestShutdownEndsWithItsContext: also while the reader of a connection that has gone is still in Handle.
func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Request, 1)
		free := make(chan struct{})
		ln := newPipeListener()
		s := start(t, Options{Handler: testHandler{handle: func(r *Request) {
			if r.CorrelationID == 1 {
				requests <- r
				return
			}
			<-free // a produce that waits for memory
			r.RespondNone()
		}}}, ln)
		nc := ln.dial()
		defer nc.Close()
		write(t, nc, append(heartbeat(1), heartbeat(2)...))
		(<-requests).Close(errors.New("over"))
		synctest.Wait()
		if n := s.Connections(); n != 0 {
			t.Fatalf("%d connections, the only one was closed", n)
		}
		time.AfterFunc(time.Hour, func() { close(free) })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v, want DeadlineExceeded", err)
		}
		time.Sleep(time.Hour)
	})
}
