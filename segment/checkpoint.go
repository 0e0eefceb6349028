package segment

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// checkpointFile holds, per log, what a restart must know. It is text, so that an operator can read it.
const (
	checkpointFile    = "recovery-points"
	checkpointVersion = "weir-recovery-points 3"
	// Version 2 has no truncations, and is still written where there were none. Version 1 has only the first two numbers.
	checkpointVersion2 = "weir-recovery-points 2"
	checkpointVersion1 = "weir-recovery-points 1"
)

// Checkpoint is what is remembered of a log.
type Checkpoint struct {
	RecoveryPoint int64 // everything below is synced in segment files
	LogStart      int64
	Active        ActivePoint
	// Cut is the LSN of the record of a truncation: of what the WAL has up to there the files have everything, and nothing that was truncated. 0:
	// there was none.
	Cut int64
	// Resetting is 1 while the files of a log that was emptied are being deleted: any of them may be gone, whatever it begins with.
	Resetting int64
}

// ActivePoint describes the segment that the recovery point lies in, up to there: what a start would otherwise have to learn by walking
// through the file. The zero value says nothing.
type ActivePoint struct {
	Base      int64 // of the segment
	Position  int64 // of the recovery point in its file
	FirstTime int64 // as in the index files
	MaxTime   int64 // an upper bound
	MaxTimeAt int64
}

// checkpointer writes the checkpoint. Its token serializes writers; it is held during I/O, each step of which has a deadline.
type checkpointer struct {
	once  sync.Once
	token chan struct{}
	mu    struct {
		sync.Mutex
		known  map[string]Checkpoint // as last loaded; logs that are not open yet keep their entry
		queued bool                  // a background checkpoint has yet to begin
		after  []func(error)         // what is to be done when it is durable, or has failed
	}
}

func (c *checkpointer) lock() {
	c.once.Do(func() { c.token = make(chan struct{}, 1) })
	c.token <- struct{}{}
}

func (c *checkpointer) unlock() { <-c.token }

// LoadCheckpoint reads the checkpoint by log directory; in a directory without logs a missing file is an empty map. A damaged one is a *CorruptError; opening logs
// with zero recovery points is safe then (their files are verified), but log starts set by AdvanceLogStart are lost.
func (s *Store) LoadCheckpoint() (map[string]Checkpoint, error) {
	name := path.Join(s.opt.Dir, checkpointFile)
	data, err := s.readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Checkpoint{}, s.missingCheckpoint(name)
	}
	if err != nil {
		return nil, fmt.Errorf("recovery points: %w", err)
	}
	m, err := decodeCheckpoint(data)
	if err != nil {
		return nil, &CorruptError{File: name, Err: err}
	}
	return m, nil
}

func encodeCheckpoint(m map[string]Checkpoint) []byte {
	dirs := make([]string, 0, len(m))
	for d := range m {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	version, columns := checkpointVersion2, columns2
	for _, c := range m {
		if c.Cut != 0 || c.Resetting != 0 {
			version, columns = checkpointVersion, columns3
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%d\n", version, len(dirs))
	var line []byte
	for _, d := range dirs {
		c := m[d]
		line = line[:0]
		for _, n := range c.numbers()[:columns] {
			line = append(strconv.AppendInt(line, *n, 10), ' ')
		}
		b.Write(append(strconv.AppendQuote(line, d), '\n'))
	}
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

// numbers are the columns before the directory.
func (c *Checkpoint) numbers() []*int64 {
	a := &c.Active
	return []*int64{&c.RecoveryPoint, &c.LogStart, &a.Base, &a.Position, &a.FirstTime, &a.MaxTime, &a.MaxTimeAt, &c.Cut, &c.Resetting}
}

// The numbers of a line, by version.
const (
	columns1 = 2
	columns2 = 7
	columns3 = 9
)

func columnsOf(version string) (columns int, ok bool) {
	switch version {
	case checkpointVersion:
		return columns3, true
	case checkpointVersion2:
		return columns2, true
	case checkpointVersion1:
		return columns1, true
	}
	return 0, false
}

// parseLine reads a line that has so many numbers before the directory.
func parseLine(line string, columns int) (dir string, c Checkpoint, err error) {
	for _, n := range c.numbers()[:columns] {
		text, rest, ok := strings.Cut(line, " ")
		if !ok {
			return "", c, errCheckpoint
		}
		if *n, err = strconv.ParseInt(text, 10, 64); err != nil {
			return "", c, err
		}
		line = rest
	}
	dir, err = strconv.Unquote(line)
	if err == nil && (c.RecoveryPoint < 0 || c.LogStart < 0 || c.Active.Base < 0 || c.Active.Position < 0 || c.Cut < 0 || c.Resetting>>1 != 0) {
		err = errCheckpoint
	}
	return dir, c, err
}

var errCheckpoint = errors.New("invalid recovery points")

func decodeCheckpoint(data []byte) (map[string]Checkpoint, error) {
	at := bytes.LastIndex(data, []byte("crc32c "))
	if at < 0 {
		return nil, fmt.Errorf("%w: no checksum", errCheckpoint)
	}
	if want := fmt.Sprintf("crc32c %08x\n", crc32.Checksum(data[:at], castagnoli)); string(data[at:]) != want {
		return nil, fmt.Errorf("%w: checksum line %q, want %q", errCheckpoint, data[at:], want)
	}
	lines := bufio.NewScanner(bytes.NewReader(data[:at]))
	lines.Buffer(nil, 1<<20)
	lines.Scan()
	columns, ok := columnsOf(lines.Text())
	if !ok {
		return nil, fmt.Errorf("%w: first line %q, want %q", errCheckpoint, lines.Text(), checkpointVersion)
	}
	lines.Scan()
	count, err := strconv.Atoi(lines.Text())
	if err != nil || count < 0 {
		return nil, fmt.Errorf("%w: count %q", errCheckpoint, lines.Text())
	}
	m := make(map[string]Checkpoint)
	for lines.Scan() {
		dir, c, err := parseLine(lines.Text(), columns)
		if err != nil {
			return nil, fmt.Errorf("%w: line %q: %w", errCheckpoint, lines.Text(), err)
		}
		m[dir] = c
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errCheckpoint, err)
	}
	if len(m) != count {
		return nil, fmt.Errorf("%w: %d logs, %d announced", errCheckpoint, len(m), count)
	}
	return m, nil
}

// checkpoint writes the present state, and then tells the WAL what it may release.
func (s *Store) checkpoint() error {
	s.points.lock()
	defer s.points.unlock()
	return s.writeCheckpoint()
}

// checkpointThen writes a checkpoint in the background and runs after when it is durable; if it fails after is
// dropped.
func (s *Store) checkpointThen(after func()) {
	s.checkpointDone(func(err error) {
		if err == nil {
			after()
		}
	})
}

// checkpointDone writes a checkpoint of at least the present state in the background and runs done when it is durable, or
// with why it is not. Calls that come while an earlier one waits for its turn share its checkpoint.
func (s *Store) checkpointDone(done func(error)) {
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	s.points.mu.after = append(s.points.mu.after, done)
	if s.points.mu.queued {
		return
	}
	s.points.mu.queued = true
	s.background(func() {
		s.points.lock()
		s.points.mu.Lock()
		todo := s.points.mu.after
		s.points.mu.after, s.points.mu.queued = nil, false
		s.points.mu.Unlock()
		err := s.writeCheckpoint()
		s.points.unlock()
		for _, fn := range todo {
			fn(err)
		}
	})
}

// writeCheckpoint does it; the caller holds the token.
func (s *Store) writeCheckpoint() error {
	f := s.flusher
	f.mu.Lock()
	since := f.mu.since
	f.mu.since = 0
	f.mu.Unlock()
	// The bound is taken first: what is flushed after it only makes the points higher.
	lsn, any := f.oldest()
	if err := s.fs.MkdirAll(s.opt.Dir); err != nil {
		return err
	}
	points, saved := s.checkpoints()
	data := encodeCheckpoint(points)
	f.mu.Lock()
	f.mu.cpBytes = int64(len(data))
	f.mu.Unlock()
	if err := s.writeFile(path.Join(s.opt.Dir, checkpointFile), data); err != nil {
		f.mu.Lock()
		f.mu.since += since
		f.mu.Unlock()
		err = fmt.Errorf("recovery points: %w", err)
		s.log.Warn("writing the recovery points failed", "error", err)
		if isNoSpace(err) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		s.opt.OnError("", err)
		return err
	}
	s.metrics.Checkpoints.Inc()
	noteSaved(saved)
	s.opt.OnFlushed(lsn, any)
	return nil
}

// savedPoint is what a checkpoint says of an open log, for when it has become durable.
type savedPoint struct {
	log   *Log
	start int64
	cuts  uint64
	done  uint64
}

// noteSaved notes what a checkpoint that has become durable says of the open logs.
func noteSaved(points []savedPoint) {
	for _, p := range points {
		l := p.log
		l.mu.Lock()
		l.mu.cutsSaved, l.mu.cutSaved = max(l.mu.cutsSaved, p.cuts), max(l.mu.cutSaved, p.done)
		if l.mu.cuts == p.cuts { // a truncation may have taken the start back meanwhile
			l.mu.saved = max(l.mu.saved, p.start)
		}
		if p.done >= l.mu.resetLSN {
			l.mu.resetLSN = 0
		}
		l.mu.Unlock()
	}
}

func (s *Store) openLogs() []*Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	logs := make([]*Log, 0, len(s.mu.logs))
	for _, l := range s.mu.logs {
		logs = append(logs, l)
	}
	return logs
}

func (s *Store) checkpoints() (map[string]Checkpoint, []savedPoint) {
	logs := s.openLogs()
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	m := make(map[string]Checkpoint, len(logs)+len(s.points.mu.known))
	for d, c := range s.points.mu.known {
		m[d] = c
	}
	saved := make([]savedPoint, 0, len(logs))
	for _, l := range logs {
		l.mu.Lock()
		c := l.pointLocked()
		m[l.dir] = c
		saved = append(saved, savedPoint{log: l, start: c.LogStart, cuts: l.mu.cuts, done: uint64(c.Cut)})
		l.mu.Unlock()
	}
	return m, saved
}

// pointLocked is what a checkpoint says of the log now.
func (l *Log) pointLocked() Checkpoint {
	if l.mu.cut == nil && (!l.mu.dirty.any || l.mu.dirty.lsn > l.mu.cutLSN) {
		l.mu.cutDone = l.mu.cutLSN
	}
	c := Checkpoint{RecoveryPoint: l.flushedLocked(), LogStart: l.mu.start, Active: l.activePointLocked(), Cut: int64(l.mu.cutDone)}
	if w := l.mu.cut; w != nil && w.reset || l.mu.resetting {
		// Any of the files may be gone, or still be there: nothing is said of them.
		c = Checkpoint{LogStart: c.LogStart, Cut: c.Cut, Resetting: 1}
	}
	return c
}

// activePointLocked goes with flushedLocked.
func (l *Log) activePointLocked() ActivePoint {
	g := l.activeLocked()
	for _, x := range l.mu.segs {
		if x.flushed < x.size {
			g = x
			break
		}
	}
	if g.flushed == 0 || !g.summed {
		return ActivePoint{}
	}
	return ActivePoint{Base: g.base, Position: g.flushed, FirstTime: g.sum.firstTime, MaxTime: g.sum.maxTime, MaxTimeAt: g.sum.maxTimeAt}
}

// openWalkMax: up to so many bytes below the recovery point that no index covers are walked through when a log is opened, and indexed.
// Where there are more the checkpoint is taken at its word: ten thousand logs of a mebibyte are ten gibibytes.
const openWalkMax = 64 << 10

// skip takes over what the checkpoint says of the segment g of size bytes, if that is much more than what sum, from its index files, covers.
// The index then has a gap, which costs those who look something up in it a longer walk. What lies in it is not looked at here; readers
// verify what they read.
func (a *ActivePoint) skip(g *segment, size, recoveryPoint int64, sum summary) (summary, bool) {
	if a.Base != g.base || a.Position > size || a.Position-sum.bytes <= openWalkMax || recoveryPoint <= sum.next || a.MaxTimeAt < g.base {
		return sum, false
	}
	return summary{bytes: a.Position, next: recoveryPoint, firstTime: a.FirstTime, maxTime: a.MaxTime, maxTimeAt: a.MaxTimeAt}, true
}
