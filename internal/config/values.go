package config

import (
	"maps"
	"slices"
)

// Source tells where an effective value comes from. The broker maps it to Kafka's ConfigSource.
type Source uint8

// The sources of values.
const (
	SourceDefault      Source = iota + 1 // the table
	SourceStaticBroker                   // flag, variable or file of this node
	SourceTopic                          // override of the topic
)

// Value is an effective value as DescribeConfigs shows it.
type Value struct {
	Def    Def
	Value  string
	Null   bool // no value; Value is ""
	Source Source
	// Synonyms are all the places that a value could come from, the effective one first, as Kafka lists them.
	Synonyms []Synonym
}

// Synonym is one place in the chain that a value was looked for and found.
type Synonym struct {
	Name   string
	Value  string
	Source Source
}

// Values returns the effective value of every broker key, sorted by name.
func (b *Broker) Values() []Value {
	values := make([]Value, 0, len(brokerTable))
	for _, name := range brokerNames {
		k := brokerByName[name]
		v := Value{Def: k.Def, Synonyms: b.chain(name)}
		switch {
		case k.SameAs != "":
			first := brokerByName[k.SameAs]
			v.Value = text(first.field(b))
			if name == "listeners" {
				v.Value = plaintext + v.Value
			}
			v.Source = b.source(k.SameAs)
		case len(v.Synonyms) > 0:
			v.Source = v.Synonyms[0].Source
			if v.Value = v.Synonyms[0].Value; k.field != nil {
				v.Value = text(k.field(b)) // in the key's own unit
			}
		default:
			v.Null, v.Source = true, SourceDefault
		}
		if k.Sensitive {
			v.Value, v.Null, v.Synonyms = "", true, nil
		}
		values = append(values, v)
	}
	return values
}

func (b *Broker) source(name string) Source {
	if _, ok := b.set[name]; ok {
		return SourceStaticBroker
	}
	return SourceDefault
}

// chain lists a broker key and its synonyms where they have a value, with each its own unit and name.
func (b *Broker) chain(name string) []Synonym {
	var list []Synonym
	for _, n := range append([]string{name}, brokerByName[name].Synonyms...) {
		if g, ok := b.set[n]; ok {
			list = append(list, Synonym{Name: n, Value: g.value, Source: SourceStaticBroker})
		}
		switch k := brokerByName[n]; {
		case k.derive != nil:
			list = append(list, Synonym{Name: n, Value: k.derive(b), Source: SourceDefault})
		case !k.Null:
			list = append(list, Synonym{Name: n, Value: k.Default, Source: SourceDefault})
		}
	}
	return list
}

// TopicValues returns the effective value of every topic key of a topic with these overrides, sorted by name. The overrides
// must have passed ResolveTopic.
func (b *Broker) TopicValues(overrides map[string]string) []Value {
	values := make([]Value, 0, len(topicTable))
	for _, name := range topicNames {
		k := topicByName[name]
		v := Value{Def: k.Def, Value: k.Default, Null: k.Null, Source: SourceDefault}
		if k.broker != nil {
			v.Value, v.Null = text(k.broker(b)), false
			v.Synonyms = b.chain(k.Synonyms[0])
			if len(v.Synonyms) > 0 {
				v.Source = v.Synonyms[0].Source
			}
		} else if !k.Null {
			v.Synonyms = []Synonym{{Name: name, Value: k.Default, Source: SourceDefault}}
		}
		if o, ok := overrides[name]; ok {
			v.Value, v.Null, v.Source = o, false, SourceTopic
			v.Synonyms = slices.Insert(v.Synonyms, 0, Synonym{Name: name, Value: o, Source: SourceTopic})
		}
		values = append(values, v)
	}
	return values
}

// Set returns the keys that were given rather than defaulted, with where each came from; for the start-up log.
func (b *Broker) Set() map[string]string {
	m := make(map[string]string, len(b.set))
	for _, name := range slices.Sorted(maps.Keys(b.set)) {
		m[name] = b.set[name].origin
	}
	return m
}
