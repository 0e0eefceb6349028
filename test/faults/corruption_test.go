package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

const corruptRecords = 600

// corruptBroker is a broker with a topic of one partition whose records are "value-<offset>-...".
func corruptBroker(t *testing.T, config map[string]string) *weirproc.Broker {
	t.Helper()
	skipOnReference(t)
	broker := weirproc.Start(t, weirproc.Options{Config: config})
	createTopics(t, newAdmin(t, broker.Addr), 1, "damaged")
	cl := newClient(t, broker.Addr, kgo.ProducerBatchCompression(kgo.NoCompression()))
	for i := range corruptRecords {
		if err := cl.ProduceSync(limit(t, time.Minute), &kgo.Record{Topic: "damaged", Value: corruptValue(i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return broker
}

func corruptValue(offset int) []byte {
	return append(fmt.Appendf(nil, "value-%d-", offset), bytes.Repeat([]byte{'x'}, 500)...)
}

// weirLog runs weir log on a broker's directory and returns its output and exit code.
func weirLog(t *testing.T, broker *weirproc.Broker, args ...string) (string, int) {
	t.Helper()
	bin, err := weirproc.Binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(limit(t, time.Minute), bin, append([]string{"log"}, append(args, "--data-dir", broker.DataDir)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("weir log %s: exit %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out, stderr.String())
	return string(out) + stderr.String(), cmd.ProcessState.ExitCode()
}

// flipIn changes a bit of the first file that matches, inside the record at an offset.
func flipIn(t *testing.T, broker *weirproc.Broker, pattern string, offset int) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(broker.DataDir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, fmt.Appendf(nil, "value-%d-", offset))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{b[at+20] ^ 0x10}, int64(at+20)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Fatalf("offset %d is in no file that matches %s", offset, pattern)
	return ""
}

// readable reads the topic, going on behind what cannot be read, and returns the offsets that could not, and the errors.
func readable(t *testing.T, addr string, end int64) (gone []int64, kinds map[string]bool) {
	t.Helper()
	kinds = map[string]bool{}
	next := int64(0)
	for next < end {
		cl, err := kgo.NewClient(quick(addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"damaged": {0: kgo.NewOffset().At(next)}}), kgo.FetchMaxWait(200*time.Millisecond), kgo.KeepRetryableFetchErrors())...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		failed := false
		for next < end && !failed {
			fetches := cl.PollFetches(ctx)
			for iter := fetches.RecordIter(); !iter.Done(); {
				r := iter.Next()
				for ; next < r.Offset; next++ {
					gone = append(gone, next)
				}
				if want := corruptValue(int(r.Offset)); !bytes.Equal(r.Value, want) {
					t.Fatalf("offset %d has a value that was not produced: %.60q", r.Offset, r.Value)
				}
				next = r.Offset + 1
			}
			for _, e := range fetches.Errors() {
				if errors.Is(e.Err, context.DeadlineExceeded) {
					t.Fatalf("nothing more comes at offset %d of %d", next, end)
				}
				kinds[e.Err.Error()] = true
				failed = failed || errors.Is(e.Err, kerr.CorruptMessage) || strings.Contains(e.Err.Error(), kerr.CorruptMessage.Message)
			}
		}
		cancel()
		cl.Close()
		if failed {
			gone = append(gone, next)
			next++
		}
	}
	return gone, kinds
}

// TestCorruptSegment: a flipped bit is not served, neither to consumers of a running broker nor after a restart; a repair names the
// records that are gone, and everything else is served again.
func TestCorruptSegment(t *testing.T) {
	broker := corruptBroker(t, map[string]string{"log.writeback.bytes": "4096", "log.segment.bytes": "1048576"})
	if err := broker.Stop(); err != nil {
		t.Fatal(err)
	}
	// After a clean stop all is in the segments. Without this the repair would put the record back from the write-ahead log.
	if err := os.RemoveAll(filepath.Join(broker.DataDir, "wal")); err != nil {
		t.Fatal(err)
	}
	if err := broker.Launch(); err != nil { // nothing of it is in memory now
		t.Fatal(err)
	}
	flipIn(t, broker, "topics/damaged-0.*/*.log", 300)
	check := func(when string) {
		gone, kinds := readable(t, broker.Addr, corruptRecords)
		if !slices.Equal(gone, []int64{300}) {
			t.Fatalf("%s: offsets %v cannot be read, want 300 alone (%v)", when, gone, kinds)
		}
	}
	check("while it runs")
	if out, code := weirLog(t, broker, "verify", "-q"); code != 1 || !strings.Contains(out, "in use") {
		t.Errorf("verify of a directory that is in use: exit %d, want 1 and a word about it", code)
	}
	if err := broker.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, code := weirLog(t, broker, "verify", "-q"); code != 3 || !strings.Contains(out, "offsets 300 of damaged-0") {
		t.Errorf("verify: exit %d, want 3 and the offset", code)
	}
	if out, code := weirLog(t, broker, "repair", "--drop-damaged"); code != 0 || !strings.Contains(out, "nothing was changed") {
		t.Errorf("repair, dry run: exit %d", code)
	}
	if out, code := weirLog(t, broker, "repair"); code != 3 || !strings.Contains(out, "--drop-damaged") {
		t.Errorf("repair without a flag: exit %d, want 3 and the flag that it needs", code)
	}
	if out, code := weirLog(t, broker, "repair", "--drop-damaged", "--yes"); code != 0 || !strings.Contains(out, "offsets 300:") {
		t.Errorf("repair: exit %d", code)
	}
	if _, code := weirLog(t, broker, "verify", "-q"); code != 0 {
		t.Errorf("verify after the repair: exit %d", code)
	}
	if err := broker.Launch(); err != nil {
		t.Fatal(err)
	}
	gone, kinds := readable(t, broker.Addr, corruptRecords)
	if !slices.Equal(gone, []int64{300}) || len(kinds) > 0 {
		t.Fatalf("after the repair offsets %v are missing, want 300, errors %v, want none", gone, kinds)
	}
}

// TestCorruptWAL: a broker whose write-ahead log is damaged does not start; a repair keeps everything but the damaged entry.
func TestCorruptWAL(t *testing.T) {
	broker := corruptBroker(t, map[string]string{"log.writeback.ms": "3600000", "log.writeback.bytes": "1073741824"})
	broker.Kill()
	name := flipIn(t, broker, "wal/wal-*.log", 200)
	if err := broker.Launch(); err == nil {
		t.Fatal("the broker starts with a damaged write-ahead log")
	}
	if log := broker.Logs().Tail(5); !strings.Contains(log, filepath.Base(name)) || !strings.Contains(log, "LSN") {
		t.Errorf("its last words do not name the place: %s", log)
	}
	out, code := weirLog(t, broker, "repair", "--skip-wal", "--yes", "--json")
	var rep struct {
		Lost []struct {
			Offsets struct{ From, To int64 }
		}
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&rep); err != nil || code != 0 {
		t.Fatalf("repair: exit %d, %v", code, err)
	}
	if len(rep.Lost) != 1 || rep.Lost[0].Offsets.From != 200 || rep.Lost[0].Offsets.To != 201 {
		t.Fatalf("the repair names %+v, want offset 200", rep.Lost)
	}
	if err := broker.Launch(); err != nil {
		t.Fatal(err)
	}
	gone, kinds := readable(t, broker.Addr, corruptRecords)
	if !slices.Equal(gone, []int64{200}) || len(kinds) > 0 {
		t.Fatalf("after the repair offsets %v are missing, errors %v", gone, kinds)
	}
}

// TestMissingNewestWAL: the newest file of the write-ahead log goes away after the broker had been idle.
func TestMissingNewestWAL(t *testing.T) {
	broker := corruptBroker(t, map[string]string{"log.writeback.ms": "3600000", "log.writeback.bytes": "1073741824"})
	eventually(t, 20*time.Second, "the idle log proves its end", func() bool {
		b, err := os.ReadFile(filepath.Join(broker.DataDir, "wal/durable"))
		return err == nil && len(b) == 4096 && b[16] == 0 && b[17]&0x0f == 0 && !bytes.Equal(b[16:24], make([]byte, 8))
	})
	broker.Kill()
	if err := os.Remove(filepath.Join(broker.DataDir, "wal/wal-0000.log")); err != nil {
		t.Fatal(err)
	}
	if err := broker.Launch(); err == nil {
		t.Fatal("the broker starts without the newest file of its write-ahead log")
	}
	if out, code := weirLog(t, broker, "verify", "-q"); code != 3 || !strings.Contains(out, "newest file is missing") {
		t.Errorf("verify: exit %d", code)
	}
}
