package vfs

import "golang.org/x/sys/unix"

// Descriptors is how many files and sockets the process may have open, as the limit stands now; 0 if the kernel does not say.
func Descriptors() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(l.Cur, 1<<30))
}
