package config

import (
	"net"
	"strconv"
	"strings"
)

const (
	msPerHour   = int64(60 * 60 * 1000)
	msPerMinute = int64(60 * 1000)
)

var (
	compressionTypes = []string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"}
	timestampTypes   = []string{"CreateTime", "LogAppendTime"}
	cleanupPolicies  = each(true, "delete", "compact")
)

func notEmpty(what string) rule {
	return rule{expect: what, ok: func(v any) bool { return strings.TrimSpace(v.(string)) != "" }}
}

func notZero() rule {
	return rule{expect: "-1 or a positive number", ok: func(v any) bool { return v.(int64) != 0 }}
}

func gzipLevel() rule {
	return rule{expect: "-1 or a whole number from 1 to 9", ok: func(v any) bool {
		n := v.(int64)
		return n == -1 || n >= 1 && n <= 9
	}}
}

func share() rule {
	return rule{expect: "a number above 0 and below 1", ok: func(v any) bool { return v.(float64) > 0 && v.(float64) < 1 }}
}

func positive() rule {
	return rule{expect: "a number above 0", ok: func(v any) bool { return v.(float64) > 0 }}
}

func zeroOrAtLeast(n int64) rule {
	return rule{expect: "0 or at least " + i64(n), ok: func(v any) bool { return v.(int64) == 0 || v.(int64) >= n }}
}

const hostPort = "host:port, such as 127.0.0.1:9092 or [::1]:9092"

func address() rule {
	return rule{expect: hostPort, ok: func(v any) bool {
		_, _, err := splitAddress(v.(string))
		return err == nil
	}}
}

func addressOrNone() rule {
	a := address()
	return rule{expect: "empty, or " + a.expect, ok: func(v any) bool { return v.(string) == "" || a.ok(v) }}
}

// peerAddress: what others connect to, so neither a wildcard nor a port that only the system knows.
func peerAddress() rule {
	return rule{
		expect: "empty, or host:port that the other nodes can reach, such as 10.0.0.1:9192 (no wildcard, no port 0)",
		ok: func(v any) bool {
			host, port, err := splitAddress(v.(string))
			return v.(string) == "" || err == nil && port > 0 && !wildcard(host)
		},
	}
}

// splitAddress takes host:port apart. The host may be empty (all interfaces).
func splitAddress(s string) (host string, port int32, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, err
	}
	return host, int32(n), nil
}

// wildcard tells a host that means "all interfaces" and so cannot be connected to.
func wildcard(host string) bool {
	if host == "" {
		return true
	}
	host, _, _ = strings.Cut(host, "%") // the zone of an IPv6 address
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}
