package config

// Nearest returns the key that key most likely was meant to be, or "" if none is similar. Similar is an edit distance
// (with neighbours swapped counting once) of at most a third of the longer word, or one being the beginning of the other.
func Nearest(key string, keys []string) string {
	best, bestDistance := "", -1
	for _, k := range keys {
		d := distance(key, k)
		limit := max(len(key), len(k)) / 3
		if prefixed := len(key) >= 4 && len(k) > len(key) && k[:len(key)] == key; prefixed {
			d = min(d, limit) // "log.segment" means one of log.segment.*
		}
		if d <= limit && (bestDistance < 0 || d < bestDistance) {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the optimal string alignment distance of a and b in bytes.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
