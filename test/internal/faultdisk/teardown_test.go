package faultdisk

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dieEnv makes TestDies do what its name says, in a process of its own.
const dieEnv = "WEIR_TEST_FAULTDISK_TEST_DIES"

// devicesOf lists the loop devices whose file is in a disk's directory.
func devicesOf(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for _, name := range found {
		if backing, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(backing), dir) {
			devices = append(devices, strings.Split(name, "/")[3])
		}
	}
	return devices
}

// stuck starts a process that the stalled disk holds, where no signal reaches it.
func stuck(t *testing.T, d *Disk) *exec.Cmd {
	t.Helper()
	d.Stall(Write|Flush, 0)
	cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(d.Path(), "file"), "bs=4096", "count=1", "oflag=direct,dsync", "conv=notrunc")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !d.AwaitHeld(Write, 20*time.Second) {
		t.Fatal("the process is not held back")
	}
	return cmd
}

// TestCloseWhileStalled: a disk that holds a process can be removed, and lets the process go.
func TestCloseWhileStalled(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		_ = prewrite(t, d, "file", 4096).Close()
		cmd := stuck(t, d)
		_ = cmd.Process.Kill()
		d.Close()
		_ = cmd.Wait()
		requireGone(t, d.dir)
		if _, err := os.Stat(d.dir); err == nil {
			t.Fatalf("%s is still there", d.dir)
		}
	})
}

// TestDies is a test process that gets killed with a stalled disk. It does nothing unless TestNothingIsLeft starts it.
func TestDies(t *testing.T) {
	if os.Getenv(dieEnv) == "" {
		return
	}
	d := New(t, Options{FS: os.Getenv(dieEnv)})
	_ = prewrite(t, d, "file", 4096).Close()
	cmd := stuck(t, d)
	fmt.Println("stuck", d.dir, d.helper.cmd.Process.Pid, cmd.Process.Pid)
	select {}
}

// TestNothingIsLeft: a test process that is killed while its disk stands still leaves no mount, no loop device and no
// process, and the directory is swept by whoever comes next.
func TestNothingIsLeft(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDies$")
		cmd.Env = append(os.Environ(), dieEnv+"="+d.options.FS)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var dir string
		var helperPid, stuckPid int
		for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
			_, _ = fmt.Sscanf(lines.Text(), "stuck %s %d %d", &dir, &helperPid, &stuckPid)
		}
		if dir == "" || len(devicesOf(t, dir)) == 0 {
			t.Fatalf("the test that is to die has no disk (%q)", dir)
		}
		for _, device := range devicesOf(t, dir) { // also one that is not mounted yet goes with its process
			if auto, err := os.ReadFile("/sys/block/" + device + "/loop/autoclear"); err != nil || string(auto) != "1\n" {
				t.Fatalf("autoclear of %s: %q, %v", device, auto, err)
			}
		}
		if abandoned(dir) {
			t.Fatalf("%s counts as abandoned while its process lives", dir)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		requireGone(t, dir)
		for _, pid := range []int{helperPid, stuckPid} {
			eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !runs(pid) })
		}
		eventually(t, "the directory counts as abandoned", func() bool { return abandoned(dir) })
		if abandoned(d.dir) {
			t.Fatal("the directory of a disk in use counts as abandoned")
		}
		if err := removeDir(dir); err != nil {
			t.Fatal(err)
		}
	})
}

// runs: the process is there and not just waiting for a parent to ask how it ended.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func requireGone(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "loop devices of "+dir+" are free", func() bool { return len(devicesOf(t, dir)) == 0 })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Fatalf("something of %s is mounted:\n%s", dir, mounts)
	}
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !met(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// TestHelperKilled: the process behind a disk can be killed at any moment, and nothing hangs for it.
func TestHelperKilled(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		_ = prewrite(t, d, "file", 4096).Close()
		cmd := stuck(t, d)
		_ = d.helper.cmd.Process.Kill()
		<-d.helper.exited
		_ = cmd.Wait() // its write fails
		requireGone(t, d.dir)
	})
}
