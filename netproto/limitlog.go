package netproto

import (
	"log/slog"

	"weir/internal/clock"
	"weir/internal/faultlog"
)

// limitedLog logs what goes wrong with peers, each cause and peer once in a while.
type limitedLog struct{ faults *faultlog.Log }

func newLimitedLog(log *slog.Logger, clk clock.Clock) *limitedLog {
	return &limitedLog{faultlog.New(log, clk)}
}

// warn logs one line, unless the same cause from the same peer was logged a moment ago.
func (l *limitedLog) warn(cause, peer string, attrs ...slog.Attr) {
	l.at(slog.LevelWarn, cause, peer, attrs...)
}

// at is warn at another level.
func (l *limitedLog) at(level slog.Level, cause, peer string, attrs ...slog.Attr) {
	args := make([]any, 0, len(attrs)+1)
	for _, a := range attrs {
		args = append(args, a)
	}
	l.faults.At(level, cause, peer, append(args, slog.String("peer", peer))...)
}
