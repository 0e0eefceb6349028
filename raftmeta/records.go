package raftmeta

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"weir/wal"
)

// Records of the raft log's wal. The first byte of an entry's head says which; integers are little-endian. See
// docs/format/metadata.md.
const (
	recordLog          = 1 // head: 1, log type u8, index u64, term u64, appended-at unix ns u64, data bytes u32; body: data, extensions
	recordStable       = 2 // head: 2, key bytes u8; body: key, value
	recordDeletePrefix = 3 // head: 3, index u64: entries up to and including it are in a snapshot
	recordDeleteSuffix = 4 // head: 4, index u64: entries from it on never happened

	logHeadBytes    = 30
	deleteHeadBytes = 9
	stableHeadBytes = 2
	stableKeyMax    = 255
)

func logRecord(l *raft.Log) *wal.Entry {
	head := make([]byte, logHeadBytes)
	head[0] = recordLog
	head[1] = byte(l.Type)
	binary.LittleEndian.PutUint64(head[2:], l.Index)
	binary.LittleEndian.PutUint64(head[10:], l.Term)
	if !l.AppendedAt.IsZero() {
		binary.LittleEndian.PutUint64(head[18:], uint64(l.AppendedAt.UnixNano()))
	}
	binary.LittleEndian.PutUint32(head[26:], uint32(len(l.Data)))
	body := l.Data
	if len(l.Extensions) > 0 {
		body = append(append(make([]byte, 0, len(l.Data)+len(l.Extensions)), l.Data...), l.Extensions...)
	}
	return &wal.Entry{Kind: wal.KindInline, Head: head, Body: body}
}

// parseLog copies what it returns.
func parseLog(head, body []byte) (*raft.Log, error) {
	if len(head) != logHeadBytes {
		return nil, fmt.Errorf("log record has a head of %d bytes, want %d", len(head), logHeadBytes)
	}
	n := binary.LittleEndian.Uint32(head[26:])
	if uint64(n) > uint64(len(body)) {
		return nil, fmt.Errorf("log record has %d bytes, its data alone %d", len(body), n)
	}
	l := &raft.Log{
		Type:  raft.LogType(head[1]),
		Index: binary.LittleEndian.Uint64(head[2:]),
		Term:  binary.LittleEndian.Uint64(head[10:]),
	}
	if l.Type > raft.LogConfiguration {
		return nil, fmt.Errorf("log record has type %d, want at most %d", l.Type, raft.LogConfiguration)
	}
	if ns := binary.LittleEndian.Uint64(head[18:]); ns != 0 {
		l.AppendedAt = time.Unix(0, int64(ns))
	}
	body = append([]byte(nil), body...)
	l.Data = body[:n:n]
	if int(n) < len(body) {
		l.Extensions = body[n:]
	}
	return l, nil
}

func stableRecord(key string, val []byte) *wal.Entry {
	body := append(append(make([]byte, 0, len(key)+len(val)), key...), val...)
	return &wal.Entry{Kind: wal.KindInline, Head: []byte{recordStable, byte(len(key))}, Body: body}
}

func parseStable(head, body []byte) (key string, val []byte, err error) {
	if len(head) != stableHeadBytes {
		return "", nil, fmt.Errorf("stable record has a head of %d bytes, want %d", len(head), stableHeadBytes)
	}
	n := int(head[1])
	if n > len(body) {
		return "", nil, fmt.Errorf("stable record has %d bytes, its key alone %d", len(body), n)
	}
	return string(body[:n]), append([]byte(nil), body[n:]...), nil
}

func deleteRecord(record byte, index uint64) *wal.Entry {
	head := make([]byte, deleteHeadBytes)
	head[0] = record
	binary.LittleEndian.PutUint64(head[1:], index)
	return &wal.Entry{Kind: wal.KindInline, Head: head}
}

func parseDelete(head, body []byte) (index uint64, err error) {
	if len(head) != deleteHeadBytes || len(body) != 0 {
		return 0, fmt.Errorf("delete record has %d+%d bytes, want %d", len(head), len(body), deleteHeadBytes)
	}
	return binary.LittleEndian.Uint64(head[1:]), nil
}
