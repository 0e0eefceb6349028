package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"weir/bench/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPick(t *testing.T) {
	usual, err := pick("")
	if err != nil || len(usual) == 0 || usual[0].name != baseWorkload {
		t.Fatalf("the usual workloads are %v, %v; %s must come first", usual, err, baseWorkload)
	}
	all, err := pick("all")
	if err != nil || len(all) != len(workloads) {
		t.Fatalf("all are %d of %d, %v", len(all), len(workloads), err)
	}
	two, err := pick("consume-cold," + baseWorkload)
	if err != nil || len(two) != 2 || two[0].name != "consume-cold" {
		t.Fatalf("two are %v, %v", two, err)
	}
	if _, err := pick("nonsense"); err == nil || !strings.Contains(err.Error(), baseWorkload) {
		t.Fatalf("an unknown workload: %v, want an error that names the known", err)
	}
}

func TestWorkloadsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range workloads {
		if w.name == "" || w.about == "" || w.partitions < 1 || w.load == nil || seen[w.name] {
			t.Errorf("workload %+v: incomplete, or its name is taken", w)
		}
		seen[w.name] = true
		e2e, ok := w.load.(load.EndToEnd)
		if ok && (e2e.Produce.RateShare > 0) != w.share {
			t.Errorf("workload %s: share is %v, its producers take %v of the maximum", w.name, w.share, e2e.Produce.RateShare)
		}
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
