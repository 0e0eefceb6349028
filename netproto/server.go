package netproto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// Options configure a Server. Only Handler is required.
type Options struct {
	Handler          Handler
	MaxFrameBytes    int           // largest request (socket.request.max.bytes); default 100 MiB
	MaxInFlight      int           // requests in flight per connection; default 64
	MaxInFlightBytes int64         // bytes of requests in flight per connection; default 64 MiB. One request may be larger.
	MaxRequestBytes  int64         // bytes of requests in flight on all connections (queued.max.request.bytes); 0 or -1: no bound
	MaxConnections   int           // 0: no bound
	AnyOrder         bool          // answers go out as they are ready: whoever connects matches them by correlation id
	IdleTimeout      time.Duration // connections.max.idle.ms; default 10 min; < 0: about a century
	ReadTimeout      time.Duration // a begun frame must go on within it; default 30 s
	WriteTimeout     time.Duration // a peer must take 1 MiB of response within it; default 30 s
	Logger           *slog.Logger  // nil: discard
	Metrics          *Metrics      // nil: unregistered ones
	// OnDone, if set, is called when a request is over, with its Budget complete: its answer was written or dropped. It runs on whoever wrote,
	// must not keep the request, and must neither block nor cost anything in the usual case.
	OnDone func(r *Request)

	Locks *lockmeter.Meter // measures the locks; may be nil
}

const (
	noTimeout    = 100 * 365 * 24 * time.Hour
	acceptPause  = 100 * time.Millisecond
	causeCleanup = "peer closed"
)

func (o Options) withDefaults() (Options, error) {
	if o.Handler == nil {
		return o, errors.New("netproto: Options.Handler is nil")
	}
	o.MaxFrameBytes = orDefault(o.MaxFrameBytes, 100<<20)
	o.MaxInFlight = orDefault(o.MaxInFlight, 64)
	o.MaxInFlightBytes = orDefault(o.MaxInFlightBytes, 64<<20)
	o.IdleTimeout = orDefault(o.IdleTimeout, 10*time.Minute)
	o.ReadTimeout = orDefault(o.ReadTimeout, 30*time.Second)
	o.WriteTimeout = orDefault(o.WriteTimeout, 30*time.Second)
	if o.IdleTimeout < 0 {
		o.IdleTimeout = noTimeout
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = -1
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.MaxFrameBytes < headerBytesMin || o.MaxInFlight < 1 || o.MaxInFlightBytes < 1 || o.MaxConnections < 0 || o.ReadTimeout < 0 || o.WriteTimeout < 0 {
		return o, fmt.Errorf("netproto: bad options: frame %d B, in flight %d requests and %d B, %d connections, read timeout %v, write timeout %v",
			o.MaxFrameBytes, o.MaxInFlight, o.MaxInFlightBytes, o.MaxConnections, o.ReadTimeout, o.WriteTimeout)
	}
	return o, nil
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Server accepts connections and serves them.
type Server struct {
	opts    Options
	metrics *Metrics
	limited *limitedLog
	memory  requestMemory
	clk     clock.Clock
	wg      sync.WaitGroup // every goroutine of every connection
	stop    chan struct{}  // closed when the server shuts down

	mu struct {
		lockmeter.Mutex
		conns     map[*Conn]struct{}
		listeners map[net.Listener]struct{}
		nextID    uint64
		stopped   bool
		empty     chan struct{} // not nil: closed when the last connection is gone
	}
}

// NewServer makes a server.
func NewServer(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, metrics: o.Metrics, clk: clock.Real{}, stop: make(chan struct{})}
	s.memory = requestMemory{max: o.MaxRequestBytes, metrics: o.Metrics}
	s.mu.MeterBy(o.Locks, lockmeter.Server)
	s.memory.mu.MeterBy(o.Locks, lockmeter.Server)
	s.limited = newLimitedLog(o.Logger, s.clk)
	s.mu.conns = make(map[*Conn]struct{})
	s.mu.listeners = make(map[net.Listener]struct{})
	return s, nil
}

// Serve accepts connections from ln until the server or the listener is closed. After Shutdown it returns ErrServerClosed.
// It may run for several listeners at a time.
func (s *Server) Serve(ln net.Listener) error {
	if !s.track(ln) {
		_ = ln.Close() // never used
		return ErrServerClosed
	}
	defer s.untrack(ln)
	for {
		nc, err := ln.Accept()
		if err != nil {
			if s.isStopped() {
				return ErrServerClosed
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
			}
			// Out of descriptors or memory, or a peer that was gone already: both pass.
			s.limited.warn("cannot accept connections", ln.Addr().String(), slog.String("error", err.Error()))
			s.pause(acceptPause)
			continue
		}
		s.start(nc)
	}
}

// pause waits, or until the server stops.
func (s *Server) pause(d time.Duration) {
	done := make(chan struct{})
	t := s.clk.AfterFunc(d, func() { close(done) })
	defer t.Stop()
	select {
	case <-done:
	case <-s.stop:
	}
}

// start serves a new connection, unless there are too many.
func (s *Server) start(nc net.Conn) {
	s.mu.Lock()
	if s.mu.stopped {
		s.mu.Unlock()
		_ = nc.Close() // the peer learns it from the close
		return
	}
	open := len(s.mu.conns)
	if s.opts.MaxConnections > 0 && open >= s.opts.MaxConnections {
		s.mu.Unlock()
		s.refuse(nc, open)
		return
	}
	s.mu.nextID++
	c := newConn(s, nc, s.mu.nextID)
	s.mu.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	s.metrics.connections.Inc()
	s.metrics.connectionsTotal.Inc()
	go func() {
		defer s.wg.Done()
		c.serve()
	}()
}

func (s *Server) refuse(nc net.Conn, open int) {
	s.metrics.refused.Inc()
	peer := nc.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(peer); err == nil {
		peer = host
	}
	s.limited.warn("connection refused", peer,
		slog.String("error", fmt.Sprintf("%v: %d open, at most %d (max.connections)", ErrTooManyConnections, open, s.opts.MaxConnections)))
	_ = nc.Close() // the peer learns it from the close, when the log has it
}

// connClosed is called once for each connection, when it is closed.
func (s *Server) connClosed(c *Conn, cause error) {
	s.mu.Lock()
	delete(s.mu.conns, c)
	if len(s.mu.conns) == 0 && s.mu.empty != nil {
		close(s.mu.empty)
		s.mu.empty = nil
	}
	s.mu.Unlock()
	s.metrics.connections.Dec()
	name, fault := classify(cause)
	s.metrics.closed.WithLabelValues(name).Inc()
	if fault {
		s.limited.warn("connection closed: "+name, c.host, c.logAttrs(cause)...)
		return
	}
	s.opts.Logger.Debug("connection closed: "+name, "remote", c.remote, "connection", c.id)
}

// classify names a cause of closing and says whether it deserves a warning.
func classify(cause error) (name string, fault bool) {
	for _, k := range []struct {
		err   error
		name  string
		fault bool
	}{
		{errPeerClosed, causeCleanup, false}, {ErrServerClosed, "server closed", false}, {ErrIdle, "idle", false},
		{ErrReset, "reset by policy", false}, {ErrFrameSize, "bad frame size", true}, {ErrTruncated, "truncated frame", true},
		{ErrFrameStalled, "stalled frame", true}, {ErrMalformed, "malformed request", true},
		{ErrUnsupported, "unsupported api", true}, {ErrWrite, "write failed", true}, {ErrPeerRefused, "peer refused", true},
	} {
		if errors.Is(cause, k.err) {
			return k.name, k.fault
		}
	}
	return "protocol error", true
}

// Shutdown stops accepting and reading, waits until the requests in flight are answered, and closes the connections. When ctx
// ends first, what is left is closed at once and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	conns, empty := s.stopAccepting()
	for _, c := range conns {
		c.drain()
	}
	select {
	case <-empty:
	case <-ctx.Done():
		s.closeAll((*Conn).close, ErrServerClosed)
		return fmt.Errorf("shutdown of %d connections: %w", len(conns), ctx.Err())
	}
	ended := make(chan struct{})
	go func() { s.wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done(): // a connection has gone whose reader is still in Handle
		return fmt.Errorf("shutdown of %d connections: %w", len(conns), ctx.Err())
	}
}

// ResetAll stops accepting and resets every connection at once (SO_LINGER 0), so that clients notice now and go elsewhere. It is for a
// broker that cannot serve any more.
func (s *Server) ResetAll() {
	s.stopAccepting()
	s.closeAll((*Conn).reset, ErrReset)
}

func (s *Server) closeAll(end func(*Conn, error), cause error) {
	s.mu.Lock()
	conns := make([]*Conn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		end(c, cause)
	}
}

func (s *Server) stopAccepting() (conns []*Conn, empty <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.stopped {
		s.mu.stopped = true
		close(s.stop)
	}
	for ln := range s.mu.listeners {
		_ = ln.Close() // Serve sees it
	}
	for c := range s.mu.conns {
		conns = append(conns, c)
	}
	done := s.mu.empty
	if done == nil {
		done = make(chan struct{})
		if len(conns) == 0 {
			close(done)
		} else {
			s.mu.empty = done
		}
	}
	return conns, done
}

func (s *Server) track(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.stopped {
		return false
	}
	s.mu.listeners[ln] = struct{}{}
	return true
}

func (s *Server) untrack(ln net.Listener) {
	s.mu.Lock()
	delete(s.mu.listeners, ln)
	s.mu.Unlock()
	_ = ln.Close() // closed already, or not accepted from any more
}

func (s *Server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.stopped
}

// Connections is the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.conns)
}
