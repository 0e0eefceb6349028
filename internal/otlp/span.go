package otlp

import (
	"strings"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Trace is what one node did for one request: its span, and those below it, one after the other. It is built when all is over.
type Trace struct {
	ID     [16]byte
	Parent [8]byte // the span on another node that caused it; all zeroes: none
	Root   Span
	Stages []Span
}

// Span is a part of a request's time.
type Span struct {
	ID         [8]byte
	Name       string
	Start, End time.Time
	Attrs      []Attr
	Error      string // not "": it failed, and why
}

// Attr is an attribute; Value is a string, an int64, a float64 or a bool.
type Attr struct {
	Key   string
	Value any
}

// Resource is who exports.
type Resource []Attr

// scopeName says which code made the spans.
const scopeName = "weir/broker"

// encode makes the body of one export. It is the message TracesData, which on the wire is the same as the collector's ExportTraceServiceRequest:
// that one's Go type comes with gRPC.
func encode(r Resource, version string, traces []*Trace) ([]byte, error) {
	var spans []*tracepb.Span
	for _, t := range traces {
		root := t.span(&t.Root, tracepb.Span_SPAN_KIND_SERVER)
		if t.Parent != [8]byte{} {
			root.ParentSpanId = t.Parent[:]
		}
		spans = append(spans, root)
		for i := range t.Stages {
			s := t.span(&t.Stages[i], tracepb.Span_SPAN_KIND_INTERNAL)
			s.ParentSpanId = t.Root.ID[:]
			spans = append(spans, s)
		}
	}
	return proto.Marshal(&tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   &resourcepb.Resource{Attributes: attributes(r)},
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: scopeName, Version: version}, Spans: spans}},
	}}})
}

func (t *Trace) span(s *Span, kind tracepb.Span_SpanKind) *tracepb.Span {
	out := &tracepb.Span{
		TraceId: t.ID[:], SpanId: s.ID[:], Name: s.Name, Kind: kind,
		StartTimeUnixNano: uint64(s.Start.UnixNano()), EndTimeUnixNano: uint64(s.End.UnixNano()),
		Attributes: attributes(s.Attrs),
	}
	if s.Error != "" {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: s.Error}
	}
	return out
}

func attributes(attrs []Attr) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, len(attrs))
	for i, a := range attrs {
		v := &commonpb.AnyValue{}
		switch x := a.Value.(type) {
		case string:
			v.Value = &commonpb.AnyValue_StringValue{StringValue: strings.ToValidUTF8(x, "\uFFFD")} // a client id can be anything
		case int64:
			v.Value = &commonpb.AnyValue_IntValue{IntValue: x}
		case float64:
			v.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: x}
		case bool:
			v.Value = &commonpb.AnyValue_BoolValue{BoolValue: x}
		default:
			panic("BUG: otlp: attribute " + a.Key + " has a type that is none of the four")
		}
		out[i] = &commonpb.KeyValue{Key: a.Key, Value: v}
	}
	return out
}
