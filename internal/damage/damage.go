// Package damage is how the storage packages tell an operator what they found wrong in files that nobody uses: one Finding each, with
// where it is, which records are concerned and what to do. The formats' owners make findings; weir log prints them.
package damage

import (
	"fmt"
	"strings"
)

// Severity says what a finding means for the data.
type Severity string

const (
	// Lost: acknowledged data is damaged or missing. The broker does not serve it, or does not start.
	Lost Severity = "LOST"
	// Heals: something that was derived from data is damaged. The broker makes it anew, nothing is lost.
	Heals Severity = "heals"
	// Note: worth knowing, and no damage: what a crash leaves behind, files set aside.
	Note Severity = "note"
)

// Finding is one thing found. Zero fields are unknown or do not apply.
type Finding struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Position int64    `json:"position"`         // in bytes, in File
	Length   int64    `json:"length,omitempty"` // of the damaged bytes
	Log      string   `json:"log,omitempty"`    // partition directory
	Offsets  Range    `json:"offsets,omitzero"` // records concerned
	LSN      uint64   `json:"lsn,omitempty"`
	What     string   `json:"what"`
	Do       string   `json:"do"`
}

// Range is a stretch of offsets, From included, To not. To is Unknown where the end cannot be told.
type Range struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Unknown is the end of a Range that cannot be told.
const Unknown = -1

// Empty reports whether the range holds no offsets.
func (r Range) Empty() bool { return r.To != Unknown && r.To <= r.From }

// String is the range as people write it, both ends included.
func (r Range) String() string {
	switch {
	case r.To == Unknown:
		return fmt.Sprintf("%d and up", r.From)
	case r.Empty():
		return "none"
	case r.To == r.From+1:
		return fmt.Sprint(r.From)
	}
	return fmt.Sprintf("%d to %d", r.From, r.To-1)
}

// String is one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %s", f.Severity, f.File)
	if f.Position > 0 || f.Length > 0 || f.LSN > 0 {
		fmt.Fprintf(&b, " at %d", f.Position)
	}
	if f.Length > 0 {
		fmt.Fprintf(&b, " (%d bytes)", f.Length)
	}
	if f.LSN > 0 {
		fmt.Fprintf(&b, ", LSN %d", f.LSN)
	}
	if !f.Offsets.Empty() {
		fmt.Fprintf(&b, ", offsets %s", f.Offsets)
		if f.Log != "" {
			fmt.Fprintf(&b, " of %s", f.Log)
		}
	}
	fmt.Fprintf(&b, ": %s", f.What)
	if f.Do != "" {
		fmt.Fprintf(&b, "; %s", f.Do)
	}
	return b.String()
}

// Loss is a range of offsets of one partition directory that are in no file any more.
type Loss struct {
	Log     string `json:"log"`
	Offsets Range  `json:"offsets"`
	Why     string `json:"why"`
}

func (l Loss) String() string { return fmt.Sprintf("%s: offsets %s: %s", l.Log, l.Offsets, l.Why) }
