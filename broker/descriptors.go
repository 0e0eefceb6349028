package broker

// connectionsMax is how many connections are taken, given max.connections and how many files the process may have open. Half of those are
// for segment files, an eighth for the rest: clients that open more connections than there is room for must not keep the broker
// from opening its own files.
func connectionsMax(configured int, descriptors int) int {
	if descriptors == 0 {
		return configured
	}
	return min(configured, max(descriptors*3/8, 1))
}
