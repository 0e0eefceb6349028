package netproto

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// TestFramesBeforeHelloAreSmall: whoever has not said Hello at the listener for nodes gets no memory for a large frame; who has does.
func TestFramesBeforeHelloAreSmall(t *testing.T) {
	frame := func(key, version int16, body []byte) []byte {
		b := make([]byte, requestFrameSize(key, version, "c", body))
		encodeRequest(b, key, version, 5, "c", body)
		return b
	}
	var log lockedBuffer
	s, addr := startTCP(t, Options{Handler: NewPeerHandler(testHandler{handle: echo}, PeerHandlerOptions{NodeID: 2}), Logger: log.logger()})
	large := frame(KeyForward, 0, bytes.Repeat([]byte("x"), helloFrameBytesMax))

	known := dial(t, addr)
	write(t, known, frame(KeyHello, peerProtocol, (&hello{1, 2, ClassRaft, ""}).appendTo(nil)))
	readResponse(t, known)
	write(t, known, large)
	if _, body := readResponse(t, known); len(body) != helloFrameBytesMax {
		t.Errorf("%d bytes came back, want %d", len(body), helloFrameBytesMax)
	}

	stranger := dial(t, addr)
	write(t, stranger, large[:sizeBytes+headerBytesMin]) // its length is enough
	if n, err := io.Copy(io.Discard, stranger); n != 0 || err != nil {
		t.Errorf("%d bytes, %v; want the end", n, err)
	}
	s.ResetAll()
	s.wg.Wait()
	if !strings.Contains(log.String(), "bad frame size") || !strings.Contains(log.String(), "at most 2048 (before Hello)") {
		t.Errorf("the log does not say why:\n%s", log.String())
	}
}
