package replica

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// TestProducersAreReadWhenNeeded: a node starts without its producers' state. A plain batch does not need it; an idempotent one gets
// it, and is refused while it cannot be read, but not for ever.
func TestProducersAreReadWhenNeeded(t *testing.T) {
	mem := vfs.NewMem()
	extra := map[string]string{"io.engine": "portable"}
	n := openNodeOn(t, mem, "/node", extra)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	spec := record.NewSpec()
	spec.ProducerID, spec.ProducerEpoch = 7, 2
	send := func(sequence int32) *Append {
		spec.BaseSequence = sequence
		b, err := record.Build(spec, []record.Record{{Timestamp: 1, Value: []byte("mine")}})
		if err != nil {
			t.Fatal(err)
		}
		return n.append(n.ByName("t", 0), b)
	}
	for sequence := range int32(3) {
		if a := send(sequence); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	n.close()

	var broken atomic.Bool
	broken.Store(true)
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if broken.Load() && op == "open" && strings.HasSuffix(name, snapshotSuffix) {
			return syscall.EIO
		}
		return nil
	})
	n = openNodeOn(t, mem, "/node", extra)
	defer n.close()
	n.mustAppend(n.ByName("t", 0), valueBatch(t, "plain"))
	if a := send(2); !errors.Is(a.Err, ErrStorage) || !errors.Is(a.Err, syscall.EIO) {
		t.Errorf("an idempotent batch while the state cannot be read: %v, want ErrStorage", a.Err)
	}
	broken.Store(false)
	if a := send(2); a.Err != nil || a.BaseOffset != 2 {
		t.Errorf("a retry of the last batch: offset %d, %v, want 2", a.BaseOffset, a.Err)
	}
	if a := send(9); !errors.Is(a.Err, ErrOutOfOrder) {
		t.Errorf("a gap in the sequence numbers: %v, want ErrOutOfOrder", a.Err)
	}
	if a := send(3); a.Err != nil || a.BaseOffset != 4 {
		t.Errorf("the next batch: offset %d, %v, want 4", a.BaseOffset, a.Err)
	}
}
