package netproto

import (
	"fmt"
)

// Hello is the first request on each connection between nodes (KeyHello): who calls whom, for what, and of which cluster. The header's
// version is the version of the protocol between nodes; within one the layout is fixed:
//
//	request:  i32 node | i32 node that is meant | i8 class | i16 length, cluster id
//	response: i8 code | i32 node | i16 length, cluster id | i16 length, message
//
// An empty cluster id means that the node does not know it yet: a cluster is being formed, or the node joins one.

// peerProtocol is the version of the protocol between nodes that this build speaks.
const peerProtocol int16 = 0

const (
	// clusterIDBytesMax bounds a cluster id; Kafka's have 22 characters.
	clusterIDBytesMax = 255
	// helloMessageBytesMax bounds the text of a refusal.
	helloMessageBytesMax = 1024
	// helloFrameBytesMax bounds both frames of Hello.
	helloFrameBytesMax = 2 << 10
)

// helloCode is the verdict on a Hello.
type helloCode int8

const (
	helloWelcome helloCode = iota
	helloWrongProtocol
	helloMalformed
	helloWrongCluster
	helloWrongNode
	helloCodeCount
)

var helloCodeNames = [helloCodeCount]string{"welcome", "another protocol", "malformed", "another cluster", "another node"}

func (c helloCode) String() string {
	if c >= 0 && c < helloCodeCount {
		return helloCodeNames[c]
	}
	return fmt.Sprintf("code %d", int8(c))
}

// hello is the request.
type hello struct {
	node, meant int32
	class       Class
	clusterID   string
}

func (h *hello) appendTo(b []byte) []byte {
	b = appendInt32(b, h.node)
	b = appendInt32(b, h.meant)
	b = append(b, byte(h.class))
	return appendString(b, false, h.clusterID)
}

func parseHello(body []byte) (h hello, err error) {
	d := decoder{buf: body}
	h.node = d.int32("node")
	h.meant = d.int32("node that is meant")
	h.class = Class(d.int8("class"))
	h.clusterID = string(d.text(clusterIDBytesMax, "cluster id"))
	if d.err == nil && (h.node < 0 || h.meant < 0) {
		d.fail("node", "ids %d and %d, none is negative", h.node, h.meant)
	}
	if d.err == nil && h.class >= classCount {
		d.fail("class", "%d, known are 0 to %d", h.class, classCount-1)
	}
	if err := d.finish(); err != nil {
		return hello{}, fmt.Errorf("hello: %w", err)
	}
	return h, nil
}

// helloAnswer is the response.
type helloAnswer struct {
	code      helloCode
	node      int32
	clusterID string
	message   string
}

func (a *helloAnswer) appendTo(b []byte) []byte {
	b = append(b, byte(a.code))
	b = appendInt32(b, a.node)
	b = appendString(b, false, a.clusterID)
	return appendString(b, false, a.message[:min(len(a.message), helloMessageBytesMax)])
}

func parseHelloAnswer(body []byte) (a helloAnswer, err error) {
	d := decoder{buf: body}
	a.code = helloCode(d.int8("code"))
	a.node = d.int32("node")
	a.clusterID = string(d.text(clusterIDBytesMax, "cluster id"))
	a.message = string(d.text(helloMessageBytesMax, "message"))
	if err := d.finish(); err != nil {
		return helloAnswer{}, fmt.Errorf("answer to hello: %w", err)
	}
	return a, nil
}

// text reads a string of at most max bytes.
func (d *decoder) text(max int, what string) []byte {
	b := d.string(false, what)
	if len(b) > max {
		d.fail(what, "%d bytes, at most %d allowed", len(b), max)
		return nil
	}
	return b
}

// sameCluster reports whether two nodes may talk: one that does not know its cluster yet may with any.
func sameCluster(a, b string) bool { return a == "" || b == "" || a == b }

// judge decides about a Hello from the point of view of node self.
func (h *hello) judge(self int32, clusterID string) (code helloCode, message string) {
	switch {
	case !sameCluster(h.clusterID, clusterID):
		return helloWrongCluster, fmt.Sprintf("node %d is of cluster %q, node %d of cluster %q", h.node, h.clusterID, self, clusterID)
	case h.meant != self:
		return helloWrongNode, fmt.Sprintf("node %d wants node %d, and this is node %d", h.node, h.meant, self)
	}
	return helloWelcome, ""
}

// judge decides about the answer, from the point of view of the one who said Hello.
func (a *helloAnswer) judge(meant int32, clusterID string) error {
	switch {
	case a.code != helloWelcome:
		return fmt.Errorf("%w: by node %d: %v: %s", ErrPeerRefused, a.node, a.code, a.message)
	case a.node != meant:
		return fmt.Errorf("%w: by us: node %d is wanted, node %d answers", ErrPeerRefused, meant, a.node)
	case !sameCluster(a.clusterID, clusterID):
		return fmt.Errorf("%w: by us: node %d is of cluster %q, we are of cluster %q", ErrPeerRefused, a.node, a.clusterID, clusterID)
	}
	return nil
}
