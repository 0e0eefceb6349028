package server

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Weir is cmd/weir with its defaults: every acknowledgement is durable.
func Weir(bin string) Spec {
	return Spec{
		Name: "weir", Note: "defaults: durable before every acknowledgement", Stores: true, HTTP: true,
		command: func(dir, addr, http string) ([]string, error) {
			return []string{bin, "serve", "--data-dir", dir, "--kafka-addr", addr, "--http-addr", http}, nil
		},
	}
}

// WeirWith is Weir with other values for some keys.
func WeirWith(bin string, keys map[string]string) Spec {
	spec := Weir(bin)
	spec.Note = "durable before every acknowledgement"
	base := spec.command
	spec.command = func(dir, addr, http string) ([]string, error) {
		argv, err := base(dir, addr, http)
		if err != nil {
			return nil, err
		}
		var text strings.Builder
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			fmt.Fprintf(&text, "%s: %q\n", key, keys[key])
		}
		file := dir + ".yaml"
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			return nil, fmt.Errorf("write the configuration: %w", err)
		}
		return append(argv, "--config", file), nil
	}
	return spec
}

// Null is bench/nullbroker: it acknowledges and stores nothing, so it is the limit of client, network and protocol.
func Null(bin string) Spec {
	return Spec{
		Name: "null", Note: "acknowledges, stores nothing",
		command: func(_, addr, _ string) ([]string, error) { return []string{bin, "-addr", addr}, nil },
	}
}

// KafkaHeap is the heap that Apache Kafka's own start script gives the broker.
const KafkaHeap = "1g"

// Kafka is Apache Kafka from the jars in lib, one KRaft node. With flush it is told to sync every message
// (flush.messages=1); without, its defaults hold, which never sync.
func Kafka(lib string, flush bool) Spec {
	spec := Spec{
		Name: "kafka", Note: "defaults: no fsync; heap " + KafkaHeap, Stores: true,
		command: func(dir, addr, _ string) ([]string, error) { return kafkaCommand(lib, dir, addr, flush) },
	}
	if flush {
		spec.Name, spec.Note = "kafka-flush", "log.flush.interval.messages=1: fsync before acknowledging; heap "+KafkaHeap
	}
	return spec
}

func kafkaCommand(lib, dir, addr string, flush bool) ([]string, error) {
	file := filepath.Join(dir, "server.properties")
	data := filepath.Join(dir, "data")
	// The options that bin/kafka-run-class.sh sets.
	java := []string{"java", "-Xms" + KafkaHeap, "-Xmx" + KafkaHeap, "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(lib, "*")}
	run := append(append([]string{}, java...), "kafka.Kafka", file)
	if _, err := os.Stat(file); err == nil {
		return run, nil // a restart
	}
	controller, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	lines := []string{
		"process.roles=broker,controller", "node.id=1", "log.dirs=" + data,
		"controller.quorum.voters=1@" + controller, "controller.listener.names=CONTROLLER",
		"listeners=PLAINTEXT://" + addr + ",CONTROLLER://" + controller, "advertised.listeners=PLAINTEXT://" + addr,
		"offsets.topic.replication.factor=1", "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
	}
	if flush {
		lines = append(lines, "log.flush.interval.messages=1")
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	format := append(append([]string{}, java[1:]...), "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", file)
	if out, err := exec.Command("java", format...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format the storage: %w\n%s", err, out)
	}
	return run, nil
}

// KafkaJars fetches Apache Kafka and what it needs from Maven Central, once, as the pom in dir says, and returns the
// directory of the jars and the broker's version.
func KafkaJars(dir string) (lib, version string, err error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", "", fmt.Errorf("no Java: %w", err)
	}
	lib = filepath.Join(dir, "target", "lib")
	if jar := kafkaJar(lib); jar == "" {
		mvn, err := exec.LookPath("mvn")
		if err != nil {
			return "", "", fmt.Errorf("no Maven to fetch the jars with: %w", err)
		}
		cmd := exec.Command(mvn, "-q", "-B", "package")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("fetch the jars: %w\n%s", err, out)
		}
	}
	jar := kafkaJar(lib)
	if jar == "" {
		return "", "", fmt.Errorf("no broker jar in %s", lib)
	}
	version = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(jar), "kafka_2.13-"), ".jar")
	return lib, version, nil
}

func kafkaJar(lib string) string {
	jars, _ := filepath.Glob(filepath.Join(lib, "kafka_2.13-*.jar")) // the pattern is well-formed
	if len(jars) == 0 {
		return ""
	}
	return jars[0]
}

// Build compiles a package of the main module into dir and returns the binary.
func Build(root, pkg, dir string) (string, error) {
	bin := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", bin, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}
