package house

import (
	"slices"
	"strings"
	"testing"
)

// room is a part of the module and what it may import of the others. Imports point down only.
type room struct {
	prefix string   // package path, or a directory ending in /
	may    []string // prefixes; the room itself is always allowed
	reason string
}

// rooms: the first match counts.
var rooms = []room{
	{"cmd/weir", []string{"console", "broker", "logtool", "uring", "tuning", "internal/"}, "main wires the broker to the console and knows exit codes"},
	{"simulation", []string{"controller", "replica", "raftmeta", "internal/"}, "it drives the pure machines, with no disk, network or clock"},
	{"bench", []string{"internal/"}, "the load generator sees a broker as clients do: over the wire"},
	{"console", []string{"broker", "internal/"}, "HTTP uses the broker's public API"},
	{"broker", []string{"coordinator/", "controller", "replica", "raftmeta", "netproto", "segment", "internal/"}, "a Kafka API reaches the disk through replica; of segment it sees the ranges that a fetch sends"},
	{"logtool", []string{"replica", "raftmeta", "segment", "wal", "uring", "internal/"}, "the operator's tool reads what these write; no broker runs"},
	{"coordinator/", []string{"internal/"}, "coordinators are state machines with storage injected"},
	{"controller", []string{"raftmeta", "internal/"}, "it decides about metadata and knows no Kafka request"},
	{"replica", []string{"segment", "wal", "raftmeta", "uring", "internal/"}, "a partition knows no Kafka request, so not netproto"},
	{"raftmeta", []string{"wal", "uring", "internal/"}, "its log is a wal of its own"},
	{"segment", []string{"uring", "internal/"}, "siblings never import each other: segment, wal, netproto, raftmeta"},
	{"wal", []string{"uring", "internal/"}, "siblings never import each other"},
	{"netproto", []string{"internal/"}, "the wire treats records as opaque bytes"},
	{"uring", []string{"internal/"}, "the ring does I/O and knows nothing of what is written"},
	{"tuning", []string{"internal/vfs"}, "a leaf"},
	{"internal/config", nil, "a leaf: everything may import the configuration"},
	{"internal/", []string{"internal/"}, "leaves"},
}

func (r *room) holds(pkg string) bool { return within(pkg, r.prefix) }

// within: pkg is the package prefix, or below it.
func within(pkg, prefix string) bool {
	return pkg == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(pkg, strings.TrimSuffix(prefix, "/")+"/")
}

func roomOf(pkg string) *room {
	for i := range rooms {
		if rooms[i].holds(pkg) {
			return &rooms[i]
		}
	}
	return nil
}

func TestImportsPointDown(t *testing.T) {
	for _, s := range sources(t) {
		r := roomOf(s.pkg)
		if r == nil {
			t.Errorf("%s: package %s is in no room; add it to the table", s.name, s.pkg)
			continue
		}
		for _, imported := range s.imports() {
			pkg, ours := strings.CutPrefix(imported, module+"/")
			if !ours || r.holds(pkg) {
				continue
			}
			if !slices.ContainsFunc(r.may, func(p string) bool { return within(pkg, p) }) {
				t.Errorf("%s imports %s: %s may import %v (%s)", s.name, imported, r.prefix, r.may, r.reason)
			}
		}
	}
}

// keptTo lists libraries that only some rooms may use, in product code.
var keptTo = []struct {
	library string
	rooms   []string
	reason  string
}{
	{"github.com/hashicorp/raft", []string{"raftmeta"}, "the consensus library can be changed in one place"},
	{"github.com/pawelgaczynski/giouring", []string{"uring"}, "only uring knows io_uring"},
	{"github.com/twmb/franz-go/pkg/kerr", []string{"broker", "cmd/weir", "bench"}, "Kafka error codes appear in the broker only; the others are clients"},
	{"github.com/twmb/franz-go/pkg/kgo", []string{"cmd/weir", "bench"}, "the broker is not a client"},
	{"github.com/twmb/franz-go/pkg/kadm", []string{"cmd/weir", "bench"}, "the broker is not a client"},
	{"github.com/twmb/franz-go/pkg/kmsg", []string{"broker", "netproto", "coordinator/", "cmd/weir", "bench"}, "storage knows no Kafka request"},
	{"github.com/twmb/franz-go/pkg/kfake", nil, "a broker for tests"},
	{"github.com/spf13", []string{"cmd/weir"}, "flags are parsed in main"},
	{"github.com/knadh/koanf", []string{"internal/config"}, "configuration is read in one place"},
	{"net/http", []string{"console", "bench", "internal/otlp"}, "HTTP is served in one place; otlp is a client"},
	{"go.opentelemetry.io", []string{"internal/otlp"}, "traces are encoded in one place"},
	{"google.golang.org/protobuf", []string{"internal/otlp"}, "traces are the only thing in protobuf"},
	{"pgregory.net/rapid", nil, "for tests"},
	{"go.uber.org/goleak", nil, "for tests"},
}

func TestLibrariesStayInTheirRooms(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, imported := range s.imports() {
			for _, k := range keptTo {
				if within(imported, k.library) && !slices.ContainsFunc(k.rooms, func(r string) bool { return within(s.pkg, r) }) {
					t.Errorf("%s imports %s, which is kept to %v: %s", s.name, imported, k.rooms, k.reason)
				}
			}
		}
	}
}

// Every module that the code uses is explained where the decision was made.
func TestLibrariesAreExplained(t *testing.T) {
	const decision = "docs/decisions/0001-libraries.md"
	explained := read(t, decision)
	var modules []string
	for line := range strings.Lines(read(t, "go.mod")) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && strings.Contains(fields[0], ".") && strings.HasPrefix(fields[1], "v") {
			modules = append(modules, fields[0])
		}
	}
	used := map[string]string{}
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			best := ""
			for _, m := range modules {
				if within(imported, m) && len(m) > len(best) {
					best = m
				}
			}
			if best != "" {
				used[best] = s.name
			}
		}
	}
	if len(used) == 0 {
		t.Fatal("no library found in use")
	}
	for m, file := range used {
		if !strings.Contains(explained, "`"+m+"`") {
			t.Errorf("%s (used in %s) is not explained in %s", m, file, decision)
		}
	}
}
