package logtool

import (
	"fmt"
	"strings"
	"testing"

	"weir/internal/vfs"
	"weir/replica"
	"weir/segment"
	"weir/wal"
)

// TestDumpOfTruncations: the dump shows what recovery points say of truncations, and the WAL's records of them.
func TestDumpOfTruncations(t *testing.T) {
	disk := vfs.NewMem()
	must(t, disk.MkdirAll(dataDir+"/topics"))
	must(t, segment.WriteCheckpoint(disk, dataDir+"/topics", map[string]segment.Checkpoint{
		"a-0.x": {RecoveryPoint: 7, LogStart: 2},
		"b-0.x": {RecoveryPoint: 9, Cut: 4242},
		"c-0.x": {LogStart: 30, Cut: 17, Resetting: 1},
	}, nil))
	var got []string
	o := DumpOptions{Options: Options{FS: disk, Dir: dataDir}, Line: func(v any, text string) { got = append(got, fmt.Sprint(text, " ", v)) }}
	must(t, Dump(o, "checkpoint"))
	want := []string{
		"a-0.x: from offset 2, in segments up to 7 map[log:a-0.x log_start:2 recovery_point:7]",
		"b-0.x: from offset 0, in segments up to 9, truncations followed up to LSN 4242 map[cut:4242 log:b-0.x log_start:0 recovery_point:9]",
		"c-0.x: from offset 30, in segments up to 0, truncations followed up to LSN 17, its files are being deleted map[cut:17 log:c-0.x log_start:30 recovery_point:0 resetting:true]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	got = nil
	for _, h := range []replica.WALEntry{{Op: replica.WALTruncate, Partition: 3, Offset: 12}, {Op: replica.WALReset, Offset: 40}} {
		must(t, o.walCut(wal.Item{LSN: 99}, h))
	}
	if text := strings.Join(got, "\n"); !strings.Contains(text, "partition 3: truncate to offset 12") || !strings.Contains(text, "partition 0: reset to offset 40") {
		t.Errorf("records: %s", text)
	}
}
