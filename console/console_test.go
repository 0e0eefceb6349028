package console

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type node struct {
	health  Health
	topics  []Topic
	cluster Cluster
}

func (n node) Health() Health   { return n.health }
func (n node) Topics() []Topic  { return n.topics }
func (n node) Cluster() Cluster { return n.cluster }

func get(t *testing.T, o Options, path string) (int, string, http.Header) {
	t.Helper()
	if o.Gatherer == nil {
		o.Gatherer = prometheus.NewRegistry()
	}
	w := httptest.NewRecorder()
	New(o).http.Handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String(), w.Header()
}

func TestHealth(t *testing.T) {
	starting := Health{Disk: DiskStarting, Reason: "starting"}
	ok := Health{Ready: true, Disk: DiskOK, OldestIO: 1500 * time.Millisecond}
	full := Health{Ready: true, Disk: DiskFull, Reason: "97 % used"}
	failed := Health{Disk: DiskFailed, Reason: "write wal-0001.log: deadline exceeded"}
	tests := []struct {
		path   string
		health Health
		code   int
		body   map[string]any
	}{
		{"/health/live", failed, 200, map[string]any{"live": true}},
		{"/health/live", starting, 200, map[string]any{"live": true}},
		{"/health/ready", ok, 200, map[string]any{"ready": true}},
		{"/health/ready", full, 200, map[string]any{"ready": true}},
		{"/health/ready", starting, 503, map[string]any{"ready": false, "reason": "starting"}},
		{"/health/ready", failed, 503, map[string]any{"ready": false, "reason": failed.Reason}},
		{"/health/disk", ok, 200, map[string]any{"state": "ok", "oldest_io_seconds": 1.5}},
		{"/health/disk", full, 503, map[string]any{"state": "full", "oldest_io_seconds": 0.0, "reason": "97 % used"}},
		{"/health/disk", failed, 503, map[string]any{"state": "failed", "oldest_io_seconds": 0.0, "reason": failed.Reason}},
	}
	for _, test := range tests {
		code, body, header := get(t, Options{Node: node{health: test.health}}, test.path)
		if code != test.code || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: status %d, want %d", test.path, test.health.Disk, code, test.code)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v in %q", test.path, err, body)
		}
		if fmt.Sprint(got) != fmt.Sprint(test.body) {
			t.Errorf("%s %s: got %v, want %v", test.path, test.health.Disk, got, test.body)
		}
	}
}

func TestPageEscapesAndCounts(t *testing.T) {
	n := node{
		health: Health{Ready: true, Disk: DiskFull, Reason: "<script>alert(1)</script>"},
		topics: []Topic{{Name: "__own", Internal: true, Partitions: make([]Partition, 1)}, {Name: "orders", Partitions: []Partition{{ID: 0, Leader: 1, LogStart: 10, HighWatermark: 110, Bytes: 3 << 20}}}},
	}
	code, body, header := get(t, Options{Node: n, Version: "v1", Started: time.Now(), NodeID: 7}, "/")
	if code != 200 || header.Get("Content-Security-Policy") == "" {
		t.Errorf("status %d, header %v", code, header)
	}
	for _, want := range []string{"Weir node 7", "orders", ">10<", ">110<", ">100<", "3.0 MiB", "full", "&lt;script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Index(body, "__own") < strings.Index(body, "orders") {
		t.Error("internal topics come before the user's")
	}
	if strings.Contains(body, "<script>") {
		t.Error("a reason reached the page unescaped")
	}
}

func TestCluster(t *testing.T) {
	c := Cluster{ID: "abc", Controller: 2, UnderReplicated: 4, Nodes: []ClusterNode{
		{ID: 1, Addr: "10.0.0.1:9092", Rack: "a", Leads: 3, Replicas: 9}, {ID: 2, Addr: "10.0.0.2:9092", Fenced: true, Replicas: 9, OutOfSync: 4},
		{ID: 3, Addr: "10.0.0.3:9092", Stopping: true}, {ID: 4, Leaving: true},
	}}
	leaderless, headless := c, c
	leaderless.Offline, headless.Controller = 1, -1
	for name, test := range map[string]struct {
		c    Cluster
		code int
	}{"degraded": {c, 200}, "a partition has no leader": {leaderless, 503}, "nobody decides": {headless, 503}} {
		code, body, _ := get(t, Options{Node: node{cluster: test.c}}, "/health/cluster")
		var got struct {
			OK              bool
			Controller      int32
			UnderReplicated int `json:"under_replicated"`
			Nodes           []struct{ State string }
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if code != test.code || got.OK != (code == 200) || got.UnderReplicated != 4 || got.Controller != test.c.Controller ||
			fmt.Sprint(got.Nodes) != "[{alive} {fenced} {stopping} {leaving}]" {
			t.Errorf("%s: %d, %s", name, code, body)
		}
	}
	n := node{health: Health{Ready: true, Disk: DiskOK}, cluster: leaderless, topics: []Topic{{Name: "t", Partitions: []Partition{{LogStart: -1, HighWatermark: -1}, {LogStart: 0, HighWatermark: 0, Bytes: 1024}}}}}
	_, body, _ := get(t, Options{Node: n, Started: time.Now()}, "/")
	for _, want := range []string{"Cluster abc", "controller 2", "4 partitions under-replicated", "1 partitions without a leader", ">fenced<", "10.0.0.3:9092", "on other nodes", "1 of 2 here, 1.0 KiB", ">leaving<"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	n.cluster.Nodes = n.cluster.Nodes[:1]
	if _, body, _ = get(t, Options{Node: n, Started: time.Now()}, "/"); strings.Contains(body, "Cluster abc") {
		t.Error("a single node shows a cluster")
	}
}

func TestPageIsBounded(t *testing.T) {
	n := node{health: Health{Ready: true, Disk: DiskOK}}
	for i := range 3 {
		n.topics = append(n.topics, Topic{Name: fmt.Sprintf("topic-%d", i), Partitions: make([]Partition, 900)})
	}
	_, body, _ := get(t, Options{Node: n, Started: time.Now()}, "/")
	if rows := strings.Count(body, "<tr><td"); rows != rowsMax {
		t.Errorf("%d rows, want %d", rows, rowsMax)
	}
	if !strings.Contains(body, "700 more partitions") {
		t.Error("the page does not say that something is missing")
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	if code, _, _ := get(t, Options{Node: node{}}, "/nothing"); code != http.StatusNotFound {
		t.Errorf("/nothing: %d", code)
	}
	w := httptest.NewRecorder()
	New(Options{Node: node{}, Gatherer: prometheus.NewRegistry()}).http.Handler.ServeHTTP(w, httptest.NewRequest("POST", "/health/live", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_test_total", Help: "x"})
	reg.MustRegister(c)
	c.Add(3)
	code, body, _ := get(t, Options{Node: node{}, Gatherer: reg}, "/metrics")
	if code != 200 || !strings.Contains(body, "weir_test_total 3") {
		t.Errorf("status %d:\n%s", code, body)
	}
}

func TestServeAndShutdown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Node: node{}, Gatherer: prometheus.NewRegistry()})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + ln.Addr().String() + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Errorf("profiler: %d, %v", resp.StatusCode, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A request whose header is larger than the limit is refused, not stored.
func TestHugeHeaderIsRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Node: node{}, Gatherer: prometheus.NewRegistry()})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		// The server may close before all of it was sent.
		_, _ = io.WriteString(conn, "GET /health/live HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 4*headerBytes)+"\r\n\r\n")
	}()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "431") {
		t.Errorf("got %q, %v", line, err)
	}
	_ = conn.Close()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-served
}
