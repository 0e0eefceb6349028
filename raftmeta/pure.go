package raftmeta

// EntryBytesMax is how many bytes the commands of one Propose may take.
const EntryBytesMax = entryBytesMax

// EntryBytes is how many bytes commands take in the log.
func EntryBytes(cmds ...Command) int { return len(encodeEntry(cmds)) }

// NewImage returns the metadata of a cluster in which nothing has happened.
func NewImage() *Image { return emptyImage() }

// Apply returns what an image becomes by an entry at a raft index higher than its version, as every node computes it. It is for those who decide
// or simulate: img stays as it was and nothing is committed or published. What Propose fills in must be there.
func Apply(img *Image, index uint64, cmds ...Command) (*Image, *Delta, []Result) {
	b := newBuilder(img)
	b.index = index
	results := make([]Result, len(cmds))
	for i, c := range cmds {
		results[i] = c.apply(b)
	}
	next, d := b.finish()
	return next, d, results
}
