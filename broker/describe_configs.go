package broker

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/config"
	"weir/raftmeta"
)

// DescribeConfigs (key 32) v1-4. v1 has sources and synonyms (KIP-226), v3 types and documentation (KIP-569). Values that this
// version of Weir cannot honour do not exist here: they are refused where they are set.

func (c *call) describeConfigs(req kmsg.Request) {
	r := req.(*kmsg.DescribeConfigsRequest)
	resp := kmsg.NewPtrDescribeConfigsResponse()
	unknown := slices.ContainsFunc(r.Resources, func(res kmsg.DescribeConfigsRequestResource) bool { return !knownResource(res.ResourceType) })
	for i := range r.Resources {
		res := &r.Resources[i]
		row := kmsg.NewDescribeConfigsResponseResource()
		row.ResourceType, row.ResourceName = res.ResourceType, res.ResourceName
		row.Configs = []kmsg.DescribeConfigsResponseResourceConfig{}
		values, err := c.resourceValues(res)
		if unknown { // as in Kafka, one resource that nobody knows spoils the whole request
			values, err = nil, refuse(kerr.InvalidRequest, "Unexpected resource type in the request")
		}
		row.ErrorCode, row.ErrorMessage = metaCode(err), message(err)
		for j := range values {
			if len(res.ConfigNames) == 0 || slices.Contains(res.ConfigNames, values[j].Def.Name) {
				row.Configs = append(row.Configs, configEntry(&values[j], res.ResourceType, r.IncludeSynonyms, r.IncludeDocumentation))
			}
		}
		resp.Resources = append(resp.Resources, row)
	}
	c.reply(resp)
}

func knownResource(t kmsg.ConfigResourceType) bool {
	switch t {
	case kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger,
		kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
		return true
	}
	return false
}

// resourceValues lists the configuration of a resource, sorted by name.
func (c *call) resourceValues(res *kmsg.DescribeConfigsRequestResource) ([]config.Value, error) {
	name := res.ResourceName
	switch res.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		if err := raftmeta.ValidateTopicName(name); err != nil {
			return nil, err
		}
		t := c.b.meta.Image().Topic(name)
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return c.b.cfg.TopicValues(t.Configs), nil
	case kmsg.ConfigResourceTypeBroker:
		if name == "" {
			return nil, nil // cluster-wide dynamic defaults: there are none
		}
		if err := c.thisBroker(name, " or empty string,"); err != nil {
			return nil, err
		}
		return c.b.cfg.Values(), nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		if name == "" {
			return nil, refuse(kerr.InvalidRequest, "Broker id must not be empty")
		}
		return nil, c.thisBroker(name, "") // one logger, whose level is the broker's log.level: none to be listed
	case kmsg.ConfigResourceTypeClientMetrics:
		if name == "" {
			return nil, refuse(kerr.InvalidRequest, "Client metrics subscription name must not be empty")
		}
	case kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, refuse(kerr.InvalidRequest, "Group name must not be empty")
		}
	}
	return nil, nil
}

// thisBroker wants a broker's id to be this one's: a broker knows no other's configuration.
func (c *call) thisBroker(name, or string) error {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return refuse(kerr.InvalidRequest, "Broker id must be an integer, but it is: %s", name)
	}
	if int32(id) != c.b.cfg.NodeID {
		return refuse(kerr.InvalidRequest, "Unexpected broker id, expected %d%s but received %s", c.b.cfg.NodeID, or, name)
	}
	return nil
}

func configEntry(v *config.Value, resource kmsg.ConfigResourceType, synonyms, docs bool) kmsg.DescribeConfigsResponseResourceConfig {
	e := kmsg.NewDescribeConfigsResponseResourceConfig()
	e.Name, e.Value = v.Def.Name, shownValue(v)
	e.Source, e.IsSensitive, e.ConfigType = configSource(v.Source), v.Def.Sensitive, configType(&v.Def)
	e.ReadOnly = resource == kmsg.ConfigResourceTypeBroker && v.Def.ReadOnly
	e.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{}
	if synonyms {
		for i := range v.Synonyms {
			s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			s.Name, s.Source = v.Synonyms[i].Name, configSource(v.Synonyms[i].Source)
			if !v.Def.Sensitive {
				s.Value = &v.Synonyms[i].Value
			}
			e.ConfigSynonyms = append(e.ConfigSynonyms, s)
		}
	}
	if docs {
		e.Documentation = &v.Def.Doc
	}
	return e
}

// shownValue is a value as it may be told; nil is null.
func shownValue(v *config.Value) *string {
	if v.Null || v.Def.Sensitive {
		return nil
	}
	return &v.Value
}

func configSource(s config.Source) kmsg.ConfigSource {
	switch s {
	case config.SourceTopic:
		return kmsg.ConfigSourceDynamicTopicConfig
	case config.SourceStaticBroker:
		return kmsg.ConfigSourceStaticBrokerConfig
	}
	return kmsg.ConfigSourceDefaultConfig
}

func configType(d *config.Def) kmsg.ConfigType {
	if d.Sensitive {
		return kmsg.ConfigTypePassword
	}
	switch d.Type {
	case config.Boolean:
		return kmsg.ConfigTypeBoolean
	case config.String:
		return kmsg.ConfigTypeString
	case config.Int:
		return kmsg.ConfigTypeInt
	case config.Long:
		return kmsg.ConfigTypeLong
	case config.Double:
		return kmsg.ConfigTypeDouble
	case config.List:
		return kmsg.ConfigTypeList
	}
	return kmsg.ConfigTypeUnknown
}
