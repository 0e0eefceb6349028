package console

import (
	"encoding/json"
	"net/http"
)

// live: the process answers. A supervisor that restarts what is not live must not restart a broker for a full disk or a long
// recovery; a broker whose disk failed ends by itself.
func (s *Server) live(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, true, map[string]any{"live": true})
}

// ready: clients are served. A full disk does not make it unready, since fetches go on.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	h := s.o.Node.Health()
	body := map[string]any{"ready": h.Ready}
	if !h.Ready {
		body["reason"] = h.Reason
	}
	s.answer(w, h.Ready, body)
}

func (s *Server) disk(w http.ResponseWriter, _ *http.Request) {
	h := s.o.Node.Health()
	body := map[string]any{"state": h.Disk, "oldest_io_seconds": h.OldestIO.Seconds()}
	if h.Disk != DiskOK {
		body["reason"] = h.Reason
	}
	s.answer(w, h.Disk == DiskOK, body)
}

// cluster: every partition has a leader, and somebody decides. It is the same on every node, so it is nothing to restart one for.
func (s *Server) cluster(w http.ResponseWriter, _ *http.Request) {
	c := s.o.Node.Cluster()
	nodes := make([]map[string]any, len(c.Nodes))
	for i, n := range c.Nodes {
		nodes[i] = map[string]any{
			"id": n.ID, "addr": n.Addr, "rack": n.Rack, "state": n.State(), "leads": n.Leads, "replicas": n.Replicas, "out_of_sync": n.OutOfSync,
		}
	}
	ok := c.Controller >= 0 && c.Offline == 0
	s.answer(w, ok, map[string]any{
		"ok": ok, "cluster_id": c.ID, "controller": c.Controller, "nodes": nodes, "under_replicated": c.UnderReplicated, "offline": c.Offline,
	})
}

func (s *Server) answer(w http.ResponseWriter, ok bool, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.o.Logger.Debug("health check not answered", "error", err)
	}
}
