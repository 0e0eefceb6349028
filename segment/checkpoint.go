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
	checkpointVersion = "weir-recovery-points 1"
)

// Checkpoint is what is remembered of a log.
type Checkpoint struct {
	RecoveryPoint int64 // everything below is synced in segment files
	LogStart      int64
}

// checkpointer writes the checkpoint. Its token serializes writers; it is held during I/O, each step of which has a deadline.
type checkpointer struct {
	once  sync.Once
	token chan struct{}
	mu    struct {
		sync.Mutex
		known  map[string]Checkpoint // as last loaded; logs that are not open yet keep their entry
		queued bool                  // a background checkpoint has yet to begin
		after  []func()              // what is to be done when it is durable
	}
}

func (c *checkpointer) lock() {
	c.once.Do(func() { c.token = make(chan struct{}, 1) })
	c.token <- struct{}{}
}

func (c *checkpointer) unlock() { <-c.token }

// LoadCheckpoint reads the checkpoint by log directory; a missing file is an empty map. A damaged one is a *CorruptError; opening logs
// with zero recovery points is safe then (their files are verified), but log starts set by AdvanceLogStart are lost.
func (s *Store) LoadCheckpoint() (map[string]Checkpoint, error) {
	name := path.Join(s.opt.Dir, checkpointFile)
	data, err := s.readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Checkpoint{}, nil
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
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%d\n", checkpointVersion, len(dirs))
	for _, d := range dirs {
		fmt.Fprintf(&b, "%d %d %s\n", m[d].RecoveryPoint, m[d].LogStart, strconv.Quote(d))
	}
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
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
	if !lines.Scan() || lines.Text() != checkpointVersion {
		return nil, fmt.Errorf("%w: first line %q, want %q", errCheckpoint, lines.Text(), checkpointVersion)
	}
	lines.Scan()
	count, err := strconv.Atoi(lines.Text())
	if err != nil || count < 0 {
		return nil, fmt.Errorf("%w: count %q", errCheckpoint, lines.Text())
	}
	m := make(map[string]Checkpoint)
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), " ", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("%w: line %q", errCheckpoint, lines.Text())
		}
		point, err1 := strconv.ParseInt(f[0], 10, 64)
		start, err2 := strconv.ParseInt(f[1], 10, 64)
		dir, err3 := strconv.Unquote(f[2])
		if err := errors.Join(err1, err2, err3); err != nil || point < 0 || start < 0 {
			return nil, fmt.Errorf("%w: line %q", errCheckpoint, lines.Text())
		}
		m[dir] = Checkpoint{RecoveryPoint: point, LogStart: start}
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
// dropped. Calls that come while an earlier one waits for its turn share its checkpoint.
func (s *Store) checkpointThen(after func()) {
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	s.points.mu.after = append(s.points.mu.after, after)
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
			if err == nil {
				fn()
			}
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
	if err := s.writeFile(path.Join(s.opt.Dir, checkpointFile), encodeCheckpoint(s.checkpoints())); err != nil {
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
	s.opt.OnFlushed(lsn, any)
	return nil
}

func (s *Store) checkpoints() map[string]Checkpoint {
	s.mu.Lock()
	logs := make([]*Log, 0, len(s.mu.logs))
	for _, l := range s.mu.logs {
		logs = append(logs, l)
	}
	s.mu.Unlock()
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	m := make(map[string]Checkpoint, len(logs)+len(s.points.mu.known))
	for d, c := range s.points.mu.known {
		m[d] = c
	}
	for _, l := range logs {
		l.mu.Lock()
		m[l.dir] = Checkpoint{RecoveryPoint: l.flushedLocked(), LogStart: l.mu.start}
		l.mu.Unlock()
	}
	return m
}
