package server

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

func TestParseCPU(t *testing.T) {
	tail := " S 1 2 3 4 5 6 7 8 9 10 1234 66 0 0 20 0 1"
	for _, c := range []struct {
		name, stat string
		want       time.Duration
		fails      bool
	}{
		{"plain", "12 (weir)" + tail, 13 * time.Second, false},
		{"command with blanks and parentheses", "12 (a b) (c)" + tail, 13 * time.Second, false},
		{"cut short", "12 (weir) S 1 2", 0, true},
		{"no number", "12 (weir) S 1 2 3 4 5 6 7 8 9 10 x 66 0", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseCPU(c.stat)
			if (err != nil) != c.fails || got != c.want {
				t.Fatalf("got %v, %v; want %v, error: %v", got, err, c.want, c.fails)
			}
		})
	}
}

func TestSelfCPUGrows(t *testing.T) {
	before := SelfCPU()
	for deadline := time.Now().Add(10 * time.Second); SelfCPU() == before; {
		if time.Now().After(deadline) {
			t.Fatal("ten seconds of work cost no CPU")
		}
	}
}

func TestColonFields(t *testing.T) {
	fields, err := colonFields("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if fields["VmHWM"] <= 0 || fields["Pid"] != int64(os.Getpid()) {
		t.Fatalf("VmHWM %d, Pid %d", fields["VmHWM"], fields["Pid"])
	}
}

func TestScrape(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# HELP a b\na_total 3\nb_total{log=\"meta wal\"} 1.5e3\nbroken\n"))
	}))
	t.Cleanup(func() {
		srv.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	got, err := scrape(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if got["a_total"] != 3 || got[`b_total{log="meta wal"}`] != 1500 || len(got) != 2 {
		t.Fatalf("got %v", got)
	}
}
