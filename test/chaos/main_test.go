// Package chaos does to a cluster of real processes, at random and under load, what machines, networks, disks and clocks do to it: kills, pauses,
// restarts; cuts between nodes that are whole, one-way or come and go; disks that stand still, fail, lose power, lie or are full; clocks that jump.
// Afterwards everything that was acknowledged must be there, the same on every replica, and nothing that anybody has read may be gone.
// The seed is printed first; it determines the faults, not the processes' timing.
//
// The tests run in a network namespace of their own, so that what they cut is theirs and gone with them, however they end. Nodes are built with the
// tag clockstep (internal/clock), so that their wall clocks can be set one by one; the machine's is not touched.
package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"weir/test/internal/weirproc"
)

// insideEnv is set for the test's own binary where it runs in the namespace.
const insideEnv = "WEIR_TEST_CHAOS_INSIDE"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "weir-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builtDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// inside runs the calling test again in a new network namespace and reports true there. Where it may not make one, the test is skipped,
// but not in CI.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("loopback device of the namespace: %v: %s", err, out)
		}
		return true
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed")
		}
	}
	if os.Getuid() != 0 {
		missing(t, "a network namespace needs root")
	}
	bin := steppable(t)
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v=true", "-test.count=1", "-test.timeout=0")
	if testing.Short() {
		again.Args = append(again.Args, "-test.short")
	}
	again.Env = append(os.Environ(), insideEnv+"=1", "WEIR_BIN="+bin)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Errorf("in its network namespace: %v", err)
	case err != nil:
		missing(t, fmt.Sprintf("a network namespace cannot be made: %v", err))
	}
	return false
}

// built is the binary of this process's tests, in a directory that TestMain removes.
var built = sync.OnceValues(func() (string, error) { return weirproc.Build(builtDir, "clockstep") })

var builtDir string

// steppable is a weir binary whose wall clock can be set.
func steppable(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("WEIR_BIN")
	if bin == "" {
		var err error
		if bin, err = built(); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := weirproc.HasTag(bin, "clockstep"); !ok {
		t.Fatalf("WEIR_BIN=%s was not built with -tags clockstep (%v): its clock cannot be set", bin, err)
	}
	return bin
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, and CI tests it", why)
	}
	t.Skip("NOT TESTED: " + why)
}

// envInt reads a number from the environment.
func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}
