package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// cleanState is how far a log is compacted. It is kept in a side file, because it must outlive the process: without it
// everything would be compacted again, and gaps between batches would count as damage.
type cleanState struct {
	dirty   int64 // first dirty offset: below it each key is there once, but for tombstones
	gaps    int64 // segments that begin below it may have gaps between their batches
	txns    bool  // there may be transactional batches or control batches below dirty
	horizon int64 // when the first of the tombstones and markers left may go, ms since 1970; noHorizon: there are none
}

const (
	cleanerFile    = "cleaner-checkpoint"
	cleanerVersion = "weir-cleaner-checkpoint 1"
	noHorizon      = int64(math.MaxInt64)
)

var errCleanState = errors.New("invalid cleaner checkpoint")

// lostCleanState is what is assumed when the file is damaged: that anything may have been compacted, and nothing is clean.
func lostCleanState() cleanState {
	return cleanState{gaps: math.MaxInt64, txns: true, horizon: noHorizon}
}

const cleanFields = "first-dirty %d\ncompacted %d\ntransactions %t\nhorizon %d\n"

func (c cleanState) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n"+cleanFields, cleanerVersion, c.dirty, c.gaps, c.txns, c.horizon)
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

func decodeCleanState(data []byte) (c cleanState, err error) {
	var sum uint32
	n, err := fmt.Sscanf(string(data), cleanerVersion+"\n"+cleanFields+"crc32c %08x\n", &c.dirty, &c.gaps, &c.txns, &c.horizon, &sum)
	switch {
	case err != nil:
		return cleanState{}, fmt.Errorf("%w: after %d fields: %w", errCleanState, n, err)
	case !bytes.Equal(c.encode(), data):
		return cleanState{}, fmt.Errorf("%w: checksum %08x does not match", errCleanState, sum)
	case c.dirty < 0 || c.gaps < c.dirty:
		return cleanState{}, fmt.Errorf("%w: first dirty offset %d, compacted up to %d", errCleanState, c.dirty, c.gaps)
	}
	return c, nil
}

// loadCleanState reads the state of a log that has the file.
func (l *Log) loadCleanState() (cleanState, error) {
	data, err := l.ReadSide(cleanerFile)
	if err != nil {
		return cleanState{}, err
	}
	c, err := decodeCleanState(data)
	if err != nil {
		l.s.log.Warn("cleaner checkpoint is damaged; the log will be compacted anew", "dir", l.dir, "error", err)
		return lostCleanState(), nil
	}
	return c, nil
}

// saveState makes now durable and then current, unless the log was truncated since the run began.
func (c *compaction) saveState(ctx context.Context, now cleanState) error {
	l := c.l
	if err := l.claimFiles(ctx); err != nil { // a truncation would write another state
		return err
	}
	defer func() {
		l.releaseFiles()
		l.s.trim(l)
	}()
	if err := l.cutSince(c.cuts); err != nil {
		return err
	}
	if err := l.WriteSide(cleanerFile, now.encode()); err != nil {
		return err
	}
	l.mu.Lock()
	l.mu.clean = now
	l.mu.Unlock()
	return nil
}
