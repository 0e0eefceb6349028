package server

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Weir is cmd/weir with its defaults: every acknowledgement is durable.
func Weir(bin string) Spec {
	return Spec{
		Name: "weir", Note: "defaults: durable before every acknowledgement", Stores: true, HTTP: true,
		command: func(n place) ([]string, error) {
			return []string{bin, "serve", "--data-dir", n.dir, "--kafka-addr", n.addr, "--http-addr", n.http}, nil
		},
	}
}

// WeirWith is Weir with other values for some keys.
func WeirWith(bin string, keys map[string]string) Spec {
	spec := Weir(bin)
	spec.Note = "durable before every acknowledgement"
	base := spec.command
	spec.command = func(n place) ([]string, error) {
		argv, err := base(n)
		if err != nil {
			return nil, err
		}
		var text strings.Builder
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			fmt.Fprintf(&text, "%s: %q\n", key, keys[key])
		}
		file := n.dir + ".yaml"
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			return nil, fmt.Errorf("write the configuration: %w", err)
		}
		return append(argv, "--config", file), nil
	}
	return spec
}

// WeirCluster is Weir on n nodes.
func WeirCluster(bin string, n int) Spec {
	spec := Weir(bin)
	spec.Nodes, spec.Note = n, "defaults: durable on every in-sync replica before every acknowledgement"
	spec.command = func(n place) ([]string, error) {
		var seeds []string
		for _, other := range n.all {
			seeds = append(seeds, fmt.Sprintf("%d@%s", other.id, other.peer))
		}
		return []string{bin, "serve", "--node-id", strconv.Itoa(n.id), "--data-dir", n.dir, "--kafka-addr", n.addr, "--http-addr", n.http,
			"--peer-addr", n.peer, "--seed-nodes", strings.Join(seeds, ",")}, nil
	}
	return spec
}

// Null is bench/nullbroker: it acknowledges and stores nothing, so it is the limit of client, network and protocol.
func Null(bin string) Spec {
	return Spec{
		Name: "null", Note: "acknowledges, stores nothing",
		command: func(n place) ([]string, error) { return []string{bin, "-addr", n.addr}, nil },
	}
}

// KafkaHeap is the heap that Apache Kafka's own start script gives the broker.
const KafkaHeap = "1g"

// Kafka is Apache Kafka from the jars in lib, a KRaft node. With flush it is told to sync every message
// (flush.messages=1); without, its defaults hold, which never sync.
func Kafka(lib string, flush bool) Spec {
	spec := Spec{
		Name: "kafka", Note: "defaults: no fsync; heap " + KafkaHeap, Stores: true,
		command: func(n place) ([]string, error) { return kafkaCommand(lib, n, flush) },
	}
	if flush {
		spec.Name, spec.Note = "kafka-flush", "log.flush.interval.messages=1: fsync before acknowledging; heap "+KafkaHeap
	}
	return spec
}

// KafkaCluster is Kafka on n nodes, each broker and controller.
func KafkaCluster(lib string, flush bool, n int) Spec {
	spec := Kafka(lib, flush)
	spec.Nodes = n
	spec.Note += " each"
	return spec
}

// kafkaCommand is one node's: a broker and controller in one.
func kafkaCommand(lib string, n place, flush bool) ([]string, error) {
	file := filepath.Join(n.dir, "server.properties")
	// The options that bin/kafka-run-class.sh sets.
	java := []string{"java", "-Xms" + KafkaHeap, "-Xmx" + KafkaHeap, "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(lib, "*")}
	run := append(append([]string{}, java...), "kafka.Kafka", file)
	if _, err := os.Stat(file); err == nil {
		return run, nil // a restart
	}
	if err := os.WriteFile(file, []byte(kafkaProperties(n, flush)), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	format := append(append([]string{}, java[1:]...), "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", file)
	if out, err := exec.Command("java", format...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format the storage: %w\n%s", err, out)
	}
	return run, nil
}

// kafkaProperties are a node's: where it is, how often things are replicated, and nothing else.
func kafkaProperties(n place, flush bool) string {
	var voters []string
	for _, other := range n.all {
		voters = append(voters, fmt.Sprintf("%d@%s", other.id, other.peer))
	}
	lines := []string{
		"process.roles=broker,controller", fmt.Sprintf("node.id=%d", n.id), "log.dirs=" + filepath.Join(n.dir, "data"),
		"controller.quorum.voters=" + strings.Join(voters, ","), "controller.listener.names=CONTROLLER",
		"listeners=PLAINTEXT://" + n.addr + ",CONTROLLER://" + n.peer, "advertised.listeners=PLAINTEXT://" + n.addr,
	}
	if len(n.all) == 1 {
		lines = append(lines, "offsets.topic.replication.factor=1", "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1")
	} else {
		lines = append(lines, fmt.Sprintf("default.replication.factor=%d", len(n.all)), fmt.Sprintf("min.insync.replicas=%d", MinInSync))
	}
	if flush {
		lines = append(lines, "log.flush.interval.messages=1")
	}
	return strings.Join(lines, "\n") + "\n"
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
