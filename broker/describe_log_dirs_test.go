package broker

import (
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/vfs"
)

func describeDir(t *testing.T, w *wire, version int16, topics []kmsg.DescribeLogDirsRequestTopic) kmsg.DescribeLogDirsResponseDir {
	t.Helper()
	req := kmsg.NewPtrDescribeLogDirsRequest()
	req.Version, req.Topics = version, topics
	resp := w.do(req).(*kmsg.DescribeLogDirsResponse)
	if resp.ErrorCode != 0 || len(resp.Dirs) != 1 {
		t.Fatalf("%+v", resp)
	}
	return resp.Dirs[0]
}

func TestDescribeLogDirs(t *testing.T) {
	dir := t.TempDir()
	r := startNode(t, dir, nil)
	w := dial(t, r)
	createTopic(t, w, "a", 2)
	createTopic(t, w, "b", 1)
	batch := buildBatch(t, "some", "records")
	size := int64(len(batch))
	for range 3 {
		w.do(produceRequest("a", 1, -1, batch))
	}
	type asked = []kmsg.DescribeLogDirsRequestTopic
	for version := int16(1); version <= 5; version++ {
		for _, c := range []struct {
			what  string
			asked asked
			want  []string
		}{
			{"all", nil, []string{"a-0", "a-1", "b-0"}},
			{"nothing", asked{}, nil},
			{"some", asked{{Topic: "a", Partitions: []int32{1, 7, -1}}, {Topic: "nope", Partitions: []int32{0}}}, []string{"a-1"}},
			{"a topic twice", asked{{Topic: "a", Partitions: []int32{1}}, {Topic: "b", Partitions: []int32{0}}, {Topic: "a", Partitions: []int32{0, 1}}}, []string{"a-0", "a-1", "b-0"}},
			{"no partition of a topic", asked{{Topic: "a"}}, nil},
		} {
			d := describeDir(t, w, version, c.asked)
			if d.ErrorCode != 0 || d.Dir != dir {
				t.Errorf("v%d %s: error %d for %s", version, c.what, d.ErrorCode, d.Dir)
			}
			if sized := d.TotalBytes > 0 && d.UsableBytes > 0 && d.UsableBytes <= d.TotalBytes; sized != (version >= 4) {
				t.Errorf("v%d %s: %d of %d bytes usable", version, c.what, d.UsableBytes, d.TotalBytes)
			}
			var got []string
			for _, topic := range d.Topics {
				for _, p := range topic.Partitions {
					got = append(got, topic.Topic+"-"+string(rune('0'+p.Partition)))
					want := int64(0)
					if topic.Topic == "a" && p.Partition == 1 {
						want = 3 * size
					}
					if p.Size != want || p.OffsetLag != 0 || p.IsFuture {
						t.Errorf("v%d %s: %s-%d: %+v, want %d bytes", version, c.what, topic.Topic, p.Partition, p, want)
					}
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("v%d %s: %v, want %v", version, c.what, got, c.want)
			}
		}
	}
}

// TestLogDirSizes: what DescribeLogDirs tells about a partition is what its files and its memory hold, before and after a flush, a deletion
// and a restart.
func TestLogDirSizes(t *testing.T) {
	dir := t.TempDir()
	r := startNode(t, dir, nil)
	w := dial(t, r)
	createTopic(t, w, "t", 1, [2]string{"internal.segment.bytes", "2048"})
	batch := buildBatch(t, string(make([]byte, 900)))
	size := int64(len(batch))
	check := func(what string, batches int64) {
		t.Helper()
		if got := describeDir(t, w, 4, nil).Topics[0].Partitions[0].Size; got != batches*size {
			t.Errorf("%s: %d bytes, want %d batches of %d", what, got, batches, size)
		}
	}
	for range 10 {
		w.do(produceRequest("t", 0, -1, batch))
	}
	check("in memory", 10)
	stopNode(t, r)
	r = startNode(t, dir, nil)
	w = dial(t, r)
	check("after a restart", 10)
	if row := deleteRow(t, w, 2, 10000, offsetAt{"t", 0, 5}); row.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(row.ErrorCode))
	}
	// Two batches make a segment; that of offsets 4 and 5 stays. Files go in the background, which a restart waits for.
	stopNode(t, r)
	files, err := filepath.Glob(filepath.Join(dir, "topics", "t-0.*", "*.log"))
	if err != nil || len(files) != 3 {
		t.Errorf("files %v, %v; want those of offsets 4, 6 and 8", files, err)
	}
	r = startNode(t, dir, nil)
	w = dial(t, r)
	check("after a deletion", 6)
	logs, err := kadm.NewClient(newClient(t, r)).DescribeAllLogDirs(testContext(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := logs[1].Lookup(dir, "t", 0); !ok || p.Size != 6*size {
		t.Errorf("kadm: %+v, %v", p, ok)
	}
}

// mutedDisk is a file system that can stop to tell its size.
type mutedDisk struct {
	*vfs.MemFS
	mute atomic.Bool
}

func (d *mutedDisk) Space(dir string) (vfs.Space, error) {
	if d.mute.Load() {
		return vfs.Space{}, syscall.EIO
	}
	return d.MemFS.Space(dir)
}

// TestDescribeLogDirsOnAFailedDisk: a directory that cannot be looked at is told by its error, without topics.
func TestDescribeLogDirsOnAFailedDisk(t *testing.T) {
	disk := &mutedDisk{MemFS: vfs.NewMem()}
	w := dial(t, startNodeOn(t, disk, "/data", map[string]string{"io.engine": "portable"}))
	createTopic(t, w, "t", 1)
	disk.mute.Store(true)
	if d := describeDir(t, w, 4, nil); d.ErrorCode != kerr.KafkaStorageError.Code || len(d.Topics) != 0 || d.TotalBytes != -1 || d.Dir != "/data" {
		t.Errorf("%+v", d)
	}
	disk.mute.Store(false)
	if d := describeDir(t, w, 4, nil); d.ErrorCode != 0 || len(d.Topics) != 1 {
		t.Errorf("healed: %+v", d)
	}
}
