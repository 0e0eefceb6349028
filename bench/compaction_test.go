package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/bench/result"
)

func TestParseCompaction(t *testing.T) {
	for _, bad := range [][]string{{"-mib", "0"}, {"-keys", "0"}, {"-value", "1"}, {"-rate", "0"}, {"-duration", "1ms"}, {"more"}} {
		if _, err := parseCompaction(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	o, err := parseCompaction([]string{"-mib", "7", "-dir", t.TempDir()})
	if err != nil || o.mib != 7 || o.keys != 1_000_000 || o.out == "" {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestCompactionReport(t *testing.T) {
	r := &compactionRun{BytesBefore: 2e6, BytesAfter: 1e6, Records: 10, Keys: 5, Seconds: 1.5, Runs: 1, Dropped: 5, RSSPeak: 3e6, During: result.Latency{P99: 2500}}
	var out bytes.Buffer
	r.report(&out)
	for _, want := range []string{"2 MB, 10 records of up to 5 keys, to 1 MB in 1.5 s", "3 MB at most", "p99 2.50 ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*-compaction.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %q, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var back compactionRun
	if err := json.Unmarshal(data, &back); err != nil || back.BytesBefore != r.BytesBefore || back.During != r.During {
		t.Errorf("read back %+v, %v", back, err)
	}
}
