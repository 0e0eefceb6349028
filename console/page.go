package console

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"
)

// rowsMax bounds the page: a node may hold very many partitions.
const rowsMax = 2000

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"size":  size,
	"count": func(p Partition) int64 { return p.HighWatermark - p.LogStart },
	"here":  here,
}).Parse(pageText))

// here: this node has a replica.
func here(p Partition) bool { return p.LogStart >= 0 }

// view is what the page shows.
type view struct {
	Version, Kafka string
	NodeID         int32
	Uptime         time.Duration
	Health         Health
	Cluster        Cluster
	Topics         []Topic
	Partitions     int // of the cluster
	Here           int // of those, on this node
	Bytes          int64
	Omitted        int // partitions that are not shown
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	v := view{
		Version: s.o.Version, Kafka: s.o.Kafka, NodeID: s.o.NodeID,
		Uptime: time.Since(s.o.Started).Round(time.Second), Health: s.o.Node.Health(), Cluster: s.o.Node.Cluster(),
	}
	topics := slices.Clone(s.o.Node.Topics())
	slices.SortStableFunc(topics, internalLast)
	for _, t := range topics {
		if len(t.Partitions) == 0 {
			continue
		}
		for _, p := range t.Partitions {
			v.Bytes += p.Bytes
			if here(p) {
				v.Here++
			}
		}
		shown := min(len(t.Partitions), max(0, rowsMax-v.Partitions))
		v.Partitions += len(t.Partitions)
		v.Omitted += len(t.Partitions) - shown
		if t.Partitions = t.Partitions[:shown]; shown > 0 {
			v.Topics = append(v.Topics, t)
		}
	}
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, v); err != nil {
		s.o.Logger.Error("console page", "error", err)
		http.Error(w, "the page could not be made; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	if _, err := out.WriteTo(w); err != nil {
		s.o.Logger.Debug("console page not delivered", "error", err)
	}
}

func internalLast(a, b Topic) int {
	switch {
	case a.Internal == b.Internal:
		return 0
	case a.Internal:
		return 1
	}
	return -1
}

// size renders bytes as people read them.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
