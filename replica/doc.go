// Package replica owns the partitions of one node: where a record batch gets its offset, becomes durable
// and becomes visible.
//
// # Offsets
//
// One ladder, never out of order:
//
//	log start <= last stable <= high watermark <= durable <= end
//
// End is the offset the next record gets. Durable is what the write-ahead log has confirmed, in order. The high
// watermark is what consumers may see; with a single replica it equals durable. Without transactions the last stable
// offset equals the high watermark.
//
// # The way of an append
//
// Append stamps the offset and puts the bytes into the log's tail and into the WAL's queue, both under the
// partition's lock and both in memory, so the order of offsets is the order of the WAL. The WAL's committer
// then reports groups in order; committed raises durable and the high watermark, wakes readers, and only then tells the
// producers. No lock is held during I/O.
package replica
