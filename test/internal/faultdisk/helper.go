package faultdisk

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// The process that serves a disk is the test's own binary, started again with these variables: a stalled disk can hold
// threads of that process, never of the test's.
const (
	helperDirEnv  = "WEIR_TEST_FAULTDISK_DIR"
	helperSizeEnv = "WEIR_TEST_FAULTDISK_BYTES"
	helperReady   = "serving"
)

// What is in a disk's directory.
const (
	fuseDir    = "fuse" // the FUSE mount
	mountDir   = "disk" // the file system under test
	socketName = "control"
	lockName   = "lock" // held for as long as the directory is in use
)

func init() {
	dir := os.Getenv(helperDirEnv)
	if dir == "" {
		return
	}
	if err := help(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// help serves a disk until its standard input ends: with the test's process, however that ends.
func help(dir string) error {
	size, err := strconv.ParseInt(os.Getenv(helperSizeEnv), 10, 64)
	if err != nil {
		return fmt.Errorf("size of the disk: %w", err)
	}
	if err := startKeeper(); err != nil {
		return err
	}
	m, err := newImage(size)
	if err != nil {
		return err
	}
	d := &disk{image: m}
	d.gate.Store(newGate())
	if _, err := mountFuse(d, filepath.Join(dir, fuseDir)); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	go d.serve(l)
	fmt.Println(helperReady)
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(keeperPipe)
	d.gate.Load().cut()
	return nil
}

// startKeeper starts a process that stays in the mount namespace until this one is gone. Who leaves a namespace last unmounts what is in it
// on its way out, before it has closed its files: this process would wait for a file system that waits for this process's end of the FUSE
// connection, for ever and with no signal reaching it. The keeper sees the end of a pipe that this process holds, and by then the connection
// is closed, so that everything that still waits has failed.
func startKeeper() error {
	end, held, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe to the keeper of the mount namespace: %w", err)
	}
	defer end.Close()
	keeper := exec.Command("cat")
	keeper.Stdin = end
	keeper.Dir = "/"
	if err := keeper.Start(); err != nil {
		return fmt.Errorf("keeper of the mount namespace: %w", err)
	}
	keeperPipe = held
	return nil
}

// keeperPipe is never closed before the process ends.
var keeperPipe *os.File

// cut takes the power away and gives the disk a new file with what is left.
func (d *disk) cut(r request) answer {
	d.gate.Load().cut()
	next := newGate()
	lost := d.image.powerCut(rand.New(rand.NewPCG(r.Seed, 0)), r.Keep)
	d.gate.Store(next)
	return answer{Loss: lost, Power: d.image.power()}
}
