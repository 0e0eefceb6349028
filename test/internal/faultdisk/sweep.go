package faultdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// dirPrefix begins the name of a disk's directory; the number of the test's process follows.
const dirPrefix = "weir-faultdisk-"

// makeDir makes a disk's directory. Whoever holds the lock that comes with it keeps it from being swept.
func makeDir() (dir string, lock *os.File, err error) {
	// Not in t.TempDir: the path of a Unix socket must be short.
	dir, err = os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", nil, fmt.Errorf("directory of the disk: %w", err)
	}
	lock, err = os.Create(filepath.Join(dir, lockName))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	for _, name := range []string{fuseDir, mountDir} {
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, name), 0o755)
		}
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("directory of the disk: %w", err), os.RemoveAll(dir))
	}
	return dir, lock, nil
}

// removeDir removes what is outside of the namespace: the mount points, empty, the lock and the socket. It never deletes
// recursively, for the mount points could have something mounted on them after all.
func removeDir(dir string) error {
	var errs []error
	for _, name := range []string{socketName, fuseDir, mountDir, lockName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

var sweepOnce sync.Once

// sweep removes what test processes that have died left. Mounts and loop devices go with their helper; directories stay.
func sweep(t testing.TB) {
	t.Helper()
	sweepOnce.Do(func() {
		found, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
		if err != nil {
			t.Logf("fault disk: look for leftovers: %v", err)
		}
		for _, dir := range found {
			if !abandoned(dir) {
				continue
			}
			t.Logf("fault disk: %s was left by a test that died", dir)
			if err := removeDir(dir); err != nil {
				t.Logf("fault disk: remove a leftover: %v", err)
			}
		}
	})
}

// abandoned: the process that a directory is named after is gone, and nobody holds the lock. The lock counts too because
// the directory may be shared with processes that have other numbers.
func abandoned(dir string) bool {
	number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
	pid, err := strconv.Atoi(number)
	if err != nil || pid == os.Getpid() || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	lock, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
