package raftmeta

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
	"weir/uring"
)

// faultFS is a file system whose writes can be made to fail or to hang.
type faultFS struct {
	vfs.FS
	match atomic.Pointer[string] // part of the names of files that are affected
	fault atomic.Pointer[func() error]
}

func (f *faultFS) OpenFile(name string, flag vfs.Flag) (vfs.File, error) {
	file, err := f.FS.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

type faultFile struct {
	vfs.File
	fs   *faultFS
	name string
}

func (f *faultFile) Fd() int { return -1 } // so that the ring writes through WriteAt

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if fault, part := f.fs.fault.Load(), f.fs.match.Load(); fault != nil && strings.Contains(f.name, *part) {
		if err := (*fault)(); err != nil {
			return 0, err
		}
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFS) inject(part string, fault func() error) {
	f.match.Store(&part)
	f.fault.Store(&fault)
}

func (f *faultFS) heal() { f.fault.Store(nil) }

func faultOptions(dir string) (*faultFS, Options) {
	fs := &faultFS{FS: vfs.OS{}}
	o := testOptions(dir)
	o.FS = fs
	return fs, o
}

func TestPoison(t *testing.T) {
	tests := []struct {
		name  string
		fault func(release <-chan struct{}) error
		want  error
	}{
		{"write fails", func(<-chan struct{}) error { return syscall.EIO }, syscall.EIO},
		{"write hangs", func(release <-chan struct{}) error { <-release; return nil }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				free := sync.OnceFunc(func() { close(release) })
				defer free()
				fs, o := faultOptions("/data")
				fs.FS = vfs.NewMem()
				o.StoreTimeout = 100 * time.Millisecond
				poisoned := make(chan error, 2)
				o.OnPoison = func(err error) { poisoned <- err }
				m := open(t, o)
				propose(t, m, CreateTopic{Name: "acked", Partitions: 1})
				resigned := make(chan struct{})
				defer m.Subscribe(func(img *Image, d *Delta) {
					if d.Controller && img.ControllerID == -1 {
						close(resigned)
					}
				})()

				fs.inject("wal-", func() error { return tt.fault(release) })
				var wg sync.WaitGroup
				for range 8 { // all of those under way fail, none hangs
					wg.Go(func() {
						if _, err := m.Propose(t.Context(), AllocateProducerIDs{}); !errors.Is(err, ErrPoisoned) {
							t.Errorf("Propose during the fault: got %v, want ErrPoisoned", err)
						}
					})
				}
				wg.Wait()
				if err := <-poisoned; !errors.Is(err, ErrPoisoned) || tt.want != nil && !errors.Is(err, tt.want) {
					t.Fatalf("poisoned by %v, want %v", err, tt.want)
				}
				<-resigned
				fs.heal()
				free()
				if _, err := m.Propose(t.Context(), AllocateProducerIDs{}); !errors.Is(err, ErrPoisoned) {
					t.Fatalf("Propose on the healed disk: got %v, want ErrPoisoned: only a restart proves it good", err)
				}
				if !errors.Is(m.Poisoned(), ErrPoisoned) || m.Image().Topic("acked") == nil || m.raft().State() != raft.Shutdown {
					t.Fatalf("poisoned %v, topic %v, raft %s", m.Poisoned(), m.Image().Topic("acked"), m.raft().State())
				}
				_ = m.Close() // reports the poison
				if len(poisoned) != 0 {
					t.Fatal("OnPoison was called twice")
				}
				m = open(t, o)
				if m.Image().Topic("acked") == nil {
					t.Fatal("acknowledged topic is lost")
				}
				propose(t, m, CreateTopic{Name: "again", Partitions: 1})
			})
		})
	}
}

// TestPoisonedStore is what raft sees: no entry and no vote is accepted, and the term, whose failure would panic, is kept in memory.
func TestPoisonedStore(t *testing.T) {
	fs, o := faultOptions(t.TempDir())
	o.setDefaults()
	m := &Meta{o: o, failed: make(chan struct{}), gate: newGate(1, 1), grown: make(chan struct{}, 1)}
	m.trans = newTransport(&m.o, m.ClusterID)
	so := m.storeOptions()
	so.wal.Ring = uring.Options{Backend: uring.BackendPortable}
	s, err := openStore(so)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close() //nolint:errcheck // reports the poison
	if err := s.SetUint64([]byte(keyCurrentTerm), 4); err != nil {
		t.Fatal(err)
	}
	fs.inject("wal-", func() error { return syscall.EIO })
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 4}); !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v, want ErrPoisoned by EIO", err)
	}
	fs.heal()
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 4}); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("second store: got %v", err)
	}
	if last, _ := s.LastIndex(); last != 0 {
		t.Fatalf("last index is %d, but nothing was stored", last)
	}
	if err := s.SetUint64([]byte(keyCurrentTerm), 5); err != nil {
		t.Fatalf("term: got %v, which would panic in raft", err)
	}
	if got, _ := s.GetUint64([]byte(keyCurrentTerm)); got != 5 {
		t.Fatalf("term is %d", got)
	}
	if err := s.SetUint64([]byte("LastVoteTerm"), 5); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("vote term: got %v, want ErrPoisoned", err)
	}
	if err := s.Set([]byte("LastVoteCand"), []byte("1")); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("vote: got %v, want ErrPoisoned", err)
	}
}

// TestSnapshotFailureRefusesBeforeTheLogIsFull: without snapshots the log cannot be shortened; proposals are refused while there is
// still room for raft's own entries, nothing is poisoned, and it goes on when snapshots work again.
func TestSnapshotFailureRefusesBeforeTheLogIsFull(t *testing.T) {
	fs, o := faultOptions(t.TempDir())
	o.SnapshotBytes = 1 << 20
	m := open(t, o)
	fs.inject("snapshot", func() error { return syscall.ENOSPC })
	pad := strings.Repeat("x", 60<<10)
	change := func() error {
		_, err := m.Propose(t.Context(), SetConfigs{Resource: Resource{ResourceGroup, "g"}, Set: map[string]string{"k": pad}})
		return err
	}
	var err error
	for range 2 * o.FileBytes * int64(o.FilesMax) / (60 << 10) {
		if err = change(); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrBackpressure) || m.Poisoned() != nil {
		t.Fatalf("got %v, poison %v, want ErrBackpressure", err, m.Poisoned())
	}
	fs.heal()
	if err := m.takeSnapshot(); err != nil {
		t.Fatal(err)
	}
	if err := change(); err != nil {
		t.Fatalf("after the snapshot: %v", err)
	}
}
