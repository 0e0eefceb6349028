package weirproc

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// launcher is what differs between Weir and the reference.
type launcher interface {
	command(b *Broker) ([]string, error)
	awaitReady(ctx context.Context, b *Broker) error
	hasHTTP() bool
}

func pickLauncher(tb testing.TB) launcher {
	tb.Helper()
	if Reference() {
		lib := filepath.Join(repoRoot(), "bench", "peers", "kafka", "target", "lib")
		if _, err := os.Stat(lib); err != nil {
			tb.Fatalf("WEIR_TEST_REFERENCE=kafka needs the jars in %s (mvn -q package in its pom's directory): %v", lib, err)
		}
		return reference{lib: lib, dir: tb.TempDir()}
	}
	bin, err := Binary()
	if err != nil {
		tb.Fatal(err)
	}
	return weir{bin: bin, dir: tb.TempDir()}
}

// repoRoot is the directory above the test module.
func repoRoot() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(file))))
}

// Binary is the path of the weir binary, built on the first call unless WEIR_BIN names one.
var Binary = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("WEIR_BIN"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "weir-bin-")
	if err != nil {
		return "", fmt.Errorf("directory for the binary: %w", err)
	}
	return Build(dir)
})

// Build builds the weir binary, with build tags if there are any, into a directory.
func Build(dir string, tags ...string) (string, error) {
	bin := filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", bin, "./cmd/weir")
	build.Dir = repoRoot()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cmd/weir: %w\n%s", err, out)
	}
	return bin, nil
}

// HasTag reports whether a binary was built with a build tag.
func HasTag(bin, tag string) (bool, error) {
	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		return false, fmt.Errorf("how %s was built: %w", bin, err)
	}
	for _, s := range info.Settings {
		if s.Key == "-tags" && slices.Contains(strings.Split(s.Value, ","), tag) {
			return true, nil
		}
	}
	return false, nil
}

// RemoveBuilt deletes the binary that Binary built; for TestMain.
func RemoveBuilt() {
	if os.Getenv("WEIR_BIN") != "" {
		return
	}
	if bin, err := Binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(bin))
	}
}

type weir struct{ bin, dir string }

func (weir) hasHTTP() bool { return true }

func (w weir) command(b *Broker) ([]string, error) {
	argv := []string{w.bin, "serve", "--data-dir", b.DataDir, "--kafka-addr", b.Addr, "--http-addr", b.HTTP}
	if o := b.options; o.Seeds != "" {
		argv = append(argv, "--node-id", strconv.Itoa(int(o.Node)), "--peer-addr", o.Peer, "--seed-nodes", o.Seeds)
	}
	// On a shared machine a flush can take seconds. Giving up on a stalled disk is not what these tests are about, unless they say so.
	config := map[string]string{"log.dir.stall.ms": "20000"}
	maps.Copy(config, b.options.Config)
	file := filepath.Join(w.dir, "weir.yaml")
	var text strings.Builder
	for _, key := range sortedKeys(config) {
		fmt.Fprintf(&text, "%s: %q\n", key, config[key])
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return append(argv, "--config", file), nil
}

func (weir) awaitReady(ctx context.Context, b *Broker) error {
	return b.logs.await(ctx, func(l Line) bool { return l.Stream == "stdout" && strings.HasPrefix(l.Text, "ready") })
}

// reference runs Apache Kafka as one KRaft node with its defaults, apart from what one node and a quick test need.
type reference struct{ lib, dir string }

func (reference) hasHTTP() bool { return false }

func (r reference) command(b *Broker) ([]string, error) {
	file := filepath.Join(r.dir, "server.properties")
	java := []string{
		"java", "-Xms512m", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", r.lib + "/*",
	}
	if _, err := os.Stat(file); err == nil {
		return append(java, "kafka.Kafka", file), nil
	}
	controller := freeAddr()
	props := map[string]string{
		"process.roles": "broker,controller", "node.id": "1", "log.dirs": b.DataDir,
		"controller.quorum.voters": "1@" + controller, "controller.listener.names": "CONTROLLER",
		"listeners":                        "PLAINTEXT://" + b.Addr + ",CONTROLLER://" + controller,
		"advertised.listeners":             "PLAINTEXT://" + b.Addr,
		"offsets.topic.replication.factor": "1", "transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr": "1", "group.initial.rebalance.delay.ms": "0",
	}
	for key, value := range b.options.Config {
		if !strings.HasPrefix(key, "wal.") { // Weir's own
			props[key] = value
		}
	}
	var text strings.Builder
	for _, key := range sortedKeys(props) {
		fmt.Fprintf(&text, "%s=%s\n", key, props[key])
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	format := append(append([]string{}, java[1:]...), "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", file)
	if out, err := exec.Command(java[0], format...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format the reference's storage: %w\n%s", err, out)
	}
	return append(java, "kafka.Kafka", file), nil
}

func (reference) awaitReady(ctx context.Context, b *Broker) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RetryTimeout(time.Second))
	if err != nil {
		return fmt.Errorf("probe client: %w", err)
	}
	defer client.Close()
	for ctx.Err() == nil {
		if conn, err := net.DialTimeout("tcp", b.Addr, time.Second); err == nil {
			_ = conn.Close()
			if client.Ping(ctx) == nil {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("it does not answer")
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
