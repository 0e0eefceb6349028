package chaos

import (
	"fmt"
	"os/exec"
	"testing"
)

// network cuts connections between nodes. Packets are dropped where they arrive, so that nobody is told.
type network struct{ t *testing.T }

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t}
	n.heal()
	return n
}

func (n *network) iptables(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("iptables", append([]string{"-w"}, args...)...).CombinedOutput(); err != nil {
		n.t.Fatalf("iptables %v: %v: %s", args, err, out)
	}
}

// oneWay drops what a sends to b. Clients are elsewhere and not concerned.
func (n *network) oneWay(a, b int32) {
	n.t.Helper()
	n.iptables("-A", "INPUT", "-s", host(a), "-d", host(b), "-j", "DROP")
}

// cut separates two nodes.
func (n *network) cut(a, b int32) {
	n.t.Helper()
	n.oneWay(a, b)
	n.oneWay(b, a)
}

// isolate separates a node from all others.
func (n *network) isolate(id int32) {
	n.t.Helper()
	for _, other := range others(id) {
		n.cut(id, other)
	}
}

// heal takes every cut back.
func (n *network) heal() {
	n.t.Helper()
	n.iptables("-F", "INPUT")
}

// host is where weirproc puts a node.
func host(id int32) string { return fmt.Sprintf("127.0.0.%d", 10+id) }

func others(id int32) []int32 { return []int32{id%3 + 1, (id+1)%3 + 1} }
