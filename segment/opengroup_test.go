package segment

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"weir/internal/vfs"
)

// TestOpenTogether: what was written and not synced before a kill counts as flushed after the logs were opened, and is durable then; it costs a
// few syncs, not one for each log. A sync that fails is the opening's failure.
func TestOpenTogether(t *testing.T) {
	const logs = 100
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	ws := manyLogs(t, s, logs, defaultConfig())
	for _, w := range ws {
		w.add(1, 10, 0)
	}
	flushAll(t, s)
	var before *vfs.MemFS // everything is written, and the checkpoint knows nothing of it
	fs.SetHook(func(op, _ string, _ int64, _ int) error {
		if op == "syncfs" && before == nil {
			before = fs.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
		}
		return nil
	})
	for _, w := range ws {
		w.add(1, 10, 0)
	}
	flushAll(t, s)
	fs.SetHook(nil)
	for _, broken := range []bool{true, false} {
		killed := before.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
		var ops opCounts
		killed.SetHook(func(op, name string, off int64, n int) error {
			if broken && (op == "syncfs" || op == "datasync") {
				return syscall.EIO
			}
			return ops.hook(op, name, off, n)
		})
		o, _ := testOptions(killed)
		again := openStore(t, o)
		var opened []*Log
		err := again.OpenTogether(func() error {
			for i := range logs {
				opened = append(opened, openLog(t, again, fmt.Sprintf("t-%d", i), defaultConfig()))
			}
			return nil
		})
		if broken {
			if err == nil {
				t.Error("logs that cannot be synced were opened")
			}
			killed.SetHook(nil)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := ops.of("syncfs") + ops.of("datasync"); n == 0 || n > 3 {
			t.Errorf("%d syncs for %d logs", n, logs)
		}
		durable := killed.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)
		for i, l := range opened {
			if l.Flushed() != 2 || len(readFS(t, durable, segFile(l.Dir(), 0, logSuffix))) != len(ws[i].want) {
				t.Fatalf("%s: flushed up to %d, and the file is not durable", l.Dir(), l.Flushed())
			}
		}
	}
}
