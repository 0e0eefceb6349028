package result

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestOver(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{9, 1, 5}, Spread{5, 1, 9}},
		{[]float64{4, 1, 2, 9}, Spread{3, 1, 9}},
	} {
		if got := Over(c.values); got != c.want {
			t.Errorf("Over(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v      float64
		digits int
		want   string
	}{{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {1234567.891, 2, "1,234,567.89"}, {-1234, 0, "-1,234"}, {-123, 0, "-123"}} {
		if got := number(c.v, c.digits); got != c.want {
			t.Errorf("number(%v, %d) = %q, want %q", c.v, c.digits, got, c.want)
		}
	}
}

func sample() *File {
	run := func(server string, round int, rate, p99 float64) Run {
		return Run{
			Server: server, Workload: "w", Round: round, MessagesPerSecond: rate, Messages: 1, Bytes: 1000, ServerWriteBytes: 1500,
			LatencyUs: &Latency{P50: p99 / 2, P99: p99}, CPUSecondsPerGB: 2, PeakRSSBytes: 50e6,
		}
	}
	return &File{
		Version: Version, Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Commit: "abc", Command: []string{"bench", "peers"},
		Servers: []Server{{Name: "weir"}, {Name: "other"}}, Missing: map[string]string{"kafka": "no Java\nand more"},
		// In round 2 the machine was slow for both: the ratio stays.
		Runs: []Run{run("weir", 1, 2000, 1000), run("other", 1, 1000, 4000), run("weir", 2, 200, 9000), run("other", 2, 100, 36000)},
	}
}

func TestRatiosCompareWithinARound(t *testing.T) {
	var out bytes.Buffer
	if err := sample().Ratios(&out, "weir"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "2.00 (2.00-2.00)") || !strings.Contains(out.String(), "0.25 (0.25-0.25)") {
		t.Fatalf("want 2.00 of the rate and 0.25 of the p99 in every round:\n%s", out.String())
	}
}

func TestTables(t *testing.T) {
	var out bytes.Buffer
	f := sample()
	if err := f.Tables(&out, func(string) string { return "what it is" }); err != nil {
		t.Fatal(err)
	}
	if err := f.Setup(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{"### w", "what it is", "1,100 (200-2,000)", "1.50", "not measured: no Java |"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("the tables lack %q:\n%s", want, text)
		}
	}
	width := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "| weir") && !strings.HasPrefix(line, "| other") {
			continue
		}
		if width != 0 && len(line) != width {
			t.Errorf("rows differ in width:\n%s", text)
		}
		width = len(line)
	}
}

func TestSetupSaysWhatWasReadBackAndHowShortItWas(t *testing.T) {
	f := sample()
	var out bytes.Buffer
	if err := f.Setup(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "read back") || strings.Contains(out.String(), "short form") {
		t.Errorf("nothing was read back and nothing was short:\n%s", out.String())
	}
	f.Settings.Quick = true
	f.Runs[0].Acknowledged, f.Runs[0].ReadBack = 1200, 1234
	f.Runs[1].Acknowledged, f.Runs[1].ReadBack = 1, 2
	out.Reset()
	if err := f.Setup(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "1,201 messages were acknowledged in 2 runs") || !strings.Contains(text, "1,236") || !strings.Contains(text, "short form") {
		t.Errorf("the setup says:\n%s", text)
	}
}

func TestWriteNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	first, err := sample().Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := sample().Write(dir)
	if err != nil || first == second {
		t.Fatalf("second file %s, %v; the first is %s", second, err, first)
	}
	if !strings.HasSuffix(first, "2026-01-02-abc.json") {
		t.Errorf("file is %s, want date and commit", first)
	}
	got, err := Read(second)
	if err != nil || len(got.Runs) != 4 || got.Runs[3].LatencyUs.P99 != 36000 {
		t.Fatalf("read back %+v, %v", got, err)
	}
}
