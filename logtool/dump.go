package logtool

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/raftmeta"
	"weir/replica"
	"weir/segment"
	"weir/wal"
)

// DumpOptions say what is shown.
type DumpOptions struct {
	Options
	Deep     bool  // records, not only batches
	From, To int64 // offsets; To is not included, 0: all
	// Line takes one thing found: as a value for machines and as text for people.
	Line func(v any, text string)
}

// Batch is a batch for people and machines.
type Batch struct {
	Offsets       string `json:"offsets"`
	Position      int64  `json:"position"`
	Bytes         int    `json:"bytes"`
	Records       int32  `json:"records"`
	Epoch         int32  `json:"leader_epoch"`
	Codec         string `json:"codec"`
	Timestamp     int64  `json:"max_timestamp"`
	Producer      int64  `json:"producer_id"`
	ProducerEpoch int16  `json:"producer_epoch"`
	Sequence      int32  `json:"base_sequence"`
	Transactional bool   `json:"transactional"`
	Control       bool   `json:"control"`
}

// Record is a record for people and machines.
type Record struct {
	Offset    int64    `json:"offset"`
	Timestamp int64    `json:"timestamp"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []string `json:"headers,omitempty"`
}

// Dump shows what: "wal", "metadata", "checkpoint", a partition's directory (orders-0, with or without its id), or a file in the data
// directory.
func Dump(o DumpOptions, what string) error {
	if o.To == 0 {
		o.To = math.MaxInt64
	}
	switch what {
	case "wal":
		return o.dumpWAL()
	case "metadata":
		return o.dumpMetadata()
	case "checkpoint":
		return o.dumpCheckpoint()
	}
	if name, ok := o.existing(what); ok {
		return o.dumpFile(name)
	}
	dirs, err := o.partitionDirs(what)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := o.dumpPartition(dir); err != nil {
			return err
		}
	}
	return nil
}

// existing finds a file by a path below the data directory, below topics/, or any.
func (o *DumpOptions) existing(what string) (string, bool) {
	for _, name := range []string{path.Join(o.Dir, what), path.Join(o.topics(), what), what} {
		if info, err := o.FS.Stat(name); err == nil && !info.IsDir() {
			return name, true
		}
	}
	return "", false
}

func (o *DumpOptions) partitionDirs(what string) (dirs []string, err error) {
	list, err := o.FS.List(o.topics())
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		topic, partition, _, ok := replica.ParseDirName(e.Name())
		if ok && (what == e.Name() || what == fmt.Sprintf("%s-%d", topic, partition) || what == topic) {
			dirs = append(dirs, path.Join(o.topics(), e.Name()))
		}
	}
	if dirs == nil {
		return nil, fmt.Errorf("%s: %w: neither a file, nor a partition or topic with files, nor wal, metadata or checkpoint", what, fs.ErrNotExist)
	}
	return dirs, nil
}

func (o *DumpOptions) dumpPartition(dir string) error {
	list, err := o.FS.List(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".log") {
			if err := o.dumpFile(path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *DumpOptions) dumpFile(name string) error {
	o.Line(map[string]string{"file": name}, name)
	base, _, _ := strings.Cut(path.Base(name), ".")
	first, _ := strconv.ParseInt(base, 10, 64)
	switch path.Ext(name) {
	case ".log":
		return segment.InspectFile(o.FS, name, o.stretch)
	case ".index", ".timeindex":
		return segment.InspectIndex(o.FS, name, first, path.Ext(name) == ".timeindex", func(e segment.IndexEntry) error {
			text := fmt.Sprintf("  offset %d at %d", e.Offset, e.Position)
			if e.Time {
				text = fmt.Sprintf("  timestamp %s came with offset %d", when(e.Timestamp), e.Offset)
			}
			o.Line(e, text)
			return nil
		})
	case replica.SnapshotSuffix:
		return o.dumpProducers(name)
	}
	return fmt.Errorf("%s: %w: of what kind this file is cannot be told from its name", name, fs.ErrInvalid)
}

func (o *DumpOptions) dumpProducers(name string) error {
	data, err := segment.ReadSmall(o.FS, name)
	if err != nil {
		return err
	}
	offset, states, err := replica.InspectSnapshot(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	o.Line(map[string]int64{"offset": offset}, fmt.Sprintf("  producers as of offset %d", offset))
	for _, p := range states {
		o.Line(p, fmt.Sprintf("  producer %d epoch %d: sequence %d at offset %d, last seen %s", p.ID, p.Epoch, p.LastSequence, p.LastOffset, when(p.LastTimestamp)))
	}
	return nil
}

func (o *DumpOptions) stretch(st segment.Stretch) error {
	if st.To <= o.From || st.From >= o.To {
		return nil
	}
	if st.Batch == nil {
		f := damage.Finding{Severity: damage.Lost, Position: st.Position, Length: st.Length, Offsets: st.OffsetsOf(), What: st.Err.Error()}
		o.Line(f, fmt.Sprintf("  DAMAGED at %d, %d bytes, offsets %s: %v", st.Position, st.Length, st.OffsetsOf(), st.Err))
		return nil
	}
	return o.batch(st.Position, st.Batch)
}

func (o *DumpOptions) batch(position int64, b record.Batch) error {
	v := Batch{
		Offsets: damage.Range{From: b.BaseOffset(), To: b.NextOffset()}.String(), Position: position, Bytes: len(b), Records: b.Count(), Epoch: b.LeaderEpoch(),
		Codec: b.Codec().String(), Timestamp: b.MaxTimestamp(), Producer: b.ProducerID(), ProducerEpoch: b.ProducerEpoch(), Sequence: b.BaseSequence(),
		Transactional: b.IsTransactional(), Control: b.IsControl(),
	}
	text := fmt.Sprintf("  offsets %s at %d: %d records in %d bytes, %s, newest %s, epoch %d", v.Offsets, position, v.Records, v.Bytes, v.Codec, when(v.Timestamp), v.Epoch)
	if v.Producer != record.NoProducerID {
		text += fmt.Sprintf(", producer %d epoch %d sequence %d", v.Producer, v.ProducerEpoch, v.Sequence)
	}
	if v.Transactional {
		text += ", transactional"
	}
	if v.Control {
		text += ", control"
	}
	o.Line(v, text)
	if !o.Deep {
		return nil
	}
	return b.Each(func(r *record.Record) bool {
		if r.Offset < o.From || r.Offset >= o.To {
			return true
		}
		v := Record{Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			v.Headers = append(v.Headers, fmt.Sprintf("%s=%q", h.Key, h.Value))
		}
		text := fmt.Sprintf("    %d %s key %s value %s", r.Offset, when(r.Timestamp), quoted(r.Key), quoted(r.Value))
		if len(v.Headers) > 0 {
			text += " headers " + strings.Join(v.Headers, ", ")
		}
		o.Line(v, text)
		return true
	})
}

func quoted(b []byte) string {
	if b == nil {
		return "null"
	}
	return strconv.Quote(string(b))
}

func when(ms int64) string {
	if ms < 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func (o *DumpOptions) dumpWAL() error {
	_, err := wal.Salvage(o.FS, o.wal(), func(it wal.Item) error {
		switch it.Type {
		case wal.ItemEntry:
			return o.walEntry(it)
		case wal.ItemFile:
			o.Line(map[string]any{"file": it.File, "lsn": it.LSN, "generation": it.Generation}, fmt.Sprintf("%s: from LSN %d, generation %x, the file before ended at LSN %d", it.File, it.LSN, it.Generation, it.PrevEnd))
		case wal.ItemGroup:
			o.Line(map[string]any{"group": it.LSN, "entries": it.Entries, "bytes": it.Bytes, "durable": it.Durable},
				fmt.Sprintf(" group at %d, LSN %d: %d entries in %d bytes, durable up to LSN %d", it.Offset, it.LSN, it.Entries, it.Bytes, it.Durable))
		case wal.ItemDamage:
			o.Line(map[string]any{"damaged": it.LSN, "file": it.File, "position": it.Offset, "bytes": it.Bytes, "why": it.Note},
				fmt.Sprintf(" DAMAGED %s at %d, LSN %d, %d bytes: %s", it.File, it.Offset, it.LSN, it.Bytes, it.Note))
		case wal.ItemEnd:
			o.Line(map[string]any{"end": it.LSN}, fmt.Sprintf(" end at LSN %d", it.LSN))
		}
		return nil
	})
	return err
}

func (o *DumpOptions) walEntry(it wal.Item) error {
	h, err := replica.ParseWALHead(it.Head)
	if err == nil && !h.Op.HasBatch() {
		return o.walCut(it, h)
	}
	b, _, batchErr := record.Next(it.Body)
	if err = errors.Join(err, batchErr); err != nil {
		o.Line(map[string]any{"entry": it.LSN, "error": err.Error()}, fmt.Sprintf("  LSN %d: %v", it.LSN, err))
		return nil
	}
	if b.NextOffset() <= o.From || b.BaseOffset() >= o.To {
		return nil
	}
	topic := base64.RawURLEncoding.EncodeToString(h.TopicID[:])
	o.Line(map[string]any{"entry": it.LSN, "topic_id": topic, "partition": h.Partition}, fmt.Sprintf("  LSN %d: topic id %s partition %d", it.LSN, topic, h.Partition))
	return o.batch(it.Offset, b)
}

// walCut shows an entry after which the log ends, or begins anew, at an offset.
func (o *DumpOptions) walCut(it wal.Item, h replica.WALEntry) error {
	what := "truncate"
	if h.Op == replica.WALReset {
		what = "reset"
	}
	topic := base64.RawURLEncoding.EncodeToString(h.TopicID[:])
	o.Line(map[string]any{"entry": it.LSN, "topic_id": topic, "partition": h.Partition, what: h.Offset},
		fmt.Sprintf("  LSN %d: topic id %s partition %d: %s to offset %d", it.LSN, topic, h.Partition, what, h.Offset))
	return nil
}

func (o *DumpOptions) dumpCheckpoint() error {
	points, err := segment.InspectCheckpoint(o.FS, o.topics())
	if err != nil {
		return err
	}
	for _, dir := range sortedDirs(points) {
		p := points[dir]
		v := map[string]any{"log": dir, "recovery_point": p.RecoveryPoint, "log_start": p.LogStart}
		text := fmt.Sprintf("%s: from offset %d, in segments up to %d", dir, p.LogStart, p.RecoveryPoint)
		if p.Cut != 0 {
			v["cut"] = p.Cut
			text += fmt.Sprintf(", truncations followed up to LSN %d", p.Cut)
		}
		if p.Resetting != 0 {
			v["resetting"] = true
			text += ", its files are being deleted"
		}
		o.Line(v, text)
	}
	return nil
}

func (o *DumpOptions) dumpMetadata() error {
	m, err := raftmeta.Inspect(o.FS, o.meta(), func(f damage.Finding) { o.Line(f, f.String()) })
	if err != nil {
		return err
	}
	o.Line(map[string]any{"node": m.Node, "cluster": m.Cluster, "snapshot": m.Snapshot}, fmt.Sprintf("node %d of cluster %s, newest snapshot at entry %d", m.Node, m.Cluster, m.Snapshot))
	for _, e := range m.Entries {
		o.Line(e, fmt.Sprintf("  entry %d term %d LSN %d %s: %s", e.Index, e.Term, e.LSN, e.Type, e.What))
	}
	for t := range m.Image.Topics() {
		id := base64.RawURLEncoding.EncodeToString(t.ID[:])
		o.Line(map[string]any{"topic": t.Name, "id": id, "partitions": len(t.Partitions), "configs": t.Configs}, fmt.Sprintf("topic %s, id %s, %d partitions, %v", t.Name, id, len(t.Partitions), t.Configs))
	}
	return nil
}

func sortedDirs(points map[string]segment.Checkpoint) []string {
	return slices.Sorted(maps.Keys(points))
}
