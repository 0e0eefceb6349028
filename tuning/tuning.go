// Package tuning fits the process to the machine when it starts: it raises the limits it may raise, sets the garbage
// collector's from the memory budgets, looks at what the disk can do, and says in the log what it found and what
// an operator could improve. It decides nothing about data; a probe that fails is a line of advice, not an error.
package tuning

import (
	"context"
	"fmt"
	"log/slog"
)

// Finding is one line of the start-up report.
type Finding struct {
	Subject string // "open files"
	Text    string // what was found
	Advice  string // what to do about it; "" if nothing
}

// Log writes findings, one line each: those with advice as warnings.
func Log(log *slog.Logger, findings []Finding) {
	for _, f := range findings {
		level, attrs := slog.LevelInfo, []slog.Attr{slog.String("subject", f.Subject), slog.String("found", f.Text)}
		if f.Advice != "" {
			level, attrs = slog.LevelWarn, append(attrs, slog.String("advice", f.Advice))
		}
		log.LogAttrs(context.Background(), level, "tuning", attrs...)
	}
}

// bytes renders a size as people read it.
func bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return fmt.Sprintf("%.4g %ciB", v, units[i])
}
