//go:build !race

package record

// roundsMax bounds the random tests.
const roundsMax = 4000
