package config

import "net/url"

// traceKeys are about requests whose time somebody wants to know.
var traceKeys = []brokerKey{
	own("request.slow.log.ms", Long, "1000", "A request that takes this long is logged, with where its time went, and exported as a trace if otel.traces.endpoint is set. The time that a fetch waits for data, or a member of a group for the others, does not count. 0: none is.",
		func(b *Broker) any { return &b.RequestSlowLogMs }, atLeast(0)),
	own("otel.traces.endpoint", String, "", "Where traces are sent: the URL of an OpenTelemetry collector that takes OTLP over HTTP, such as http://127.0.0.1:4318. Without a path it gets /v1/traces. Empty: nowhere.",
		func(b *Broker) any { return &b.OtelTracesEndpoint }, urlOrNone()),
	own("otel.traces.sample.ratio", Double, "0", "The share of requests that are exported as traces although they are not slow, drawn at random.",
		func(b *Broker) any { return &b.OtelTracesSampleRatio }, ratio()),
}

func urlOrNone() rule {
	return rule{expect: "empty, or a URL of scheme http or https with a host and no user, query or fragment, such as http://127.0.0.1:4318", ok: func(v any) bool {
		if v.(string) == "" {
			return true
		}
		u, err := url.Parse(v.(string))
		return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
	}}
}
