package segment

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkReadSequential reads a flushed log from its beginning to its end, again and again, as a consumer that is far behind
// does: from the page cache, without ("read") and with ("send") a socket that takes it.
func BenchmarkReadSequential(b *testing.B) {
	const logBytes = 128 << 20
	for _, batch := range []int{1 << 10, 16 << 10, 1 << 20} {
		s := benchStore(b)
		s.flusher.s.opt.FlushBytes = 1 << 30
		l := openLog(b, s, "t-0", defaultConfig())
		fillForBench(b, l, batch, logBytes)
		flushAll(b, s)
		for _, maxBytes := range []int{64 << 10, 1 << 20, 8 << 20} {
			name := fmt.Sprintf("batch=%d/max=%d", batch, maxBytes)
			b.Run("read/"+name, func(b *testing.B) { benchSequential(b, l, maxBytes, nil) })
			b.Run("send/"+name, func(b *testing.B) {
				c := discardingPeer(b)
				benchSequential(b, l, maxBytes, func(r *Range) {
					bufs := net.Buffers(append([][]byte(nil), r.Buffers()...))
					if _, err := bufs.WriteTo(c); err != nil {
						b.Fatal(err)
					}
				})
			})
		}
	}
}

func fillForBench(b *testing.B, l *Log, batch int, total int64) {
	b.Helper()
	made := makeBatch(b, 0, 1, batch, 0)
	for next := int64(0); l.Size() < total; next++ {
		made.SetBaseOffset(next)
		if err := l.s.Reserve(b.Context(), len(made)); err != nil {
			b.Fatal(err)
		}
		if _, err := l.Append(made, nil); err != nil {
			b.Fatal(err)
		}
		l.Commit(next+1, uint64(next+1))
	}
}

func benchSequential(b *testing.B, l *Log, maxBytes int, use func(*Range)) {
	b.ReportAllocs()
	var bytes, offset int64
	for b.Loop() {
		r, err := l.Read(offset, l.End(), maxBytes, true)
		if err != nil {
			b.Fatal(err)
		}
		if use != nil {
			use(r)
		}
		bytes += int64(r.Size())
		if offset = r.NextOffset(); offset == l.End() {
			offset = 0
		}
		r.Release()
	}
	b.SetBytes(bytes / int64(b.N))
}

// discardingPeer is a connection whose other end reads and forgets.
func discardingPeer(b *testing.B) net.Conn {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, peer, make([]byte, 1<<20))
	}()
	b.Cleanup(func() {
		_ = c.Close()
		<-done
		_ = peer.Close()
		_ = ln.Close()
	})
	return c
}
