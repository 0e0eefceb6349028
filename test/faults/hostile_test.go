package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

// request makes a frame: size, key, version, correlation id 1, client id "wire", rest.
func request(key, version int16, rest []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(key))
	body = binary.BigEndian.AppendUint16(body, uint16(version))
	body = binary.BigEndian.AppendUint32(body, 1)
	body = binary.BigEndian.AppendUint16(body, 4)
	body = append(append(body, "wire"...), rest...)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

const hugeCount = "\x7f\xff\xff\xff"

// hostileFrames close the connection, in Kafka as in Weir, and cost one log line.
var hostileFrames = []struct {
	name string
	send []byte
}{
	{"length 2^31-1", []byte("\x7f\xff\xff\xff and what follows")},
	{"length just above the limit", binary.BigEndian.AppendUint32(nil, 100<<20+1)},
	{"negative length", []byte("\xff\xff\xff\xff1234")},
	{"most negative length", []byte("\x80\x00\x00\x001234")},
	{"HTTP", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
	{"header cut short", []byte("\x00\x00\x00\x03\x00\x03\x00")},
	{"empty frame", []byte("\x00\x00\x00\x00")},
	{"client id longer than the frame", []byte("\x00\x00\x00\x0b\x00\x03\x00\x01\x00\x00\x00\x01\x7f\xffx")},
	{"metadata request cut short", request(int16(kmsg.Metadata), 1, []byte("\x00\x00\x00\x01\x00\x09hos"))},
	{"metadata with 2^31-1 topics", request(int16(kmsg.Metadata), 1, []byte(hugeCount))},
	{"produce request cut short", request(int16(kmsg.Produce), 3, []byte("\xff\xff\xff\xff\x00\x00\x10\x00\x00\x00\x00\x01\x00\x02ab\x00\x00\x00\x01"))},
	{"produce with 2^31-1 topics", request(int16(kmsg.Produce), 3, []byte("\xff\xff\xff\xff\x00\x00\x10\x00"+hugeCount))},
	{"fetch with 2^31-1 topics", request(int16(kmsg.Fetch), 4, []byte("\xff\xff\xff\xff\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x10\x00\x00"+hugeCount))},
	{"unknown api key", request(9999, 0, nil)},
	{"negative api key", request(-5, 0, nil)},
	{"unknown version of metadata", request(int16(kmsg.Metadata), 99, []byte(hugeCount))},
	{"unknown version of produce", request(int16(kmsg.Produce), 99, nil)},
	{"negative version", request(int16(kmsg.Metadata), -1, nil)},
}

func TestHostileFrames(t *testing.T) {
	broker := weirproc.Start(t, weirproc.Options{})
	admin := newAdmin(t, broker.Addr)
	createTopics(t, admin, 1, "hostile")
	for i := range 10 {
		if code, _, err := wire.Dial(t, broker.Addr).ProduceCode("hostile", 0, wire.Batch(fmt.Appendf(nil, "before-%d", i))); code != 0 || err != nil {
			t.Fatalf("produce: code %d, %v", code, err)
		}
	}
	for i, c := range hostileFrames {
		t.Run(c.name, func(t *testing.T) {
			// Lines are limited per peer and cause, so every case comes from a peer of its own.
			conn := wire.DialFrom(t, broker.Addr, fmt.Sprintf("127.0.1.%d", i+1))
			conn.Send(c.send)
			if frame, err := conn.Frame(); !errors.Is(err, io.EOF) {
				t.Fatalf("the connection was not closed: frame %q, %v", frame, err)
			}
			requireOneLine(t, broker, conn)
		})
	}
	t.Run("frame cut short by the client", func(t *testing.T) {
		conn := wire.DialFrom(t, broker.Addr, "127.0.2.1")
		conn.Send([]byte("\x00\x00\x10\x00only this"))
		_ = conn.Close()
		requireLines(t, broker, conn, 0, 1) // a client may go away at any time; at most one line says so
	})
	t.Run("bad checksum", func(t *testing.T) { requireRefused(t, broker, flip(wire.Batch([]byte("x")), 17), kerr.CorruptMessage) })
	t.Run("batch longer than the request", func(t *testing.T) {
		requireRefused(t, broker, flip(wire.Batch([]byte("x")), 9), kerr.InvalidRecord) // length + 2^16
	})
	t.Run("unknown version of ApiVersions", func(t *testing.T) { requireApiVersionsFallback(t, broker) })
	requireTopicIntact(t, broker)
}

func flip(b []byte, at int) []byte {
	b[at] ^= 1
	return b
}

func requireOneLine(t *testing.T, broker *weirproc.Broker, conn *wire.Conn) {
	t.Helper()
	requireLines(t, broker, conn, 1, 1)
}

// requireLines counts the log lines that name the connection's peer address.
func requireLines(t *testing.T, broker *weirproc.Broker, conn *wire.Conn, least, most int) {
	t.Helper()
	if weirproc.Reference() {
		return // it names connections differently
	}
	naming := func() (lines []string) {
		for _, line := range broker.Logs().Since(0) {
			if strings.Contains(line.Text, conn.LocalAddr().String()) {
				lines = append(lines, line.Text)
			}
		}
		return lines
	}
	for deadline := time.Now().Add(2 * time.Second); len(naming()) < least && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for a second line to come
	if lines := naming(); len(lines) < least || len(lines) > most {
		t.Errorf("%d log lines name the peer %v, want %d to %d:\n%s", len(lines), conn.LocalAddr(), least, most, strings.Join(lines, "\n"))
	}
}

// requireRefused sends a batch that must be refused on its own, with the connection kept.
func requireRefused(t *testing.T, broker *weirproc.Broker, batch []byte, want *kerr.Error) {
	t.Helper()
	conn := wire.Dial(t, broker.Addr)
	code, _, err := conn.ProduceCode("hostile", 0, batch)
	if err != nil || code != want.Code {
		t.Fatalf("code %d (%v), %v; want %s", code, kerr.ErrorForCode(code), err, want.Message)
	}
	if code, _, err := conn.ProduceCode("hostile", 0, wire.Batch([]byte("after"))); code != 0 || err != nil {
		t.Fatalf("the next produce on the connection: code %d, %v", code, err)
	}
}

// requireApiVersionsFallback checks what lets a newer client find a version in common (KIP-511).
func requireApiVersionsFallback(t *testing.T, broker *weirproc.Broker) {
	t.Helper()
	conn := wire.Dial(t, broker.Addr)
	conn.Send(request(int16(kmsg.ApiVersions), 99, []byte("\x00\x02a\x02b\x00")))
	frame, err := conn.Frame()
	if err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrApiVersionsResponse() // version 0
	if err := resp.ReadFrom(frame[4:]); err != nil {
		t.Fatalf("the answer is not in version 0: %v", err)
	}
	if resp.ErrorCode != kerr.UnsupportedVersion.Code {
		t.Fatalf("error code %d, want UNSUPPORTED_VERSION", resp.ErrorCode)
	}
	for _, key := range resp.ApiKeys {
		if key.ApiKey == int16(kmsg.ApiVersions) {
			return
		}
	}
	t.Fatalf("the answer names no versions of ApiVersions: %+v", resp.ApiKeys)
}

func requireTopicIntact(t *testing.T, broker *weirproc.Broker) {
	t.Helper()
	end := endOffsets(t, newAdmin(t, broker.Addr), "hostile")[0]
	if end < 10 || end > 12 {
		t.Fatalf("end offset %d, want 10 records before and one after each batch that was refused", end)
	}
	each(t, broker.Addr, "hostile", 0, 0, end, func(r *kgo.Record) error {
		if want := fmt.Sprintf("before-%d", r.Offset); r.Offset < 10 && string(r.Value) != want || r.Offset >= 10 && string(r.Value) != "after" {
			return fmt.Errorf("value %q", r.Value)
		}
		return nil
	})
}

// TestHostileFlood: memory follows what arrives, not what is announced, and the log is not flooded.
func TestHostileFlood(t *testing.T) {
	skipOnReference(t)
	broker := weirproc.Start(t, weirproc.Options{})
	createTopics(t, newAdmin(t, broker.Addr), 1, "hostile")
	before := broker.Usage()
	mark := broker.Logs().Mark()
	for range 100 { // announced within the limit: 100 x 100 MiB that never come
		wire.Dial(t, broker.Addr).Send(append(binary.BigEndian.AppendUint32(nil, 100<<20), make([]byte, 1000)...))
	}
	for i := range 2000 {
		c := hostileFrames[i%len(hostileFrames)]
		conn := wire.Dial(t, broker.Addr)
		conn.Send(c.send)
		if _, err := conn.Frame(); !errors.Is(err, io.EOF) {
			t.Fatalf("%s: the connection was not closed: %v", c.name, err)
		}
		_ = conn.Close()
	}
	after := broker.Usage()
	lines := len(broker.Logs().Since(mark))
	t.Logf("RSS %d KiB before, %d KiB after; %d log lines for 2000 hostile connections", before.RSS>>10, after.RSS>>10, lines)
	if grown := after.RSS - before.RSS; grown > 48<<20 {
		t.Errorf("RSS grew by %d MiB", grown>>20)
	}
	if lines > 2000+10 {
		t.Errorf("%d log lines for 2000 hostile connections", lines)
	}
	if code, _, err := wire.Dial(t, broker.Addr).ProduceCode("hostile", 0, wire.Batch([]byte("x"))); code != 0 || err != nil {
		t.Fatalf("produce afterwards: code %d, %v", code, err)
	}
}
