package faultdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attachTries bounds how often another may take the loop device that was just free.
const attachTries = 100

// attach makes a file a loop device, which lives for as long as it is open or mounted: whatever becomes of this process, none is left.
func attach(backing string) (device *os.File, err error) {
	file, err := os.OpenFile(backing, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("file of the disk: %w", err)
	}
	defer file.Close()
	for range attachTries {
		device, err = attachFree(file)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) { // taken by another, or taken and given up
			break
		}
	}
	if err != nil {
		return nil, err
	}
	direct, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device.Name()), "loop", "dio"))
	if err == nil && strings.TrimSpace(string(direct)) != "1" {
		err = errors.New("not in use: a page cache below the file system would hide when it flushes")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("direct I/O of %s: %w", device.Name(), err), device.Close())
	}
	return device, nil
}

// attachFree tries the loop device that is free at this moment.
func attachFree(file *os.File) (*os.File, error) {
	const loopMajor = 7
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("free loop device: %w", err)
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("free loop device: %w", err)
	}
	// The kernel makes as many devices as are asked for, but in a container whose /dev is not the kernel's own only those that
	// were there at its start have files.
	name := "/dev/loop" + strconv.Itoa(number)
	err = unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(number))))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	device, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop device: %w", err)
	}
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: sectorBytes}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], file.Name())
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("attach %s to %s: %w", file.Name(), name, err), device.Close())
	}
	return device, nil
}
