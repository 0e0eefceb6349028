package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/vfs"
	"weir/uring"
)

func testOptions(dir string) Options {
	return Options{
		FS: vfs.OS{}, Dir: filepath.Join(dir, "meta"), NodeID: 1,
		FileBytes: logFileBytesMin, FilesMax: logFilesMin,
		Ring: uring.Options{Backend: uring.BackendPortable},
	}
}

func open(t testing.TB, o Options) *Meta {
	t.Helper()
	m, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func shut(t testing.TB, m *Meta) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func propose(t testing.TB, m *Meta, cmds ...Command) []Result {
	t.Helper()
	results, err := m.Propose(t.Context(), cmds...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("%#v: %v", cmds[i], r.Err)
		}
	}
	return results
}

func TestFirstStart(t *testing.T) {
	m := open(t, testOptions(t.TempDir()))
	img := m.Image()
	if len(img.ClusterID) != 22 || img.ClusterID != m.ClusterID() || img.ControllerID != 1 {
		t.Fatalf("cluster %q (file: %q), controller %d", img.ClusterID, m.ClusterID(), img.ControllerID)
	}
	if m.Poisoned() != nil {
		t.Fatal(m.Poisoned())
	}
}

func TestCreateTopicFillsInIDAndReplicas(t *testing.T) {
	m := open(t, testOptions(t.TempDir()))
	r := propose(t, m, CreateTopic{Name: "t", Partitions: 3})
	topic := m.Image().Topic("t")
	if topic != r[0].Topic || topic.ID == [16]byte{} || topic.ID[6]>>4 != 4 || len(topic.Partitions) != 3 {
		t.Fatalf("got %+v", topic)
	}
	for i, p := range topic.Partitions {
		if p.Leader != 1 || p.LeaderEpoch != 0 || len(p.ISR) != 1 || p.ISR[0] != 1 {
			t.Fatalf("partition %d: %+v", i, p)
		}
	}
	results, err := m.Propose(t.Context(), CreateTopic{Name: "t", Partitions: 1}, CreateTopic{Name: "u", Partitions: 1},
		CreateTopic{Name: "v"}, CreateTopic{Name: "w", Partitions: 1, ReplicationFactor: 2}, CreateTopic{Name: "?", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{ErrTopicExists, nil, ErrInvalidPartitions, ErrInvalidReplication, ErrInvalidTopic} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("command %d: got %v, want %v", i, results[i].Err, want)
		}
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	m := open(t, testOptions(dir))
	propose(t, m, RegisterBroker{ID: 1, Host: "h", Port: 9092}, CreateTopic{Name: "a", Partitions: 2, Configs: map[string]string{"k": "v"}})
	propose(t, m, CreateTopic{Name: "gone", Partitions: 1})
	propose(t, m, DeleteTopic{Name: "gone"}, AllocateProducerIDs{Broker: 1})
	before := m.Image()
	shut(t, m)
	for range 3 {
		m = open(t, testOptions(dir))
		if !m.Image().equal(before) {
			t.Fatalf("after restart: %+v, want %+v", m.Image(), before)
		}
		shut(t, m)
	}
	m = open(t, testOptions(dir))
	if r := propose(t, m, AllocateProducerIDs{Broker: 1}); r[0].FirstProducerID != ProducerIDBlock {
		t.Fatalf("first producer id is %d, want %d", r[0].FirstProducerID, ProducerIDBlock)
	}
}

func TestSnapshotShortensTheLogAndRestores(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	o.SnapshotBytes, o.TrailingLogs = 1<<20, 8
	m := open(t, o)
	// Each proposal takes at least a block of 4 KiB: this is more than all files of the log together hold.
	for i := range 2 * logFileBytesMin * logFilesMin / 3 / 4096 {
		propose(t, m, SetConfigs{Resource: Resource{ResourceGroup, "g"}, Set: map[string]string{"n": fmt.Sprint(i), "pad": strings.Repeat("x", 4096)}})
	}
	if err := m.takeSnapshot(); err != nil {
		t.Fatal(err)
	}
	first, _ := m.store.FirstIndex()
	last, _ := m.store.LastIndex()
	if last-first > 16 {
		t.Fatalf("log holds entries %d to %d after a snapshot", first, last)
	}
	before := m.Image()
	shut(t, m)
	files, err := filepath.Glob(filepath.Join(o.Dir, "snapshots", "*"))
	if err != nil || len(files) > snapshotsKept || len(files) == 0 {
		t.Fatalf("snapshots %v, %v", files, err)
	}
	m = open(t, o)
	if !m.Image().equal(before) {
		t.Fatal("image differs after restart")
	}
	propose(t, m, CreateTopic{Name: "after", Partitions: 1})
	if err := m.takeSnapshot(); err != nil {
		t.Fatal(err)
	}
	before = m.Image()
	shut(t, m)
	m = open(t, o)
	if !m.Image().equal(before) {
		t.Fatal("image differs after the second restart")
	}
}

func TestConcurrentProposals(t *testing.T) {
	m := open(t, testOptions(t.TempDir()))
	const callers, each = 32, 8
	seen := make(map[string]bool)
	last := uint64(0)
	cancel := m.Subscribe(func(img *Image, d *Delta) {
		if d.To < last || d.To != img.Version {
			t.Errorf("delta to %d after %d, image %d", d.To, last, img.Version)
		}
		last = d.To
		for _, c := range d.Created {
			seen[c.Name] = true
		}
	})
	defer cancel()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("t-%d-%d", c, i)
				r, err := m.Propose(t.Context(), CreateTopic{Name: name, Partitions: 2})
				if err != nil || r[0].Err != nil {
					t.Errorf("%s: %v, %v", name, r, err)
					return
				}
				if got := m.Image().Topic(name); got == nil || got.ID != r[0].Topic.ID {
					t.Errorf("%s is not in the image when Propose returns", name)
				}
			}
		})
	}
	wg.Wait()
	if n := m.Image().NumTopics(); n != callers*each || len(seen) != n {
		t.Fatalf("%d topics, subscriber saw %d, want %d", n, len(seen), callers*each)
	}
}

func TestSubscribersRunBeforeProposeReturns(t *testing.T) {
	m := open(t, testOptions(t.TempDir()))
	propose(t, m, CreateTopic{Name: "before", Partitions: 1})
	var created []string // no lock: Propose orders it
	cancel := m.Subscribe(func(_ *Image, d *Delta) {
		for _, c := range d.Created {
			created = append(created, c.Name)
		}
	})
	if len(created) != 1 || created[0] != "before" {
		t.Fatalf("at subscription: %v", created)
	}
	propose(t, m, CreateTopic{Name: "after", Partitions: 1})
	if len(created) != 2 || created[1] != "after" {
		t.Fatalf("after Propose: %v", created)
	}
	cancel()
	propose(t, m, CreateTopic{Name: "later", Partitions: 1})
	if len(created) != 2 {
		t.Fatalf("after cancel: %v", created)
	}
}

func TestRefusesAnotherNodesDirectory(t *testing.T) {
	dir := t.TempDir()
	m := open(t, testOptions(dir))
	shut(t, m)
	tests := []struct {
		name   string
		change func(*Options)
		want   error
	}{
		{"node", func(o *Options) { o.NodeID = 2 }, ErrWrongNode},
		{"cluster", func(o *Options) { o.ClusterID = FormatID(NewID()) }, ErrWrongCluster},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := testOptions(dir)
			tt.change(&o)
			if _, err := Open(o); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRefusesAnotherClustersLog(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(dir)
	m := open(t, o)
	if err := m.takeSnapshot(); err != nil {
		t.Fatal(err)
	}
	shut(t, m)
	name := filepath.Join(o.Dir, propertiesName)
	if err := os.WriteFile(name, []byte(properties{nodeID: 1, clusterID: FormatID(NewID())}.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.Is(err, ErrWrongCluster) {
		t.Fatalf("got %v, want ErrWrongCluster", err)
	}
}

func TestRefusesWhenSnapshotAndLogDoNotJoin(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, file string)
		want  error
	}{
		{"snapshot lost", func(t *testing.T, file string) { remove(t, file) }, ErrCorrupt},
		{"snapshot damaged", func(t *testing.T, file string) {
			b, _ := os.ReadFile(file)
			b[len(b)-1] ^= 1
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt},
		{"image from the future", func(t *testing.T, file string) {
			if err := os.WriteFile(file, rewrite(t, file, []byte{imageVersion + 1}), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrVersion},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.TrailingLogs = 1
			m := open(t, o)
			propose(t, m, CreateTopic{Name: "a", Partitions: 1})
			if err := m.takeSnapshot(); err != nil {
				t.Fatal(err)
			}
			shut(t, m)
			files, _ := filepath.Glob(filepath.Join(o.Dir, "snapshots", "*"+snapshotSuffix))
			if len(files) != 1 {
				t.Fatalf("snapshots %v", files)
			}
			tt.spoil(t, files[0])
			if _, err := Open(o); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// rewrite returns the snapshot file with another image in it.
func rewrite(t *testing.T, file string, image []byte) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	meta, _, err := decodeSnapshot(b)
	if err != nil {
		t.Fatal(err)
	}
	out := append(appendSnapshotHead(nil, meta), image...)
	finishSnapshot(out)
	return out
}

func TestProposeLimits(t *testing.T) {
	m := open(t, testOptions(t.TempDir()))
	big := make([]Command, 20)
	for i := range big {
		big[i] = SetConfigs{Resource: Resource{ResourceGroup, fmt.Sprint(i)}, Set: map[string]string{"k": strings.Repeat("x", configValueBytesMax)}}
	}
	if _, err := m.Propose(t.Context(), big...); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v, want ErrTooLarge", err)
	}
	propose(t, m, big[:8]...) // still works
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Propose(ctx, AllocateProducerIDs{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled or success", err)
	}
	shut(t, m)
	if _, err := m.Propose(t.Context(), AllocateProducerIDs{}); !errors.Is(err, ErrClosed) {
		t.Fatalf("after Close: got %v, want ErrClosed", err)
	}
}

func TestThousandTopicsAreOneEntry(t *testing.T) {
	m := open(t, testOptions(t.TempDir()))
	before, _ := m.store.LastIndex()
	cmds := make([]Command, 1000)
	for i := range cmds {
		cmds[i] = CreateTopic{Name: fmt.Sprintf("t-%d", i), Partitions: 10}
	}
	calls := 0
	defer m.Subscribe(func(*Image, *Delta) { calls++ })()
	propose(t, m, cmds...)
	after, _ := m.store.LastIndex()
	if after != before+1 || calls != 2 || m.Image().NumPartitions() != 10_000 {
		t.Fatalf("%d entries, %d calls, %d partitions", after-before, calls, m.Image().NumPartitions())
	}
}
