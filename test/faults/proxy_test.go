package faults

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

// cutter is a TCP proxy that cuts a connection, in both directions and without warning, after a random number of bytes of
// responses: requests have arrived whose answers never do.
type cutter struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	rng   *rand.Rand
	off   bool // no longer cuts
	cuts  int
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newCutter(t *testing.T, target string, seed uint64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: target, rng: rand.New(rand.NewPCG(seed, 2)), conns: map[net.Conn]bool{}}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for conn := range c.conns {
			_ = conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.wg.Go(func() { c.serve(conn) })
	}
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	broker, err := net.DialTimeout("tcp", c.target, 5*time.Second)
	if err != nil {
		return
	}
	defer broker.Close()
	c.hold(client, broker)
	defer c.drop(client, broker)
	c.wg.Go(func() {
		_, _ = io.Copy(broker, client)
		_ = broker.Close()
	})
	if budget := c.budget(); budget > 0 {
		n, _ := io.CopyN(client, broker, budget)
		if n == budget {
			c.mu.Lock()
			c.cuts++
			c.mu.Unlock()
			reset(client)
		}
		return
	}
	_, _ = io.Copy(client, broker)
}

// reset makes Close send RST, so that what was under way is lost.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// budget is how many response bytes the next connection lives for; 0 for ever. The handshake alone takes several hundred.
func (c *cutter) budget() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return 0
	}
	return 600 + c.rng.Int64N(3000)
}

func (c *cutter) hold(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		c.conns[conn] = true
	}
}

func (c *cutter) drop(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		delete(c.conns, conn)
	}
}

// heal lets connections live from now on.
func (c *cutter) heal() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = true
	return c.cuts
}

// TestIdempotentRetries: idempotent producers send again what they got no answer for; nothing is there twice or missing.
func TestIdempotentRetries(t *testing.T) {
	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d", seed)
	broker := weirproc.Start(t, weirproc.Options{})
	admin := newAdmin(t, broker.Addr)
	createTopics(t, admin, killPartitions, "retried")
	proxy := newCutter(t, broker.Addr, seed)
	throughProxy := kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, proxy.listener.Addr().String())
	})
	l := verify.New("retried", killPartitions)
	var producers []*verify.Producer
	for i, p := range verify.Profiles {
		if !p.Idempotent {
			continue
		}
		pr := verify.NewProducer(i, p, l, killPartitions, quick(broker.Addr, throughProxy))
		t.Cleanup(pr.Close)
		producers = append(producers, pr)
		if err := pr.Start(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(4 * time.Second)
	cuts := proxy.heal()
	for _, pr := range producers {
		if err := pr.Stop(limit(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	verifyLedger(t, l, broker.Addr, admin, map[int32]*verify.Scan{})
	count, _ := l.Acknowledged()
	t.Logf("%d records acknowledged over %d cut connections", count, cuts)
	if cuts < 5 || count < 100 {
		t.Fatalf("only %d cuts and %d records: nothing was tested", cuts, count)
	}
}
