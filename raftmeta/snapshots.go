package raftmeta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
)

// snapshots is raft's SnapshotStore: one file per snapshot, written whole to a temporary name, synced, and renamed. The newest
// two are kept. See docs/format/metadata.md for the bytes.
type snapshots struct {
	disk    *disk
	dir     string
	clk     clock.Clock
	log     *slog.Logger
	metrics *Metrics
	last    atomic.Pointer[raft.SnapshotMeta] // the newest one; nil: none, or not looked yet
}

const (
	snapshotSuffix  = ".snapshot"
	snapshotVersion = 1
	snapshotsKept   = 2

	snapshotFixedBytes = 8 + 4 + 4 // magic, version, CRC
)

var (
	snapshotMagic = [8]byte{'W', 'E', 'I', 'R', 'S', 'N', 'A', 'P'}
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

// openSnapshots makes the directory and removes what an interrupted write left.
func openSnapshots(d *disk, dir string, clk clock.Clock, log *slog.Logger, m *Metrics) (*snapshots, error) {
	s := &snapshots{disk: d, dir: dir, clk: clk, log: log, metrics: m}
	if err := d.makeDir(dir); err != nil {
		return nil, err
	}
	entries, err := d.fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := d.remove(path.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// snapshotID sorts as term and index do.
func snapshotID(term, index uint64) string { return fmt.Sprintf("%020d-%020d", term, index) }

func (s *snapshots) file(id string) string { return path.Join(s.dir, id+snapshotSuffix) }

// anchor is the place of the newest snapshot's last entry, 0 if there is none.
func (s *snapshots) anchor() (index, term uint64) {
	if s == nil {
		return 0, 0
	}
	if m := s.last.Load(); m != nil {
		return m.Index, m.Term
	}
	return 0, 0
}

// advance notes a snapshot that is on disk, unless there is a newer one.
func (s *snapshots) advance(meta *raft.SnapshotMeta) {
	for {
		old := s.last.Load()
		if old != nil && old.Index >= meta.Index || s.last.CompareAndSwap(old, meta) {
			return
		}
	}
}

// sync makes the names of the snapshots durable: one that was read may have been renamed by a write whose last step failed, or never came.
func (s *snapshots) sync() error {
	if s == nil {
		return nil
	}
	if err := s.disk.fs.SyncDir(s.dir); err != nil {
		return fmt.Errorf("sync %s: %w", s.dir, err)
	}
	return nil
}

// ids returns what is there, newest first.
func (s *snapshots) ids() ([]string, error) {
	entries, err := s.disk.fs.List(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", s.dir, err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), snapshotSuffix); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// List returns the newest snapshot only: raft tries them in turn, and an older one does not join up with a log
// that was cut behind the newest. A damaged one is an error; the file named in it can be moved away by an operator if the log still
// reaches back to the one before.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	ids, err := s.ids()
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	meta, _, err := s.load(ids[0])
	if err != nil {
		return nil, err
	}
	s.advance(meta)
	return []*raft.SnapshotMeta{meta}, nil
}

// Open reads and verifies a snapshot.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, data, err := s.load(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, io.NopCloser(bytes.NewReader(data)), nil
}

func (s *snapshots) load(id string) (*raft.SnapshotMeta, []byte, error) {
	b, err := s.disk.read(s.file(id), snapshotBytesMax)
	if err != nil {
		return nil, nil, err
	}
	meta, data, err := decodeSnapshot(b)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", s.file(id), err)
	}
	if want := snapshotID(meta.Term, meta.Index); want != id {
		return nil, nil, fmt.Errorf("snapshot %s: %w: holds %s", s.file(id), ErrCorrupt, want)
	}
	return meta, data, nil
}

// Create begins a snapshot. It is gathered in memory; Close writes it.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta := raft.SnapshotMeta{Version: version, ID: snapshotID(term, index), Index: index, Term: term, Configuration: c, ConfigurationIndex: configIndex}
	sink := &snapshotSink{store: s, meta: meta}
	sink.b = appendSnapshotHead(nil, &meta)
	return sink, nil
}

// reap removes all but the newest snapshots. Failing is no harm but room.
func (s *snapshots) reap() {
	ids, err := s.ids()
	for i := snapshotsKept; err == nil && i < len(ids); i++ {
		err = s.disk.remove(s.file(ids[i]))
	}
	if err != nil {
		s.log.Warn("old metadata snapshots stay behind", "error", err)
	}
}

// snapshotSink gathers one snapshot.
type snapshotSink struct {
	store *snapshots
	meta  raft.SnapshotMeta
	b     []byte // the file's content so far
	ended bool
}

func (k *snapshotSink) ID() string { return k.meta.ID }

func (k *snapshotSink) Write(p []byte) (int, error) {
	if len(k.b)+len(p) > snapshotBytesMax {
		return 0, fmt.Errorf("snapshot %s: %w: more than %d bytes", k.meta.ID, ErrTooLarge, snapshotBytesMax)
	}
	k.b = append(k.b, p...)
	return len(p), nil
}

// Close makes the snapshot durable and visible.
func (k *snapshotSink) Close() error {
	if k.ended {
		return nil
	}
	k.ended = true
	began := k.store.clk.Now()
	finishSnapshot(k.b)
	if err := k.store.disk.write(k.store.file(k.meta.ID), k.b); err != nil {
		k.store.metrics.snapshotFails.Inc()
		return err
	}
	k.store.advance(&k.meta)
	took := k.store.clk.Now().Sub(began)
	k.store.metrics.snapshotSeconds.Observe(took.Seconds())
	k.store.log.Info("metadata snapshot written", "index", k.meta.Index, "term", k.meta.Term, "bytes", len(k.b), "elapsed", took)
	k.store.reap()
	return nil
}

// Cancel drops the snapshot; nothing was written yet.
func (k *snapshotSink) Cancel() error {
	k.ended, k.b = true, nil
	return nil
}

// A snapshot file: magic, version u32, CRC-32C u32 of all that follows, then index, term, configuration index, servers, and
// to the end of the file the image.
func appendSnapshotHead(b []byte, m *raft.SnapshotMeta) []byte {
	b = append(b, snapshotMagic[:]...)
	b = binary.LittleEndian.AppendUint32(b, snapshotVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	e := encoder{b: b}
	e.uint(m.Index)
	e.uint(m.Term)
	e.uint(m.ConfigurationIndex)
	e.uint(uint64(len(m.Configuration.Servers)))
	for _, s := range m.Configuration.Servers {
		e.byte(byte(s.Suffrage))
		e.string(string(s.ID))
		e.string(string(s.Address))
	}
	return e.b
}

func finishSnapshot(b []byte) {
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[snapshotFixedBytes:], castagnoli))
}

// decodeSnapshot verifies a file's content. The data it returns is part of b.
func decodeSnapshot(b []byte) (*raft.SnapshotMeta, []byte, error) {
	if len(b) < snapshotFixedBytes || [8]byte(b[:8]) != snapshotMagic {
		return nil, nil, fmt.Errorf("%w: %d bytes that do not begin as a snapshot", ErrCorrupt, len(b))
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != snapshotVersion {
		return nil, nil, fmt.Errorf("%w: snapshot file has version %d, want %d", ErrVersion, v, snapshotVersion)
	}
	if got, want := crc32.Checksum(b[snapshotFixedBytes:], castagnoli), binary.LittleEndian.Uint32(b[12:]); got != want {
		return nil, nil, fmt.Errorf("%w: CRC is %08x, want %08x", ErrCorrupt, got, want)
	}
	d := &decoder{b: b, off: snapshotFixedBytes}
	m := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: d.uint(), Term: d.uint(), ConfigurationIndex: d.uint()}
	const serverBytesMin = 3
	for range d.count(serverBytesMin) {
		s := raft.Server{Suffrage: raft.ServerSuffrage(d.byte()), ID: raft.ServerID(d.string()), Address: raft.ServerAddress(d.string())}
		if s.Suffrage > raft.Staging {
			d.fail("server has suffrage %d", s.Suffrage)
		}
		if d.err != nil {
			break
		}
		m.Configuration.Servers = append(m.Configuration.Servers, s)
	}
	if d.err != nil {
		return nil, nil, d.err
	}
	m.ID = snapshotID(m.Term, m.Index)
	data := b[d.off:]
	m.Size = int64(len(data))
	return m, data, nil
}
