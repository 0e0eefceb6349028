//go:build race

package record

// roundsMax: the race detector makes each hundred times slower.
const roundsMax = 300
