package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

func TestMain(m *testing.M) {
	if os.Getenv("WEIR_TEST_LOCALCLUSTER") != "" {
		main()
		return
	}
	code := m.Run()
	weirproc.RemoveBuilt()
	os.Exit(code)
}

func TestLinesArePassedOnWhole(t *testing.T) {
	var out bytes.Buffer
	p := newPrinter(&out)
	var seen []string
	w := p.lines("1 | ", func(s string) { seen = append(seen, s) })
	for _, part := range []string{"rea", "dy x\nsecond", " half\n", strings.Repeat("z", lineMax+1), "\n"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	p.say("node %d", 2)
	want := []string{"ready x", "second half", strings.Repeat("z", lineMax), "z"}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("%d lines seen", len(seen))
	}
	if !strings.HasPrefix(out.String(), "1 | ready x\n1 | second half\n1 | zz") || !strings.HasSuffix(out.String(), "1 | z\n* node 2\n") {
		t.Errorf("%.40q...", out.String())
	}
}

// launch runs this program as its own process, with free ports.
func launch(t *testing.T, more ...string) (cmd *exec.Cmd, lines <-chan string, kafka string) {
	t.Helper()
	bin, err := weirproc.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ports := make([]string, 3)
	for i := range ports {
		_, ports[i], _ = net.SplitHostPort(weirproc.FreeAddrOn(t, "127.0.0.3"))
	}
	args := append([]string{"-bin", bin, "-dir", filepath.Join(t.TempDir(), "c"), "-kafka-port", ports[0], "-peer-port", ports[1], "-http-port", ports[2]}, more...)
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "WEIR_TEST_LOCALCLUSTER=1", "WEIR_WAL_FILE_BYTES=4194304")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 10000)
	go func() {
		defer close(out)
		for s := bufio.NewScanner(r); s.Scan(); {
			out <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = w.Close()
	})
	return cmd, out, "127.0.0.1:" + ports[0]
}

// await waits for a line.
func await(t *testing.T, lines <-chan string, pattern string) []string {
	t.Helper()
	re, limit := regexp.MustCompile(pattern), time.After(time.Minute)
	var seen []string
	for {
		select {
		case line, ok := <-lines:
			seen = append(seen, line)
			if m := re.FindStringSubmatch(line); m != nil {
				return m
			}
			if !ok {
				t.Fatalf("no line like %q in\n%s", pattern, strings.Join(seen, "\n"))
			}
		case <-limit:
			t.Fatalf("no line like %q within a minute in\n%s", pattern, strings.Join(seen, "\n"))
		}
	}
}

func TestClusterInOneCommand(t *testing.T) {
	cmd, lines, kafka := launch(t)
	pids := map[string]int{}
	for range 3 {
		m := await(t, lines, `node (\d): pid (\d+)`)
		pids[m[1]], _ = strconv.Atoi(m[2])
	}
	await(t, lines, `^The cluster is ready: 3 nodes`)
	await(t, lines, `kcat -b `+kafka)
	cl, err := kgo.NewClient(verify.Quick([]string{kafka}, kgo.AllowAutoTopicCreation())...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("hello")}).FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}
	if err := syscall.Kill(pids["2"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, lines, `NODE 2 IS DEAD: signal: killed`)
	await(t, lines, `serve --node-id 2`)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	await(t, lines, `all nodes have stopped`)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, id := range []string{"1", "3"} {
		if err := syscall.Kill(pids[id], 0); err != syscall.ESRCH {
			t.Errorf("node %s still runs: %v", id, err)
		}
	}
}

// TestCannotStart: a node that cannot start ends the others, and the reason is on the screen.
func TestCannotStart(t *testing.T) {
	cmd, lines, _ := launch(t, "--", "--config", "/does/not/exist.yaml")
	await(t, lines, `/does/not/exist.yaml`)
	await(t, lines, `localcluster: node \d could not start`)
	if err := cmd.Wait(); err == nil {
		t.Error("it ended with 0")
	}
}
