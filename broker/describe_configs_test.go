package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func describe(t *testing.T, w *wire, version int16, kind kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version, req.IncludeSynonyms, req.IncludeDocumentation = version, true, true
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: keys}}
	resp := w.do(req).(*kmsg.DescribeConfigsResponse)
	if len(resp.Resources) != 1 || resp.Resources[0].ResourceName != name || resp.Resources[0].ResourceType != kind {
		t.Fatalf("%+v", resp.Resources)
	}
	return resp.Resources[0]
}

func TestDescribeTopicConfigs(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), map[string]string{"log.segment.bytes": "8388608"}))
	createTopic(t, w, "t", 1, [2]string{"retention.ms", "1234"})
	for version := int16(1); version <= 4; version++ {
		res := describe(t, w, version, kmsg.ConfigResourceTypeTopic, "t")
		if res.ErrorCode != 0 {
			t.Fatalf("v%d: %+v", version, res)
		}
		byName := map[string]kmsg.DescribeConfigsResponseResourceConfig{}
		for _, c := range res.Configs {
			byName[c.Name] = c
			if c.ReadOnly || c.IsSensitive {
				t.Errorf("v%d: %+v", version, c)
			}
			if version >= 3 && (c.ConfigType == kmsg.ConfigTypeUnknown || c.Documentation == nil || *c.Documentation == "") {
				t.Errorf("v%d: %s has type %v and documentation %s", version, c.Name, c.ConfigType, str(c.Documentation))
			}
		}
		for name, want := range map[string]struct {
			value  string
			source kmsg.ConfigSource
			first  string
		}{
			"retention.ms":   {"1234", kmsg.ConfigSourceDynamicTopicConfig, "retention.ms"},
			"segment.bytes":  {"8388608", kmsg.ConfigSourceStaticBrokerConfig, "log.segment.bytes"},
			"cleanup.policy": {"delete", kmsg.ConfigSourceDefaultConfig, "log.cleanup.policy"},
		} {
			c := byName[name]
			if str(c.Value) != want.value || c.Source != want.source {
				t.Errorf("v%d: %s is %s from %v, want %+v", version, name, str(c.Value), c.Source, want)
			}
			if len(c.ConfigSynonyms) == 0 || c.ConfigSynonyms[0].Name != want.first || c.ConfigSynonyms[0].Source != want.source {
				t.Errorf("v%d: %s has synonyms %+v", version, name, c.ConfigSynonyms)
			}
		}
	}
}

func TestDescribeBrokerConfigs(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), map[string]string{"node.id": "3"}))
	res := describe(t, w, 4, kmsg.ConfigResourceTypeBroker, "3", "node.id", "no.such.key")
	if res.ErrorCode != 0 || len(res.Configs) != 1 {
		t.Fatalf("%+v", res)
	}
	if c := res.Configs[0]; c.Name != "node.id" || str(c.Value) != "3" || !c.ReadOnly || c.Source != kmsg.ConfigSourceStaticBrokerConfig || c.ConfigType != kmsg.ConfigTypeInt {
		t.Errorf("%+v", c)
	}
	if all := describe(t, w, 4, kmsg.ConfigResourceTypeBroker, "3"); len(all.Configs) < 50 {
		t.Errorf("%d keys", len(all.Configs))
	}
	if defaults := describe(t, w, 4, kmsg.ConfigResourceTypeBroker, ""); defaults.ErrorCode != 0 || len(defaults.Configs) != 0 {
		t.Errorf("%+v", defaults)
	}
}

func TestDescribeConfigsErrors(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), map[string]string{"node.id": "3"}))
	for name, tt := range map[string]struct {
		kind     kmsg.ConfigResourceType
		resource string
		want     int16
	}{
		"unknown topic":    {kmsg.ConfigResourceTypeTopic, "u", kerr.UnknownTopicOrPartition.Code},
		"bad topic":        {kmsg.ConfigResourceTypeTopic, "a b", kerr.InvalidTopicException.Code},
		"other broker":     {kmsg.ConfigResourceTypeBroker, "4", kerr.InvalidRequest.Code},
		"no broker":        {kmsg.ConfigResourceTypeBroker, "x", kerr.InvalidRequest.Code},
		"logger of nobody": {kmsg.ConfigResourceTypeBrokerLogger, "", kerr.InvalidRequest.Code},
		"logger":           {kmsg.ConfigResourceTypeBrokerLogger, "3", 0},
		"client metrics":   {kmsg.ConfigResourceTypeClientMetrics, "", kerr.InvalidRequest.Code},
		"group":            {kmsg.ConfigResourceTypeGroupConfig, "", kerr.InvalidRequest.Code},
		"unknown type":     {77, "x", kerr.InvalidRequest.Code},
	} {
		if res := describe(t, w, 4, tt.kind, tt.resource); res.ErrorCode != tt.want || (res.ErrorMessage == nil) != (tt.want == 0) || len(res.Configs) != 0 {
			t.Errorf("%s: %+v, want error %d", name, res, tt.want)
		}
	}
}

// TestDescribeConfigsWithoutExtras leaves out what was not asked for.
func TestDescribeConfigsWithoutExtras(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "t", 1)
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", ConfigNames: []string{"retention.ms"}}}
	c := w.do(req).(*kmsg.DescribeConfigsResponse).Resources[0].Configs
	if len(c) != 1 || len(c[0].ConfigSynonyms) != 0 || c[0].Documentation != nil {
		t.Errorf("%+v", c)
	}
}
