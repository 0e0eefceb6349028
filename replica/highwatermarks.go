package replica

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/replica/machine"
)

// The high watermarks of partitions with other replicas are remembered across a restart, because only the replicas together know them: the end of
// one's log says nothing, a record there may be on no other disk yet. What is remembered may be old, which is safe: a high watermark that was true
// once is true ever after, but for an election of a replica that was not in sync. For that case each is written with the epoch of the record below it,
// and is believed only if the log still has that epoch there.
//
// Without the file a partition begins at its log start, and consumers see nothing until the in-sync replicas have been heard of: with too few of them, nothing at all.
//
// The file is text: a version, the number of entries, and per line a partition's directory, its high watermark and the epoch.
const highWatermarksFile = "replication-offset-checkpoint"

// highWatermarksEvery is the least time between two writes.
const highWatermarksEvery = 5 * time.Second

var errHighWatermarks = errors.New("bad high watermark checkpoint")

// remembered is an entry of the file.
type remembered struct {
	offset int64
	epoch  int32
}

func encodeHighWatermarks(all map[string]remembered) []byte {
	dirs := make([]string, 0, len(all))
	for dir := range all {
		dirs = append(dirs, dir)
	}
	sort.Strings(dirs)
	out := fmt.Appendf(nil, "0\n%d\n", len(dirs))
	for _, dir := range dirs {
		out = fmt.Appendf(out, "%s %d %d\n", dir, all[dir].offset, all[dir].epoch)
	}
	return out
}

func decodeHighWatermarks(data []byte) (map[string]remembered, error) {
	if !bytes.HasSuffix(data, []byte{'\n'}) {
		return nil, fmt.Errorf("%w: cut short at %d bytes", errHighWatermarks, len(data))
	}
	lines := strings.Split(string(data[:len(data)-1]), "\n")
	if len(lines) < 2 || lines[0] != "0" {
		return nil, fmt.Errorf("%w: version 0 and a count expected in %d bytes", errHighWatermarks, len(data))
	}
	if count, err := strconv.Atoi(lines[1]); err != nil || count != len(lines)-2 {
		return nil, fmt.Errorf("%w: %d entries, count is %q", errHighWatermarks, len(lines)-2, lines[1])
	}
	all := make(map[string]remembered, len(lines)-2)
	for _, line := range lines[2:] {
		field := strings.Split(line, " ")
		if len(field) != 3 || field[0] == "" {
			return nil, fmt.Errorf("%w: entry %q", errHighWatermarks, line)
		}
		offset, err := strconv.ParseInt(field[1], 10, 64)
		epoch, err2 := strconv.ParseInt(field[2], 10, 32)
		if _, twice := all[field[0]]; err != nil || err2 != nil || offset < 0 || twice {
			return nil, fmt.Errorf("%w: entry %q", errHighWatermarks, line)
		}
		all[field[0]] = remembered{offset, int32(epoch)}
	}
	return all, nil
}

// highWatermarks keeps the file. It is written when data was flushed, which is when a start has less to replay, too, at most every few seconds, and when the
// node stops; an idle node writes nothing.
type highWatermarks struct {
	m  *Manager
	mu struct {
		lockmeter.Mutex
		timer  clock.Timer
		armed  bool
		closed bool
	}
}

// changed has the file written soon.
func (h *highWatermarks) changed() {
	if h.m.source == nil {
		return // no other node, so no partition with other replicas
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.mu.armed || h.mu.closed:
	case h.mu.timer == nil:
		h.mu.armed, h.mu.timer = true, h.m.clk.AfterFunc(highWatermarksEvery, h.due)
	default:
		h.mu.armed = true
		h.mu.timer.Reset(highWatermarksEvery)
	}
}

func (h *highWatermarks) due() {
	if !h.m.background.enter() {
		return
	}
	defer h.m.background.leave()
	h.write()
	h.mu.Lock()
	h.mu.armed = false
	h.mu.Unlock()
}

func (h *highWatermarks) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.closed = true
	if h.mu.timer != nil {
		h.mu.timer.Stop()
	}
}

// write saves what is known now. A failure costs only that the next start knows older ones.
func (h *highWatermarks) write() {
	all := map[string]remembered{}
	for _, p := range h.m.all() {
		if p.role.Load().replicated {
			if r := p.remember(); r.offset > 0 {
				all[p.log.Dir()] = r
			}
		}
	}
	if len(all) == 0 {
		return
	}
	if err := h.m.store.WriteFile(highWatermarksFile, encodeHighWatermarks(all)); err != nil && h.m.Down() == nil {
		h.m.log.Warn("high watermarks not written; the next start knows older ones", "err", err)
	}
}

// remember is what the file is to say of the partition; nothing while the epoch is not known.
func (p *Partition) remember() (r remembered) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.epochsLoaded.Load() || p.mu.cutting {
		return r
	}
	if hw := p.highWatermark.Load(); hw > 0 {
		if epoch := p.mu.epochs.At(hw - 1); epoch >= 0 {
			r = remembered{hw, epoch}
		}
	}
	return r
}

// load reads the file; a damaged one is as good as none.
func (h *highWatermarks) load() map[string]remembered {
	data, err := h.m.store.ReadFile(highWatermarksFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var all map[string]remembered
	if err == nil {
		all, err = decodeHighWatermarks(data)
	}
	if err != nil {
		h.m.log.Warn("high watermarks are learned anew from the other replicas", "err", err)
	}
	return all
}

// restoreAll brings back what is not in the logs themselves.
func (m *Manager) restoreAll(all []*Partition) {
	known := m.marks.load()
	_ = inParallel(all, func(p *Partition) error { // never fails
		p.restore(known)
		return nil
	})
}

// restore brings back the offsets and the retention timer. All of a recovered log is durable. Without other replicas all of it is committed.
func (p *Partition) restore(known map[string]remembered) {
	start, end := p.log.LogStart(), p.log.End()
	hw := end
	if p.role.Load().replicated {
		hw = start
		if r, ok := known[p.log.Dir()]; ok && r.offset > start && p.loadEpochs() == nil {
			hw = max(start, min(end, p.believed(r)))
		}
	}
	p.durable.Store(end)
	p.highWatermark.Store(hw)
	p.scheduleRetention()
}

// believed is how much of what was remembered the log bears out.
func (p *Partition) believed(r remembered) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.epochs.At(r.offset-1) == r.epoch {
		return r.offset
	}
	epoch, end := p.mu.epochs.EndFor(r.epoch, p.log.End())
	if epoch == machine.None {
		return 0
	}
	return min(end, r.offset)
}
