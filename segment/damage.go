package segment

import "sync"

// damagedMax is how many damaged places are remembered, so that each is told of once.
const damagedMax = 4096

// damagedPlaces are those that were told of. When there are too many all are forgotten, and told of again if they are met again.
type damagedPlaces struct {
	mu struct {
		sync.Mutex
		seen map[damagedPlace]struct{}
	}
}

type damagedPlace struct {
	file     string
	position int64
}

// add reports whether the place is new.
func (d *damagedPlaces) add(file string, position int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := damagedPlace{file, position}
	if _, ok := d.mu.seen[p]; ok {
		return false
	}
	if d.mu.seen == nil || len(d.mu.seen) >= damagedMax {
		d.mu.seen = map[damagedPlace]struct{}{}
	}
	d.mu.seen[p] = struct{}{}
	return true
}
