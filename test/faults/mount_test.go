package faults

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// smallDisk is an ext4 file system in an image file, or a tmpfs where there are no loop devices, mounted in a mount
// namespace of its own that a holder process keeps. Nothing of it is visible or left outside.
type smallDisk struct {
	dir    string // mount point, in the namespace
	kind   string
	holder *exec.Cmd
}

func newSmallDisk(t *testing.T, mib int) *smallDisk {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("a full disk needs root for a mount, and CI tests it")
		}
		t.Skip("NOT TESTED: a full disk needs root for a mount")
	}
	base := t.TempDir()
	image, dir := filepath.Join(base, "disk.img"), filepath.Join(base, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	size := strconv.Itoa(mib) + "M"
	script := `
set -e
if truncate -s $SIZE $IMAGE && mkfs.ext4 -q -m 0 -F $IMAGE && mount -o loop $IMAGE $DIR; then echo ext4
else mount -t tmpfs -o size=$SIZE tmpfs $DIR; echo tmpfs; fi
exec sleep infinity`
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	holder.Env = append(os.Environ(), "SIZE="+size, "IMAGE="+image, "DIR="+dir)
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	holder.Stderr = &stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("a mount namespace: %v", err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	kind, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("mount a small disk: %v: %s", err, stderr.String())
	}
	return &smallDisk{dir: dir, kind: strings.TrimSpace(kind), holder: holder}
}

// prefix starts a command within the namespace; the process id stays.
func (d *smallDisk) prefix() []string {
	return []string{"nsenter", "--mount=/proc/" + strconv.Itoa(d.holder.Process.Pid) + "/ns/mnt", "--"}
}

// outside is a path of the disk as this process can open it.
func (d *smallDisk) outside(name string) string {
	return filepath.Join("/proc", strconv.Itoa(d.holder.Process.Pid), "root", d.dir, name)
}

// free is how many bytes the disk has left.
func (d *smallDisk) free(t *testing.T) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.outside(""), &st); err != nil {
		t.Fatalf("free space: %v", err)
	}
	return int64(st.Bavail) * st.Bsize
}

// fill takes all but so many bytes with a file of someone else's and returns what frees them again.
func (d *smallDisk) fill(t *testing.T, leave int64) (release func()) {
	t.Helper()
	name := d.outside("someone-elses-file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for d.free(t) > leave+int64(len(chunk)) {
		if _, err := f.Write(chunk); err != nil {
			break // full is what was wanted
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}
