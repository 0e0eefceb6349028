package netproto

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"
)

func benchServer(b *testing.B, handle func(*Request)) net.Conn {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewServer(Options{Handler: testHandler{handle: handle}})
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
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	return nc
}

// BenchmarkRoundTrip is one small request at a time: answered by the reader, or from another goroutine as the log's
// committer does.
func BenchmarkRoundTrip(b *testing.B) {
	for name, async := range map[string]bool{"inline": false, "other goroutine": true} {
		b.Run(name, func(b *testing.B) {
			requests := make(chan *Request, 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for r := range requests {
					r.Respond(echoPayload(r))
				}
			}()
			nc := benchServer(b, func(r *Request) {
				if async {
					requests <- r
					return
				}
				r.Respond(echoPayload(r))
			})
			request := heartbeat(1)
			response := make([]byte, 8+len(request)-sizeBytes-8-2-len("client"))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := nc.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, response); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			close(requests)
			<-done
		})
	}
}

// BenchmarkPipeline keeps 32 requests in flight, answered in batches from another goroutine.
func BenchmarkPipeline(b *testing.B) {
	requests := make(chan *Request, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := range requests {
			r.Respond(echoPayload(r))
		}
	}()
	nc := benchServer(b, func(r *Request) { requests <- r })
	request := heartbeat(1)
	b.ReportAllocs()
	go func() {
		slots := bufio.NewWriterSize(nc, 64<<10)
		for range b.N {
			if _, err := slots.Write(request); err != nil {
				return
			}
		}
		slots.Flush()
	}()
	in := bufio.NewReaderSize(nc, 64<<10)
	var head [4]byte
	for range b.N {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := in.Discard(int(binary.BigEndian.Uint32(head[:]))); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	close(requests)
	<-done
}

// BenchmarkLargeRequest sends 1 MiB requests.
func BenchmarkLargeRequest(b *testing.B) {
	nc := benchServer(b, func(r *Request) {
		p := NewPayload()
		p.SetOwn(append(p.Own(), 1, 2, 3, 4))
		r.Respond(p)
	})
	request := framed(append(heartbeat(1)[sizeBytes:], make([]byte, 1<<20)...))
	response := make([]byte, 12)
	b.ReportAllocs()
	b.SetBytes(int64(len(request)))
	for b.Loop() {
		if _, err := nc.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, response); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargeResponse sends 1 MiB responses of 16 KiB pieces.
func BenchmarkLargeResponse(b *testing.B) {
	piece := make([]byte, 16<<10)
	var pieces [][]byte
	for range 64 {
		pieces = append(pieces, piece)
	}
	nc := benchServer(b, func(r *Request) {
		p := NewPayload()
		p.RefOwned(pieces, nil)
		r.Respond(p)
	})
	request := heartbeat(1)
	response := make([]byte, 8+1<<20)
	b.ReportAllocs()
	b.SetBytes(int64(len(response)))
	for b.Loop() {
		if _, err := nc.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, response); err != nil {
			b.Fatal(err)
		}
	}
}
