package config

import (
	"errors"
	"flag"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md from the table")

const documentation = "../../docs/configuration.md"

func TestDocumentation(t *testing.T) {
	if *update {
		if err := os.WriteFile(documentation, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(documentation)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != Markdown() {
		t.Error("docs/configuration.md is not what the table says; run: go generate ./internal/config")
	}
}

// Every field is filled by exactly one key, so that no key can be documented and then ignored, nor a field forgotten.
func TestEveryFieldHasOneKey(t *testing.T) {
	var b Broker
	derived := []any{&b.AdvertisedHost, &b.AdvertisedPort}
	var topic Topic
	derivedTopic := []any{&topic.Delete, &topic.Compact}
	pointers := func(v reflect.Value, skip []any) map[any]string {
		m := map[any]string{}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				if p := v.Field(i).Addr().Interface(); !slices.Contains(skip, p) {
					m[p] = f.Name
				}
			}
		}
		return m
	}
	fields := pointers(reflect.ValueOf(&b).Elem(), derived)
	for _, k := range brokerTable {
		if k.field == nil {
			continue
		}
		if fields[k.field(&b)] == "" {
			t.Errorf("%s fills a field that another key fills too", k.Name)
		}
		delete(fields, k.field(&b))
	}
	for _, name := range fields {
		t.Errorf("no key fills Broker.%s", name)
	}
	fields = pointers(reflect.ValueOf(&topic).Elem(), derivedTopic)
	for _, k := range topicTable {
		if k.field == nil {
			continue
		}
		if fields[k.field(&topic)] == "" {
			t.Errorf("%s fills a field that another key fills too", k.Name)
		}
		delete(fields, k.field(&topic))
	}
	for _, name := range fields {
		t.Errorf("no key fills Topic.%s", name)
	}
}

func TestTableIsConsistent(t *testing.T) {
	variables, seen := map[string]string{}, map[string]bool{}
	for _, d := range BrokerDefs() {
		if seen[d.Name] {
			t.Errorf("%s is in the table twice", d.Name)
		}
		seen[d.Name] = true
		if other := variables[EnvName(d.Name)]; other != "" {
			t.Errorf("%s and %s share %s", d.Name, other, EnvName(d.Name))
		}
		variables[EnvName(d.Name)] = d.Name
		if !d.Null {
			if err := d.Validate(d.Default); err != nil {
				t.Errorf("default: %v", err)
			}
		}
		if d.Doc == "" || !strings.HasSuffix(d.Doc, ".") && !strings.HasSuffix(d.Doc, "...") {
			t.Errorf("%s: doc %q is not a sentence", d.Name, d.Doc)
		}
		for _, s := range d.Synonyms {
			if _, ok := BrokerDef(s); !ok {
				t.Errorf("%s: unknown synonym %s", d.Name, s)
			}
		}
		if d.SameAs != "" {
			if _, ok := BrokerDef(d.SameAs); !ok {
				t.Errorf("%s: unknown key %s", d.Name, d.SameAs)
			}
		}
	}
	for _, k := range serveFlags {
		if !seen[k] {
			t.Errorf("flag for unknown key %s", k)
		}
	}
	b := mustLoad(t, nil)
	for _, v := range b.TopicValues(nil) {
		if v.Null {
			continue
		}
		if v.Value != v.Def.Default {
			t.Errorf("%s: default %q, but the broker's default gives %q", v.Def.Name, v.Def.Default, v.Value)
		}
		if err := v.Def.Validate(v.Value); err != nil {
			t.Errorf("topic default: %v", err)
		}
	}
}

// The defaults of Kafka 4, from its configuration reference. Those that differ on purpose are not here.
func TestKafkaDefaults(t *testing.T) {
	want := map[string]string{
		"segment.bytes": "1073741824", "segment.ms": "604800000", "segment.jitter.ms": "0", "segment.index.bytes": "10485760",
		"retention.ms": "604800000", "retention.bytes": "-1", "cleanup.policy": "delete", "compression.type": "producer",
		"max.message.bytes": "1048588", "min.insync.replicas": "1", "message.timestamp.type": "CreateTime",
		"message.timestamp.before.max.ms": "9223372036854775807", "message.timestamp.after.max.ms": "3600000",
		"flush.ms": "9223372036854775807", "index.interval.bytes": "4096", "file.delete.delay.ms": "60000",
		"delete.retention.ms": "86400000", "min.cleanable.dirty.ratio": "0.5", "min.compaction.lag.ms": "0",
		"max.compaction.lag.ms": "9223372036854775807", "preallocate": "false", "unclean.leader.election.enable": "false",
		"compression.gzip.level": "-1", "compression.lz4.level": "9", "compression.zstd.level": "3",
	}
	b := mustLoad(t, nil)
	for _, v := range b.TopicValues(nil) {
		if w, ok := want[v.Def.Name]; ok && v.Value != w {
			t.Errorf("%s: got %s, want %s", v.Def.Name, v.Value, w)
		}
		delete(want, v.Def.Name)
	}
	for name := range want {
		t.Errorf("no topic key %s", name)
	}
}

func TestResolveTopic(t *testing.T) {
	b := mustLoad(t, map[string]string{"log.retention.hours": "2", "message.max.bytes": "5000", "log.message.timestamp.type": "LogAppendTime"})
	topic, err := b.ResolveTopic(map[string]string{"max.message.bytes": "6000", "retention.bytes": "10", "internal.segment.bytes": "4096"})
	if err != nil {
		t.Fatal(err)
	}
	if topic.MaxMessageBytes != 6000 || topic.RetentionBytes != 10 || topic.RetentionMs != 2*msPerHour || !topic.LogAppendTime() ||
		!topic.Delete || topic.Compact || topic.SegmentBytes != 4096 || topic.FlushMessages != 1 {
		t.Errorf("got %+v", topic)
	}
	if topic, err = b.ResolveTopic(map[string]string{"retention.ms": "0"}); err != nil || topic.RetentionMs != 0 {
		t.Errorf("retention.ms 0: %v", err)
	}
	topic, err = b.ResolveTopic(map[string]string{"cleanup.policy": "compact, delete"})
	if err != nil || !topic.Compact || !topic.Delete {
		t.Errorf("both policies: %+v, %v", topic, err)
	}
	if topic, err = b.ResolveTopic(map[string]string{"cleanup.policy": "compact"}); err != nil || !topic.Compact || topic.Delete {
		t.Errorf("compact only: %+v, %v", topic, err)
	}
	tests := []struct {
		key, value string
		is         error
		says       string
	}{
		{"retention.msec", "1", ErrUnknownKey, `"retention.ms"`},
		{"segment.bytes", "12", ErrBadValue, "segment.bytes"},
		{"cleanup.policy", "", ErrBadValue, "cleanup.policy"},
		{"min.cleanable.dirty.ratio", "1.5", ErrBadValue, "from 0 to 1"},
		{"cleanup.policy", "shred", ErrBadValue, "compact"},
		{"flush.messages", "100", ErrUnsupported, "flush.messages"},
		{"compression.type", "gzip", ErrUnsupported, "compression.type"},
		{"remote.storage.enable", "true", ErrUnsupported, "remote storage"},
		{"min.compaction.lag.ms", "9223372036854775807", nil, ""},
		{"message.timestamp.type", "Now", ErrBadValue, "LogAppendTime"},
	}
	for _, test := range tests {
		_, err := b.ResolveTopic(map[string]string{test.key: test.value})
		if !errors.Is(err, test.is) || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s=%s: got %v, want %v naming %s", test.key, test.value, err, test.is, test.says)
		}
	}
	if _, err := b.ResolveTopic(map[string]string{"min.compaction.lag.ms": "2", "max.compaction.lag.ms": "1"}); !errors.Is(err, ErrBadValue) {
		t.Errorf("lag: %v", err)
	}
}

func find(values []Value, name string) Value {
	i := slices.IndexFunc(values, func(v Value) bool { return v.Def.Name == name })
	return values[i]
}

func TestValuesForDescribe(t *testing.T) {
	b := mustLoad(t, map[string]string{"log.retention.hours": "2", "node.id": "5"})
	values := b.Values()
	if v := find(values, "node.id"); v.Value != "5" || v.Source != SourceStaticBroker || len(v.Synonyms) != 2 {
		t.Errorf("node.id: %+v", v)
	}
	if v := find(values, "broker.id"); v.Value != "5" || v.Source != SourceStaticBroker {
		t.Errorf("broker.id: %+v", v)
	}
	if v := find(values, "listeners"); v.Value != "PLAINTEXT://127.0.0.1:9092" || v.Source != SourceDefault {
		t.Errorf("listeners: %+v", v)
	}
	if v := find(values, "log.retention.ms"); v.Value != "7200000" || v.Source != SourceStaticBroker {
		t.Errorf("log.retention.ms: %+v", v)
	}
	if v := find(values, "broker.rack"); !v.Null || v.Source != SourceDefault {
		t.Errorf("broker.rack: %+v", v)
	}
	topic := b.TopicValues(map[string]string{"retention.ms": "9"})
	if v := find(topic, "retention.ms"); v.Value != "9" || v.Source != SourceTopic || v.Synonyms[0].Name != "retention.ms" || v.Synonyms[1].Name != "log.retention.hours" {
		t.Errorf("retention.ms: %+v", v)
	}
	if v := find(b.TopicValues(nil), "retention.ms"); v.Value != "7200000" || v.Source != SourceStaticBroker {
		t.Errorf("retention.ms without override: %+v", v)
	}
}

func TestMillis(t *testing.T) {
	for ms, want := range map[int64]time.Duration{
		0: 0, -1: -time.Millisecond, 1500: 1500 * time.Millisecond, math.MaxInt64: math.MaxInt64, math.MinInt64: math.MinInt64,
	} {
		if got := Millis(ms); got != want {
			t.Errorf("Millis(%d) = %d, want %d", ms, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"log.segment.bytes", "log.segment.delete.delay.ms", "node.id", "log.dirs"}
	for key, want := range map[string]string{
		"log.segmnet.bytes": "log.segment.bytes", "node.di": "node.id", "log.segment": "log.segment.bytes", "node_id": "node.id", "xyz": "", "": "",
	} {
		if got := Nearest(key, keys); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", key, got, want)
		}
	}
}

// Whatever somebody writes, the answer is a configuration or an error that names the key; never a panic.
func FuzzLoadBroker(f *testing.F) {
	for _, d := range BrokerDefs() {
		f.Add(d.Name, d.Default)
	}
	f.Add("advertised.listeners", "PLAINTEXT://[::]:9092")
	f.Add("seed-nodes", "1@a:1,@")
	f.Fuzz(func(t *testing.T, key, value string) {
		b, err := LoadBroker(map[string]string{key: value})
		if err != nil {
			if !errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrBadValue) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		if _, err := b.ResolveTopic(nil); err != nil {
			t.Errorf("%s=%q: topic: %v", key, value, err)
		}
		b.Values()
		b.TopicValues(nil)
	})
}

func FuzzResolveTopic(f *testing.F) {
	for _, d := range TopicDefs() {
		f.Add(d.Name, d.Default)
	}
	b, err := LoadBroker(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		o := map[string]string{key: value}
		if _, err := b.ResolveTopic(o); err == nil {
			b.TopicValues(o)
		} else if !errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrBadValue) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("untyped error %v", err)
		}
	})
}
