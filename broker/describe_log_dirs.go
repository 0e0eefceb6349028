package broker

import (
	"math"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// DescribeLogDirs (key 35) v1-5. v3 has an error for the whole answer, v4 the size of the file system (KIP-827), v5 whether a directory takes
// no new partitions (KIP-1066). A node has one directory; nothing is ever on its way from one to another.

func (c *call) describeLogDirs(req kmsg.Request) {
	r := req.(*kmsg.DescribeLogDirsRequest)
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = c.b.cfg.DataDir
	if abs, err := filepath.Abs(dir.Dir); err == nil {
		dir.Dir = abs
	}
	if err := c.describeLogDir(r, &dir); err != nil {
		c.b.faults.Warn("data directory cannot be described", dir.Dir, "dir", dir.Dir, "err", err)
		dir.ErrorCode, dir.Topics = kerr.KafkaStorageError.Code, nil
	}
	resp.Dirs = append(resp.Dirs, dir)
	c.reply(resp)
}

// describeLogDir fills in a directory's row. It asks the file system, with a deadline; what the partitions have is in memory.
func (c *call) describeLogDir(r *kmsg.DescribeLogDirsRequest, dir *kmsg.DescribeLogDirsResponseDir) error {
	if err := c.b.parts.Down(); err != nil {
		return err
	}
	space, err := c.b.parts.Space()
	if err != nil {
		return err
	}
	dir.TotalBytes, dir.UsableBytes = int64(min(space.Total, math.MaxInt64)), int64(min(space.Available, math.MaxInt64))
	img := c.b.meta.Image()
	if r.Topics == nil {
		for t := range img.Topics() {
			c.addLogs(dir, t, nil)
		}
		return nil
	}
	asked := map[string]map[int32]bool{}
	for i := range r.Topics {
		t := &r.Topics[i]
		if asked[t.Topic] == nil {
			asked[t.Topic] = map[int32]bool{}
		}
		for _, p := range t.Partitions {
			asked[t.Topic][p] = true
		}
	}
	for i := range r.Topics {
		name := r.Topics[i].Topic
		if t := img.Topic(name); t != nil && asked[name] != nil {
			c.addLogs(dir, t, asked[name])
		}
		delete(asked, name) // one row for a topic that is named twice
	}
	return nil
}

// addLogs adds the topic's partitions that are here and asked for (nil: all) to a directory's row. A topic without any gets none.
func (c *call) addLogs(dir *kmsg.DescribeLogDirsResponseDir, t *raftmeta.Topic, asked map[int32]bool) {
	row := kmsg.NewDescribeLogDirsResponseDirTopic()
	row.Topic = t.Name
	for i := range t.Partitions {
		p := c.b.parts.Partition(t.ID, int32(i))
		if p == nil || asked != nil && !asked[int32(i)] {
			continue
		}
		part := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		part.Partition, part.Size = int32(i), p.Size()
		part.OffsetLag = max(p.HighWatermark()-p.End(), 0)
		row.Partitions = append(row.Partitions, part)
	}
	if len(row.Partitions) > 0 {
		dir.Topics = append(dir.Topics, row)
	}
}
