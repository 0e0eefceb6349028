package raftmeta

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"weir/internal/damage"
	"weir/internal/vfs"
	"weir/uring"
)

// metaDir is a metadata directory with some topics, closed in order.
func metaDir(t *testing.T, topics int) (*vfs.MemFS, map[string][16]byte) {
	t.Helper()
	o := testOptions("/data")
	mem := vfs.NewMem()
	o.FS = mem
	m := open(t, o)
	ids := map[string][16]byte{}
	for i := range topics {
		name := fmt.Sprintf("t-%03d", i)
		ids[name] = propose(t, m, CreateTopic{Name: name, Partitions: 1})[0].Topic.ID
	}
	shut(t, m)
	return mem, ids
}

func inspect(t *testing.T, mem vfs.FS) (*Offline, []damage.Finding) {
	t.Helper()
	var found []damage.Finding
	off, err := Inspect(mem, "/data/meta", func(f damage.Finding) { found = append(found, f) })
	if err != nil {
		t.Fatal(err)
	}
	return off, found
}

func TestInspectGoodMetadata(t *testing.T) {
	mem, ids := metaDir(t, 20)
	off, found := inspect(t, mem)
	if len(found) > 0 || off.Lost() > 0 {
		t.Errorf("findings in good metadata: %v", found)
	}
	if off.Image.NumTopics() != len(ids) {
		t.Errorf("%d topics, want %d", off.Image.NumTopics(), len(ids))
	}
	res, err := Repair(mem, "/data/meta", RepairOptions{SetAside: func(string) error { t.Error("set aside"); return nil }})
	if err != nil || len(res.Changed)+len(res.Lost) > 0 {
		t.Errorf("repair of good metadata: %+v, %v", res, err)
	}
}

// TestRepairMetadata: one entry is damaged; all others are there after the repair, and the topic comes back if its data is on disk.
func TestRepairMetadata(t *testing.T) {
	for _, onDisk := range []bool{false, true} {
		t.Run(fmt.Sprintf("data on disk %v", onDisk), func(t *testing.T) {
			mem, ids := metaDir(t, 20)
			const victim = "t-007"
			damageTopic(t, mem, victim)
			off, found := inspect(t, mem)
			if off.Lost() == 0 || off.Image.Topic(victim) != nil {
				t.Fatalf("damage is not found: %v", found)
			}
			if text := fmt.Sprint(found); !strings.Contains(text, victim) {
				t.Errorf("what was damaged can be told, and is not: %s", text)
			}
			o := RepairOptions{SetAside: func(name string) error { return mem.Rename(name, name+".damaged") }}
			if onDisk {
				o.Topics = []CreateTopic{{Name: victim, ID: ids[victim], Assignment: [][]int32{{1}}}}
			}
			res, err := Repair(mem, "/data/meta", o)
			if err != nil || len(res.Lost) == 0 {
				t.Fatalf("repair: %+v, %v", res, err)
			}
			opts := testOptions("/data")
			opts.FS = mem
			m := open(t, opts)
			defer shut(t, m)
			for name, id := range ids {
				got := m.Image().Topic(name)
				if name == victim && !onDisk {
					if got != nil {
						t.Errorf("%s is back from nowhere", name)
					}
					continue
				}
				if got == nil || got.ID != id {
					t.Errorf("topic %s with id %s is %+v after the repair", name, FormatID(id), got)
				}
			}
			propose(t, m, CreateTopic{Name: "new", Partitions: 1})
		})
	}
}

// damageTopic flips a bit in the log entry that creates a topic, behind its name.
func damageTopic(t *testing.T, mem vfs.FS, topic string) {
	t.Helper()
	list, err := mem.List("/data/meta/wal")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		name := path.Join("/data/meta/wal", e.Name())
		b, err := readWhole(mem, name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		at := strings.Index(string(b), topic)
		if at < 0 {
			continue
		}
		f, err := mem.OpenFile(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		at += len(topic) + 2
		if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no log entry creates %s", topic)
}

// TestInspectOfANodeInACluster: what is normal in a cluster is no finding, also where the id of the cluster is not written down yet, and where a
// snapshot has replaced a log that is still there.
func TestInspectOfANodeInACluster(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		img := r.converged()
		for id := range int32(3) {
			r.stop(id + 1)
		}
		fs := r.nodes[1].fs
		look := func(what string) *Offline {
			t.Helper()
			off, found := inspect(t, fs)
			if len(found) > 0 || off.Image.Topic("a") == nil || off.Node != 1 {
				t.Errorf("%s: findings %v, image %+v", what, found, off.Image)
			}
			return off
		}
		if off := look("at rest"); off.Cluster != img.ClusterID {
			t.Errorf("cluster %q, want %q", off.Cluster, img.ClusterID)
		}
		d := newDisk(fs, uring.Options{Backend: uring.BackendPortable}, time.Second)
		if err := d.write("/data/meta/"+propertiesName, []byte(properties{nodeID: 1}.String())); err != nil {
			t.Fatal(err)
		}
		look("without the cluster's id")
		r.start(1, nil)
		r.start(2, nil)
		r.allReady()
		if id := r.nodes[1].ClusterID(); id != img.ClusterID {
			t.Errorf("cluster %q, want %q", id, img.ClusterID)
		}
	})
}
