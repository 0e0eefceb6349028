package limits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"weir/bench/result"
)

const sendBytes = 1 << 20

// pair connects two loopback sockets.
func pair() (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, fmt.Errorf("dial: %w", err)
	}
	if b, err = l.Accept(); err != nil {
		_ = a.Close()
		return nil, nil, fmt.Errorf("accept: %w", err)
	}
	return a, b, nil
}

// loopback measures one byte there and back between two goroutines.
func loopback(ctx context.Context, limit time.Duration) ([]result.Limit, error) {
	a, b, err := pair()
	if err != nil {
		return nil, err
	}
	defer a.Close()
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		_, _ = io.CopyBuffer(struct{ io.Writer }{b}, struct{ io.Reader }{b}, make([]byte, 1)) // ends with the connection
	}()
	defer func() {
		_ = b.Close()
		<-echoed
	}()
	one := make([]byte, 1)
	hist, _, err := times(ctx, limit, func(int) error {
		if _, err := a.Write(one); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		if _, err := io.ReadFull(a, one); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return percentiles("loopback round trip of one byte", "two goroutines of one process", hist), nil
}

// sendfile sends a cached file over loopback in a loop on one thread; the receiver throws it away.
func sendfile(path string) func(context.Context, time.Duration) ([]result.Limit, error) {
	return func(ctx context.Context, limit time.Duration) ([]result.Limit, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("sendfile: %w", err)
		}
		defer f.Close()
		if _, err := io.Copy(io.Discard, f); err != nil { // into the page cache
			return nil, fmt.Errorf("sendfile: %w", err)
		}
		a, b, err := pair()
		if err != nil {
			return nil, err
		}
		received := make(chan struct{})
		go func() {
			defer close(received)
			buf := make([]byte, 256<<10)
			for {
				if _, err := b.Read(buf); err != nil {
					return
				}
			}
		}()
		limits, err := sendLoop(ctx, a, int(f.Fd()), limit)
		_ = a.Close()
		<-received
		_ = b.Close()
		return limits, err
	}
}

func sendLoop(ctx context.Context, conn net.Conn, in int, limit time.Duration) ([]result.Limit, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.New("sendfile: not a TCP connection")
	}
	dup, err := tcp.File() // a blocking descriptor: the thread's CPU time is the loop's
	if err != nil {
		return nil, fmt.Errorf("sendfile: %w", err)
	}
	defer dup.Close()
	out := int(dup.Fd())
	if err := unix.SetNonblock(out, false); err != nil {
		return nil, fmt.Errorf("sendfile: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := threadCPU()
	if err != nil {
		return nil, err
	}
	var sent int64
	start := time.Now()
	for time.Since(start) < limit && ctx.Err() == nil {
		at := sent % (fileBytes - sendBytes)
		n, err := unix.Sendfile(out, in, &at, sendBytes)
		if err != nil {
			return nil, fmt.Errorf("sendfile: %w", err)
		}
		sent += int64(n)
	}
	took := time.Since(start)
	after, err := threadCPU()
	if err != nil {
		return nil, err
	}
	gb := float64(sent) / 1e9
	return []result.Limit{
		{Name: "sendfile from the page cache over loopback", Value: gb / took.Seconds(), Unit: "GB/s", Note: "1 MiB per call, one connection"},
		{Name: "sendfile, CPU of the sender", Value: (after - before).Seconds() / gb, Unit: "s/GB", Note: "the sending thread alone"},
	}, nil
}

func threadCPU() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		return 0, fmt.Errorf("thread CPU: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
