package wal

// EntryBytesMax is the largest head and body, together, that Append takes: an entry with its frame must fit one file.
func (w *WAL) EntryBytesMax() int { return w.queue.entryMax - frameBytes }
