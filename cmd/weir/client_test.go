package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// cli runs a command line against a broker and returns the exit code and what was written.
func cli(t *testing.T, addr, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs buffer
	code = run(append(args, "--brokers", addr, "--timeout", "20s"), stdio{strings.NewReader(stdin), &out, &errs}, nil)
	return code, out.String(), errs.String()
}

// ok is cli for a command that must succeed; it returns what was written to stdout.
func ok(t *testing.T, addr, stdin string, args ...string) string {
	t.Helper()
	code, out, errs := cli(t, addr, stdin, args...)
	if code != exitOK {
		t.Fatalf("weir %s: exit %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

func newCluster(t *testing.T) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(2), kfake.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

func TestTopicLifeCycle(t *testing.T) {
	addr := newCluster(t)
	if out := ok(t, addr, "", "topic", "create", "orders", "-p", "3", "-c", "retention.ms=1000"); out != "created orders: 3 partitions\n" {
		t.Errorf("create: %q", out)
	}
	if code, _, errs := cli(t, addr, "", "topic", "create", "orders"); code != exitError || !strings.Contains(errs, "TOPIC_ALREADY_EXISTS") {
		t.Errorf("create again: exit %d, %q", code, errs)
	}
	if out := ok(t, addr, "", "topic", "list"); !strings.Contains(out, "orders  3           1") {
		t.Errorf("list:\n%s", out)
	}
	ok(t, addr, "a\nb\n", "produce", "orders", "-q", "-p", "1")
	out := ok(t, addr, "", "topic", "describe", "orders")
	for _, want := range []string{"topic orders", "PARTITION", "BYTES", "retention.ms", "1000"} {
		if !strings.Contains(out, want) {
			t.Errorf("describe has no %q:\n%s", want, out)
		}
	}
	code, _, errs := cli(t, addr, "", "topic", "delete", "order")
	if code != exitError || !strings.Contains(errs, `did you mean "orders"`) {
		t.Errorf("delete of a mistyped name: exit %d, %q", code, errs)
	}
	if out := ok(t, addr, "", "topic", "delete", "orders"); out != "deleted orders\n" {
		t.Errorf("delete: %q", out)
	}
	if out := ok(t, addr, "", "topic", "list"); strings.Contains(out, "orders") {
		t.Errorf("list after delete:\n%s", out)
	}
}

func TestDeleteRecordsOfTopic(t *testing.T) {
	addr := newCluster(t)
	ok(t, addr, "", "topic", "create", "t", "-p", "2")
	for _, p := range []string{"0", "1"} {
		ok(t, addr, "a\nb\nc\nd\ne\n", "produce", "t", "-q", "-p", p)
	}
	for _, c := range []struct {
		args string
		want string // rows
	}{
		{"t --before 2 -p 0", "0 2"},
		{"t --before -2", "0 3 1 3"},
		{"t --before @0 -p 1", "1 3"}, // all of it is younger
		{"t --before @-1h", "0 3 1 3"},
		{"t --before end -p 1", "1 5"},
		{"t --before @4102444800000", "0 5 1 5"}, // all of it is older
	} {
		out := ok(t, addr, "", append([]string{"topic", "delete-records"}, strings.Fields(c.args)...)...)
		if got := strings.Join(strings.Fields(out), " "); got != "PARTITION START "+c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
	for args, want := range map[string]string{
		"t":                    "before",
		"t --before yesterday": "expected an offset",
		"t --before 6 -p 0":    "OFFSET_OUT_OF_RANGE",
		"t --before 0 -p 7":    "no partition 7",
		"tt --before 0":        "does not exist",
	} {
		if code, _, errs := cli(t, addr, "", append([]string{"topic", "delete-records"}, strings.Fields(args)...)...); code == exitOK || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %q; want %q", args, code, errs, want)
		}
	}
}

func TestProduceAndConsume(t *testing.T) {
	addr := newCluster(t)
	ok(t, addr, "", "topic", "create", "t", "-p", "1")
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		code, _, errs := cli(t, addr, "k1:v1\nno key\n:empty key\n", "produce", "t", "-K", ":", "-H", "from=test", "-z", codec)
		if code != exitOK || !strings.Contains(errs, "produced 3 records") {
			t.Fatalf("%s: exit %d, %s", codec, code, errs)
		}
	}
	out := ok(t, addr, "", "consume", "t", "-e", "-f", `%p %o %k=%v %h{%k:%v}\n`)
	got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(got) != 15 || got[0] != "0 0 k1=v1 from:test" || got[1] != "0 1 =no key from:test" || got[14] != "0 14 =empty key from:test" {
		t.Errorf("got %d lines:\n%s", len(got), out)
	}
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"--from", "12"}, "12 13 14 "},
		{[]string{"--from", "-2"}, "13 14 "},
		{[]string{"--from", "end"}, ""},
		{[]string{"--from", "100"}, ""},
		{[]string{"--from", "beginning", "--count", "2"}, "0 1 "},
		{[]string{"--from", "@-1h", "--count", "1"}, "0 "},
		{[]string{"--from", "@2100-01-01T00:00:00Z"}, ""},
	}
	for _, test := range tests {
		args := append([]string{"consume", "t", "-e", "-f", `%o `}, test.args...)
		if out := ok(t, addr, "", args...); out != test.want {
			t.Errorf("%v: got %q, want %q", test.args, out, test.want)
		}
	}
}

func TestConsumeGroupGoesOnWhereItStopped(t *testing.T) {
	addr := newCluster(t)
	ok(t, addr, "", "topic", "create", "t", "-p", "1")
	ok(t, addr, "a\nb\nc\nd\n", "produce", "t")
	first := ok(t, addr, "", "consume", "t", "-g", "g", "-n", "2")
	second := ok(t, addr, "", "consume", "t", "-g", "g", "-n", "2")
	if first != "a\nb\n" || second != "c\nd\n" {
		t.Errorf("got %q, then %q", first, second)
	}
}

func TestProduceReportsWhatWasLost(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	big := strings.Repeat("x", 3<<20)
	code, _, errs := cli(t, c.ListenAddrs()[0], "small\n"+big+"\n", "produce", "t")
	if code != exitError || !strings.Contains(errs, "MESSAGE_TOO_LARGE") || strings.Contains(errs, "goroutine") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestClientMistakes(t *testing.T) {
	addr := newCluster(t)
	ok(t, addr, "", "topic", "create", "orders", "-p", "2")
	tests := []struct {
		args []string
		says string
	}{
		{[]string{"consume", "order"}, `did you mean "orders"`},
		{[]string{"consume", "orders", "--from", "yesterday"}, "beginning, end, an offset"},
		{[]string{"consume", "orders", "--from", "@noon"}, "@time"},
		{[]string{"consume", "orders", "--format", "%q"}, "--format"},
		{[]string{"consume", "orders", "-p", "7"}, "partitions 0 to 1"},
		{[]string{"consume", "orders", "-g", "g", "-e"}, "group exit-at-end"},
		{[]string{"produce", "orders", "--acks", "two"}, "all, leader or none"},
		{[]string{"produce", "orders", "-z", "rar"}, "zstd"},
		{[]string{"produce", "orders", "-H", "x"}, "name=value"},
		{[]string{"topic", "create", "x", "-c", "retention.ms"}, "key=value"},
		{[]string{"topic", "describe", "x"}, "does not exist"},
		{[]string{"topic", "create"}, "at least 1 arg"},
	}
	for _, test := range tests {
		code, out, errs := cli(t, addr, "", test.args...)
		if code != exitError || !strings.Contains(errs, test.says) || out != "" || !strings.HasPrefix(errs, "weir: ") {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", test.args, code, out, errs)
		}
	}
}

func TestNoBroker(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	var out, errs buffer
	code := run([]string{"topic", "list", "--brokers", addr, "--timeout", "1s"}, stdio{strings.NewReader(""), &out, &errs}, nil)
	if code != exitError || !strings.Contains(errs.String(), addr) || !strings.Contains(errs.String(), "weir serve") {
		t.Errorf("exit %d, %q", code, errs.String())
	}
}

func TestParseFrom(t *testing.T) {
	now := time.UnixMilli(10_000_000)
	tests := []struct {
		in    string
		want  kgo.Offset
		milli int64
	}{
		{"beginning", kgo.NewOffset().AtStart(), -1},
		{"end", kgo.NewOffset().AtEnd(), -1},
		{"0", kgo.NewOffset().At(0), -1},
		{"-5", kgo.NewOffset().AtEnd().Relative(-5), -1},
		{"@123", kgo.NewOffset().AfterMilli(123), 123},
		{"@-1s", kgo.NewOffset().AfterMilli(9_999_000), 9_999_000},
		{"@1970-01-01T00:00:01Z", kgo.NewOffset().AfterMilli(1000), 1000},
	}
	for _, test := range tests {
		got, err := parseFrom(test.in, now)
		if err != nil || fmt.Sprint(got.offset) != fmt.Sprint(test.want) || got.milli != test.milli {
			t.Errorf("%s: got %+v, %v", test.in, got, err)
		}
	}
	for _, in := range []string{"", "@", "x", "@1h", "1.5"} {
		if _, err := parseFrom(in, now); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--help"}, {"serve", "--help"}, {"topic"}, {"produce", "--help"}, {"consume", "--help"}} {
		var out, errs buffer
		if code := run(args, stdio{strings.NewReader(""), &out, &errs}, nil); code != exitOK || out.String() == "" || errs.String() != "" {
			t.Errorf("%v: exit %d, %q", args, code, errs.String())
		}
	}
}

func TestUnknownCommand(t *testing.T) {
	var out, errs buffer
	code := run([]string{"topci", "list"}, stdio{strings.NewReader(""), &out, &errs}, nil)
	if code != exitError || !strings.Contains(errs.String(), `unknown command "topci"`) {
		t.Errorf("exit %d, %q", code, errs.String())
	}
}

// failingWriter is a full disk behind weir consume > file.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestConsumeReportsOutputErrors(t *testing.T) {
	addr := newCluster(t)
	ok(t, addr, "a\n", "produce", "t")
	var errs buffer
	code := run([]string{"consume", "t", "-e", "--brokers", addr}, stdio{strings.NewReader(""), failingWriter{}, &errs}, nil)
	if code != exitError || !strings.Contains(errs.String(), "no space left") {
		t.Errorf("exit %d, %q", code, errs.String())
	}
}
