// Package otlp sends traces to an OpenTelemetry collector: OTLP over HTTP, protobuf. Export never waits for it: traces go into a bounded queue, from which one goroutine
// sends as many as there are in one request, one request at a time. What finds the queue full is dropped, and counted. A collector that cannot be
// reached, or says that it is busy, is tried again after a pause that grows to half a minute, with the same traces; what it refuses is dropped.
//
// Neither OpenTelemetry's SDK nor its exporter is used: a request that is not exported must cost nothing, so spans are made up when all is over, and
// of the SDK's life of a span nothing is left; and the exporter links gRPC (docs/decisions/0017).
package otlp
