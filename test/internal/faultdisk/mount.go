package faultdisk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// commandWait bounds a command on the disk. Making or mounting a file system takes well below a second.
const commandWait = 60 * time.Second

// Missing says what a faulty disk with a file system needs and is not here, "" if nothing.
func Missing(kind string) string {
	if os.Getuid() != 0 {
		return "it needs root"
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			return "no " + device
		}
	}
	for _, tool := range []string{"mkfs." + kind, "mount", "umount", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "no " + tool + " is installed"
		}
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err.Error()
	}
	if !slices.Contains(strings.Fields(string(known)), kind) && exec.Command("modprobe", kind).Run() != nil {
		return "the kernel has no " + kind
	}
	return ""
}

// run runs a command in the disk's mount namespace. A command that a stalled disk holds is left behind after commandWait.
func (d *Disk) run(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	namespace := "--mount=/proc/" + strconv.Itoa(d.helper.cmd.Process.Pid) + "/ns/mnt"
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{namespace, "--"}, argv...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// up brings the disk's newest file up as a mounted file system, a new one where fresh is set.
func (d *Disk) up(fresh bool) error {
	loop, err := attach(d.helper.path(filepath.Join(d.dir, fuseDir, backingName(d.power))))
	if err != nil {
		return err
	}
	defer loop.Close() // without a mount the loop device goes with it
	device := loop.Name()
	if fresh {
		argv := []string{"mkfs." + d.options.FS, "-q"}
		if d.options.FS == "ext4" {
			argv = append(argv, "-m", "0") // no room that only root may use: tests run as root, and full is full
		}
		argv = append(argv, d.options.MkfsOpts...)
		if _, err := d.run(append(argv, device)...); err != nil {
			return err
		}
	}
	options := []string{"rw"}
	if d.options.FS == "xfs" {
		options = append(options, "nouuid") // after a power cut the old mount may live as long as a process uses it
	}
	if d.options.MountOpts != "" {
		options = append(options, d.options.MountOpts)
	}
	if _, err := d.run("mount", "-t", d.options.FS, "-o", strings.Join(options, ","), device, filepath.Join(d.dir, mountDir)); err != nil {
		return fmt.Errorf("%w; the kernel said:\n%s", err, kernelSaid(filepath.Base(device)))
	}
	return nil
}

// kernelSaid is the end of what the kernel's log has on a device: why it could not be mounted.
func kernelSaid(device string) string {
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "("+device+")") || strings.Contains(line, device+":") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-12):], "")
}

// down unmounts the file system. Where processes still use it, its files are theirs until they end, at no path any more.
func (d *Disk) down() {
	dir := filepath.Join(d.dir, mountDir)
	if _, err := d.run("umount", dir); err == nil {
		return
	}
	if _, err := d.run("umount", "--lazy", dir); err != nil {
		d.t.Logf("fault disk: %v", err)
	}
}
