package server

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlacesAreOnDifferentHosts(t *testing.T) {
	places, err := placesOf(3, "/data")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, p := range places {
		for _, addr := range []string{p.addr, p.http, p.peer} {
			if host, _, err := net.SplitHostPort(addr); err != nil || host != "127.0.0."+string(rune('1'+i)) || seen[addr] {
				t.Errorf("node %d is at %s, %v; taken: %v", p.id, addr, err, seen[addr])
			}
			seen[addr] = true
		}
		if p.id != i+1 || p.dir != filepath.Join("/data", string(rune('1'+i))) || len(p.all) != 3 || p.all[2].peer != places[2].peer {
			t.Errorf("node %d: %+v", i+1, p)
		}
	}
	one, err := placesOf(1, "/data")
	if err != nil || len(one) != 1 || one[0].dir != "/data" {
		t.Errorf("one node: %+v, %v", one, err)
	}
}

func TestCommandLinesOfACluster(t *testing.T) {
	places, err := placesOf(3, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	argv, err := WeirCluster("weir", 3).command(places[1])
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(argv, " ")
	for _, want := range []string{"--node-id 2", "--kafka-addr " + places[1].addr, "--peer-addr " + places[1].peer,
		"--seed-nodes 1@" + places[0].peer + ",2@" + places[1].peer + ",3@" + places[2].peer} {
		if !strings.Contains(line, want) {
			t.Errorf("%q lacks %q", line, want)
		}
	}
	for _, tt := range []struct {
		name         string
		nodes        []place
		flush        bool
		want, absent []string
	}{
		{"three", places, false, []string{"node.id=2", "default.replication.factor=3", "min.insync.replicas=2",
			"controller.quorum.voters=1@" + places[0].peer + ",2@" + places[1].peer + ",3@" + places[2].peer}, []string{"flush"}},
		{"three that sync", places, true, []string{"log.flush.interval.messages=1"}, nil},
		{"one", nil, false, []string{"offsets.topic.replication.factor=1"}, []string{"default.replication.factor", "min.insync.replicas", "flush"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := places[1]
			if tt.nodes == nil {
				n.all = []place{n}
			}
			text := kafkaProperties(n, tt.flush)
			lines := strings.Split(text, "\n")
			for _, want := range tt.want {
				if !slices.Contains(lines, want) {
					t.Errorf("no line %q in\n%s", want, text)
				}
			}
			for _, absent := range tt.absent {
				if strings.Contains(text, absent) {
					t.Errorf("%q in\n%s", absent, text)
				}
			}
		})
	}
}

// TestNodeThatDoesNotStart: the others are ended, and the error says which it was and what it wrote.
func TestNodeThatDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pid")
	spec := Spec{Name: "broken", Nodes: 2, command: func(n place) ([]string, error) {
		if n.id == 2 {
			// Not before the other one runs.
			return []string{"/bin/sh", "-c", "while [ ! -s " + file + " ]; do sleep 0.01; done; echo no such luck; exit 3"}, nil
		}
		return []string{"/bin/sh", "-c", "echo $$ > " + file + "; exec sleep 1000"}, nil
	}}
	_, err := StartCluster(context.Background(), spec, dir)
	if err == nil || !strings.Contains(err.Error(), "node 2: it exited") || !strings.Contains(err.Error(), "no such luck") {
		t.Fatalf("got %v", err)
	}
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err == nil {
		t.Error("the node that started runs on")
	}
}
