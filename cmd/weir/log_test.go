package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/vfs"
)

// runLog runs weir log with arguments on a directory.
func runLog(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(append([]string{"log"}, args...), stdio{in: strings.NewReader(""), out: &o, err: &e}, nil)
	return o.String(), e.String(), code
}

func TestLogNeedsADirectory(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for _, args := range [][]string{{"verify"}, {"dump", "wal"}, {"repair"}} {
		if _, errs, code := runLog(t, append(args, "--data-dir", missing)...); code != exitError || !strings.Contains(errs, missing) {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
}

// TestLogLeavesABrokerAlone: while the lock is held nothing is read or changed, unless only reading was asked for.
func TestLogLeavesABrokerAlone(t *testing.T) {
	dir := t.TempDir()
	lock, err := vfs.OS{}.Lock(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for _, args := range [][]string{{"verify"}, {"dump", "wal"}, {"repair", "--yes"}} {
		if _, errs, code := runLog(t, append(args, "--data-dir", dir)...); code != exitError || !strings.Contains(errs, "in use") {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
	if _, errs, code := runLog(t, "verify", "--read-only", "--data-dir", dir); code != exitDamage {
		t.Errorf("verify --read-only of an empty directory: exit %d, %q; want %d, as the metadata is missing", code, errs, exitDamage)
	}
	if _, errs, code := runLog(t, "repair", "--read-only", "--yes", "--data-dir", dir); code != exitError || !strings.Contains(errs, "contradict") {
		t.Errorf("repair --read-only --yes: exit %d, %q", code, errs)
	}
}

func TestLogVerifyJSON(t *testing.T) {
	out, _, code := runLog(t, "verify", "-q", "--json", "--data-dir", t.TempDir())
	if code != exitDamage {
		t.Errorf("exit %d, want %d", code, exitDamage)
	}
	dec := json.NewDecoder(strings.NewReader(out))
	var finding struct{ Severity, File, What string }
	if err := dec.Decode(&finding); err != nil || finding.Severity != "LOST" || finding.File == "" || finding.What == "" {
		t.Errorf("first object %+v, %v", finding, err)
	}
	for dec.More() {
		var any map[string]any
		if err := dec.Decode(&any); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLogBadUsage(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"verify", "more"}, {"dump"}, {"repair", "--yes", "--dry-run"}, {"dump", "orders-0", "--offsets", "9-3"}, {"dump", "nothing-0"}, {"nonsense"},
	} {
		if out, errs, code := runLog(t, append(args, "--data-dir", dir)...); code != exitError || errs == "" {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", args, code, out, errs)
		}
	}
}

func TestParseOffsets(t *testing.T) {
	for _, tc := range []struct {
		text     string
		from, to int64
		ok       bool
	}{
		{"", 0, 0, true}, {"5", 5, 6, true}, {"5-9", 5, 10, true}, {"5-", 5, 0, true}, {"0-0", 0, 1, true},
		{"9-5", 0, 0, false}, {"-5", 0, 0, false}, {"x", 0, 0, false}, {"1-x", 0, 0, false},
	} {
		from, to, err := parseOffsets(tc.text)
		if from != tc.from || to != tc.to || (err == nil) != tc.ok {
			t.Errorf("%q: %d to %d, %v", tc.text, from, to, err)
		}
	}
}
