package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"weir/console"
)

// consoleServer is the HTTP side of a run; its zero value, with no server, stands for http-addr "".
type consoleServer struct {
	server *console.Server
	ln     net.Listener
	served chan struct{}
}

// startConsole binds http-addr before the broker starts, so that health checks are answered meanwhile.
func (s *serving) startConsole(reg *prometheus.Registry) (*consoleServer, error) {
	if s.cfg.HTTPAddr == "" {
		return &consoleServer{}, nil
	}
	ln, err := net.Listen("tcp", s.cfg.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("http-addr %s: %w", s.cfg.HTTPAddr, err)
	}
	c := &consoleServer{ln: ln, served: make(chan struct{})}
	c.server = console.New(console.Options{
		Node: (*starting)(s), Gatherer: reg, Registry: reg, Logger: s.log,
		Version: versionText(), NodeID: s.cfg.NodeID, Kafka: s.cfg.KafkaAddr, Started: s.started,
	})
	go func() {
		defer close(c.served)
		if err := c.server.Serve(ln); err != nil {
			s.log.Error("metrics and health checks are no longer served", "error", err)
		}
	}()
	return c, nil
}

func (c *consoleServer) addr() string {
	if c.ln == nil {
		return "none"
	}
	return c.ln.Addr().String()
}

// close ends it at once.
func (c *consoleServer) close() {
	if c.server != nil {
		c.server.Close()
	}
}

func (c *consoleServer) stop(log *slog.Logger) {
	if c.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), consoleShutdown)
	defer cancel()
	if err := c.server.Shutdown(ctx); err != nil {
		log.Warn("HTTP requests were cut off", "error", err)
	}
	<-c.served
}

// starting answers for the node until there is one.
type starting serving

// Health is the node's, or says that it starts.
func (s *starting) Health() console.Health {
	if n := s.node.Load(); n != nil {
		return (*n).Health()
	}
	return console.Health{Disk: console.DiskStarting, Reason: "the broker is starting"}
}

// Topics are the node's, or none.
func (s *starting) Topics() []console.Topic {
	if n := s.node.Load(); n != nil {
		return (*n).Topics()
	}
	return nil
}

// Cluster is the node's, or nothing.
func (s *starting) Cluster() console.Cluster {
	if n := s.node.Load(); n != nil {
		return (*n).Cluster()
	}
	return console.Cluster{Controller: -1}
}
