// Package console serves HTTP: metrics for Prometheus, health checks, the profiler, and a page for people. It changes
// nothing and knows the broker only through Node, so that it answers while the broker starts, and when its disk is stalled.
package console

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second // to read a request and to write an answer
	profileTimeout = 10 * time.Minute // of the profiler, which records before it answers
	idleTimeout    = 2 * time.Minute
	headerBytes    = 64 << 10
	scrapesMax     = 4 // at a time; more are told to come later
)

// Disk is the state of the data directory in one word.
type Disk string

// The states of a disk.
const (
	DiskStarting Disk = "starting" // the broker is not up yet
	DiskOK       Disk = "ok"
	DiskFull     Disk = "full"    // produce is refused, everything else goes on
	DiskStalled  Disk = "stalled" // produce is refused until the disk answers; what is in memory is served
	DiskFailed   Disk = "failed"  // stalled or poisoned; the broker gives up
)

// Health is what the health checks answer from.
type Health struct {
	Ready    bool // clients are served
	Disk     Disk
	OldestIO time.Duration // age of the oldest disk operation in flight, 0 if none
	Reason   string        // why it is not ready or the disk not ok
}

// Topic is a topic as the page shows it.
type Topic struct {
	Name       string
	Internal   bool
	Partitions []Partition
}

// Partition is a partition as the page shows it.
type Partition struct {
	ID            int32
	Leader        int32
	LogStart      int64 // first offset
	HighWatermark int64
	Bytes         int64
}

// Cluster is the cluster as this node knows it.
type Cluster struct {
	ID              string
	Controller      int32 // -1: none known
	Nodes           []ClusterNode
	UnderReplicated int // partitions
	Offline         int // partitions
}

// ClusterNode is a node of the cluster.
type ClusterNode struct {
	ID               int32
	Addr, Rack       string
	Fenced, Stopping bool
	Leaving          bool // being decommissioned
	Leads, Replicas  int
	OutOfSync        int // of its replicas
}

// State says in a word how the node is.
func (n ClusterNode) State() string {
	switch {
	case n.Fenced:
		return "fenced"
	case n.Stopping:
		return "stopping"
	case n.Leaving:
		return "leaving"
	}
	return "alive"
}

// Node is the broker, as far as this package needs it. All methods must answer at once and without disk I/O.
type Node interface {
	Health() Health
	Topics() []Topic
	Cluster() Cluster
}

// Options of New.
type Options struct {
	Node     Node
	Gatherer prometheus.Gatherer
	Registry prometheus.Registerer // for the scrapes' own metrics; may be nil
	Logger   *slog.Logger          // nil: discard
	Version  string
	NodeID   int32
	Kafka    string // address that is shown
	Started  time.Time
}

// Server answers HTTP requests.
type Server struct {
	o    Options
	http *http.Server
}

// New makes a server; Serve runs it.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
		// No WriteTimeout: the profiler refuses to record for longer than that. limited sets the deadline instead.
	}
	return s
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	page := func(pattern string, h http.Handler) { mux.Handle(pattern, limited(requestTimeout, h)) }
	page("GET /{$}", http.HandlerFunc(s.index))
	page("GET /health/live", http.HandlerFunc(s.live))
	page("GET /health/ready", http.HandlerFunc(s.ready))
	page("GET /health/disk", http.HandlerFunc(s.disk))
	page("GET /health/cluster", http.HandlerFunc(s.cluster))
	page("GET /metrics", promhttp.HandlerFor(s.o.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		Registry:            s.o.Registry,
		MaxRequestsInFlight: scrapesMax,
		Timeout:             requestTimeout - time.Second,
	}))
	profile := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, limited(profileTimeout, h)) }
	profile("/debug/pprof/", pprof.Index)
	profile("/debug/pprof/cmdline", pprof.Cmdline)
	profile("/debug/pprof/profile", pprof.Profile)
	profile("/debug/pprof/trace", pprof.Trace)
	profile("/debug/pprof/symbol", pprof.Symbol)
	return mux
}

// limited bounds the time in which the answer must have been written.
func limited(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A recorder in a test has no deadline to set; a connection always has.
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

// Serve answers on ln until Shutdown or Close; then it returns nil.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(bounded(ln, connectionsMax)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close stops listening and cuts every connection off.
func (s *Server) Close() {
	if err := s.http.Close(); err != nil {
		s.o.Logger.Debug("HTTP server not closed", "error", err)
	}
}

// Shutdown stops listening and waits for requests in progress, at most until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}
