package tuning

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	wantFiles   = 16384   // connections and segment files of a small node
	wantMemlock = 8 << 20 // the queues of a few rings
)

// Limits raises the soft limits of open files and locked memory to the hard ones and reports them.
func Limits() []Finding {
	return []Finding{
		raise("open files", unix.RLIMIT_NOFILE, wantFiles, func(n uint64) string { return fmt.Sprint(n) },
			"raise it (LimitNOFILE= of the systemd unit, ulimit -n): every connection and every open segment needs one"),
		raise("locked memory", unix.RLIMIT_MEMLOCK, wantMemlock, bytes,
			"raise it (LimitMEMLOCK= of the systemd unit, ulimit -l): kernels before 5.12 count io_uring's queues against it"),
	}
}

func raise(subject string, resource int, want uint64, render func(uint64) string, advice string) Finding {
	f := Finding{Subject: subject}
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err != nil {
		f.Text = "limit unknown: " + err.Error()
		return f
	}
	was := l.Cur
	if l.Cur < l.Max {
		higher := unix.Rlimit{Cur: l.Max, Max: l.Max}
		if err := unix.Setrlimit(resource, &higher); err == nil {
			l = higher
		}
	}
	f.Text = limitText(was, l.Cur, render)
	if l.Cur < want {
		f.Advice = advice
	}
	return f
}

func limitText(was, now uint64, render func(uint64) string) string {
	one := func(n uint64) string {
		if n == unix.RLIM_INFINITY {
			return "unlimited"
		}
		return render(n)
	}
	if was == now {
		return "limit " + one(now)
	}
	return fmt.Sprintf("limit raised from %s to %s", one(was), one(now))
}
