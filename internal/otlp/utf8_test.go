package otlp

import (
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestTextIsMadeUTF8: a client id can be any bytes; it does not cost a batch its other traces.
func TestTextIsMadeUTF8(t *testing.T) {
	odd := produce()
	odd.Root.Attrs = []Attr{{"messaging.client.id", "caf\xe9"}}
	body, err := encode(nil, "1.2.3", []*Trace{produce(), odd})
	if err != nil {
		t.Fatal(err)
	}
	data := &tracepb.TracesData{}
	if err := proto.Unmarshal(body, data); err != nil {
		t.Fatal(err)
	}
	spans := data.ResourceSpans[0].ScopeSpans[0].Spans
	if perTrace := 1 + len(odd.Stages); len(spans) != 2*perTrace {
		t.Fatalf("%d spans, want %d", len(spans), 2*perTrace)
	}
	found := false
	for _, s := range spans {
		found = found || text(s.Attributes) == "messaging.client.id=caf\uFFFD"
	}
	if !found {
		t.Errorf("no span says the client id:\n%v", spans)
	}
}
