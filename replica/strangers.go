package replica

import (
	"fmt"

	"weir/wal"
)

// stranger notes an entry of a partition that this node does not have: a topic was deleted, or the replica was taken from the node while it was down. It
// may be given that again, and then what the WAL has of it so far must not come back.
func (m *Manager) stranger(h head, lsn wal.LSN) {
	if m.source == nil {
		return // alone: no partition comes back
	}
	if m.strangers == nil {
		m.strangers = map[PartKey]uint64{}
	}
	of := uint64(0)
	if h.op == opReset {
		of = uint64(lsn)
	}
	m.strangers[PartKey{h.id, h.partition}] = of
}

// forgotten is the end in the WAL of a partition that left while the node was down.
type forgotten struct {
	key   PartKey
	entry wal.Entry
	done  chan<- error
}

func (f *forgotten) committed(err error) { f.done <- err }

// forgetStrangers makes the WAL forget them, before the metadata can bring one back.
func (m *Manager) forgetStrangers() error {
	done := make(chan error, len(m.strangers))
	var all []*forgotten
	for k, lsn := range m.strangers {
		if lsn == 0 {
			f := &forgotten{key: k, done: done}
			f.entry = wal.Entry{Kind: wal.KindInline, Head: recordHead(walHead(k.TopicID, k.Index), opReset, 0), Owner: f}
			all = append(all, f)
		}
	}
	expired := make(chan struct{})
	timer := m.clk.AfterFunc(truncationWaits*m.stallTimeout(), func() { close(expired) })
	defer timer.Stop()
	for _, f := range all {
		if err := m.wal.Append(&f.entry); err != nil {
			return err
		}
	}
	for range all {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
		case <-expired:
			return fmt.Errorf("%w: end of %d replicas that have left: the disk does not answer", ErrStorage, len(all))
		}
	}
	for _, f := range all {
		m.strangers[f.key] = uint64(f.entry.LSN)
	}
	return nil
}
