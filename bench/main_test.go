package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"weir/bench/load"
	"weir/bench/result"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPick(t *testing.T) {
	usual, err := oneNode.pick("")
	if err != nil || len(usual) == 0 || usual[0].name != baseWorkload {
		t.Fatalf("the usual workloads are %v, %v; %s must come first", usual, err, baseWorkload)
	}
	all, err := oneNode.pick("all")
	if err != nil || len(all) != len(oneNode.list) {
		t.Fatalf("all are %d of %d, %v", len(all), len(oneNode.list), err)
	}
	two, err := oneNode.pick("consume-cold," + baseWorkload)
	if err != nil || len(two) != 2 || two[0].name != "consume-cold" {
		t.Fatalf("two are %v, %v", two, err)
	}
	if _, err := oneNode.pick("nonsense"); err == nil || !strings.Contains(err.Error(), baseWorkload) {
		t.Fatalf("an unknown workload: %v, want an error that names the known", err)
	}
}

func TestWorkloadsAreWhole(t *testing.T) {
	for name, suite := range map[string]suite{"one node": oneNode, "three nodes": threeNodes} {
		t.Run(name, func(t *testing.T) {
			seen := map[string]bool{}
			for _, w := range suite.list {
				if w.name == "" || w.about == "" || w.partitions < 1 || w.load == nil || seen[w.name] {
					t.Errorf("workload %+v: incomplete, or its name is taken", w)
				}
				seen[w.name] = true
				e2e, ok := w.load.(load.EndToEnd)
				if ok && (e2e.Produce.RateShare > 0) != w.share {
					t.Errorf("workload %s: share is %v, its producers take %v of the maximum", w.name, w.share, e2e.Produce.RateShare)
				}
				// A report finds the description by the name alone.
				if about(w.name) != w.about {
					t.Errorf("workload %s: the other suite has one of this name that says %q", w.name, about(w.name))
				}
			}
			if base, ok := suite.find(suite.base); !ok || base.share || base.consumes {
				t.Errorf("the base workload %q: %+v", suite.base, base)
			}
		})
	}
	if w, err := threeNodes.pick(quickWorkloads); err != nil || len(w) != 3 {
		t.Errorf("the short form's workloads: %v, %v", w, err)
	}
}

func TestQuickIsASizeThatFlagsChange(t *testing.T) {
	out := t.TempDir()
	places := []string{"-dir", out, "-out", out}
	o, err := parseOptions("cluster", append(places, "-quick"))
	if err != nil || o.rounds != 1 || o.duration != quickDuration || o.workloads != quickWorkloads || o.servers != quickServers {
		t.Fatalf("-quick: %+v, %v", o, err)
	}
	o, err = parseOptions("cluster", append(places, "-quick", "-rounds", "7", "-only", "e2e-3p-50", "-servers", "weir-3"))
	if err != nil || o.rounds != 7 || o.duration != quickDuration || o.workloads != "e2e-3p-50" || o.servers != "weir-3" {
		t.Fatalf("-quick with other flags: %+v, %v", o, err)
	}
	if o, err = parseOptions("cluster", places); err != nil || o.rounds < 5 || o.quick {
		t.Fatalf("the full form: %+v, %v; others are compared with, so at least five rounds", o, err)
	}
	if _, err = parseOptions("run", append(places, "-quick")); err == nil {
		t.Fatal("run has no short form")
	}
}

func TestClusterWithoutJavaSaysSo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	file := &result.File{Missing: map[string]string{}}
	specs, err := clusterServers(options{weirBin: "weir", against: "older"}, "", file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, spec := range specs {
		names = append(names, spec.Name)
	}
	if got := strings.Join(names, " "); got != "weir-3 weir-3-before weir-1" || len(file.Servers) != 3 {
		t.Errorf("servers are %s, %v", got, file.Servers)
	}
	if !strings.Contains(file.Missing["kafka-3"], "no Java") {
		t.Errorf("missing: %v", file.Missing)
	}
}

func TestReplaceBetween(t *testing.T) {
	file := filepath.Join(t.TempDir(), "B.md")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n" + markBegin + "\nold\n" + markEnd + "\nafter\n")
	for range 2 { // the second time replaces the first's
		if err := replaceBetween(file, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := os.ReadFile(file)
	if want := "before\n" + markBegin + "\n\nnew\n" + markEnd + "\nafter\n"; string(got) != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	write("no marks")
	if err := replaceBetween(file, "new"); err == nil {
		t.Fatal("a file without marks was changed")
	}
}
