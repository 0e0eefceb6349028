package config

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

// LoadBroker makes the configuration of a node from values by key; what is missing gets its default.
func LoadBroker(values map[string]string) (*Broker, error) {
	set := make(map[string]given, len(values))
	for k, v := range values {
		set[k] = given{value: v}
	}
	return loadBroker(set)
}

func loadBroker(raw map[string]given) (*Broker, error) {
	set, err := canonical(raw)
	if err != nil {
		return nil, err
	}
	b := &Broker{set: set}
	for i := range brokerTable {
		k := &brokerTable[i]
		if g, ok := set[k.Name]; ok {
			if err := k.Validate(g.value); err != nil {
				return nil, from(err, g.origin)
			}
		}
	}
	for i := range brokerTable {
		k := &brokerTable[i]
		if k.field != nil && k.SameAs == "" {
			if v, ok := b.resolve(k); ok {
				store(k.field(b), k.Type, v)
			}
		}
	}
	if err := b.resolveAddresses(); err != nil {
		return nil, err
	}
	return b, b.check()
}

// canonical checks the names of the keys and turns second spellings (log.dirs) into the first (data-dir).
func canonical(raw map[string]given) (map[string]given, error) {
	set := make(map[string]given, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		g := raw[name]
		k, ok := brokerByName[name]
		if !ok {
			return nil, &UnknownKeyError{Key: name, Nearest: Nearest(name, brokerNames), Origin: g.origin}
		}
		if k.SameAs != "" {
			var err error
			if g.value, err = respell(name, g); err != nil {
				return nil, err
			}
			name = k.SameAs
		} else if name == "kafka-addr" {
			g.value = strings.TrimPrefix(g.value, plaintext)
		}
		if old, ok := set[name]; ok && old.value != g.value {
			return nil, &ValueError{
				Key: name, Value: g.value, Origin: g.origin,
				Expected: fmt.Sprintf("the same value under all its names, but another one says %q", old.value),
			}
		}
		set[name] = g
	}
	return set, nil
}

const plaintext = "PLAINTEXT://"

// respell converts the value of a second spelling to the form of the first.
func respell(name string, g given) (string, error) {
	if name != "listeners" && name != "log.dirs" {
		return g.value, nil
	}
	list, _ := parse(List, g.value)
	elems := list.([]string)
	if len(elems) != 1 {
		why := "a node has one data directory"
		if name == "listeners" {
			why = "a node has one listener for clients"
		}
		return "", &ValueError{Key: name, Value: g.value, Origin: g.origin, Why: why, Expected: "one element"}
	}
	if name == "log.dirs" {
		return elems[0], nil
	}
	addr, err := plaintextAddress(name, elems[0])
	return addr, from(err, g.origin)
}

// plaintextAddress takes the host:port out of PLAINTEXT://host:port.
func plaintextAddress(key, s string) (string, error) {
	protocol, addr, ok := strings.Cut(s, "://")
	if !ok {
		return "", &ValueError{Key: key, Value: s, Expected: "PLAINTEXT://host:port"}
	}
	if !strings.EqualFold(protocol, "PLAINTEXT") {
		return "", &ValueError{
			Key: key, Value: s, Expected: "PLAINTEXT://host:port",
			Why: "TLS, SASL and named listeners are not built yet",
		}
	}
	return addr, nil
}

// from adds to an error where the value came from.
func from(err error, origin string) error {
	if v, ok := err.(*ValueError); ok && v.Origin == "" {
		r := *v
		r.Origin = origin
		return &r
	}
	return err
}

// resolve returns the text of a key's effective value: as given, from its synonyms, or its default. False: null.
func (b *Broker) resolve(k *brokerKey) (string, bool) {
	if g, ok := b.set[k.Name]; ok {
		return g.value, true
	}
	if k.derive != nil {
		return k.derive(b), true
	}
	if !k.Null {
		return k.Default, true
	}
	for _, s := range k.Synonyms {
		synonym := brokerByName[s]
		g, ok := b.set[s]
		if !ok {
			if synonym.Null {
				continue
			}
			g.value = synonym.Default
		}
		return scaled(k.Name, s, g.value), true
	}
	return "", false
}

// scaled converts the value of a synonym to the unit of the key: hours or minutes to milliseconds. -1 stays -1. A value that
// does not parse is passed on; it is reported when its own key is validated.
func scaled(key, synonym, value string) string {
	v, ok := parse(Long, value)
	if !ok || v.(int64) <= 0 || !strings.HasSuffix(key, ".ms") {
		return value
	}
	switch {
	case strings.HasSuffix(synonym, ".hours"):
		return i64(v.(int64) * msPerHour)
	case strings.HasSuffix(synonym, ".minutes"):
		return i64(v.(int64) * msPerMinute)
	}
	return value
}

// resolveAddresses finds what clients are told to connect to and refuses what they could not.
func (b *Broker) resolveAddresses() error {
	host, port, err := splitAddress(b.KafkaAddr)
	if err != nil { // cannot happen: validated
		return fmt.Errorf("kafka-addr: %w", err)
	}
	if len(b.AdvertisedListeners) == 0 {
		if wildcard(host) {
			return &ValueError{
				Key: "kafka-addr", Value: b.KafkaAddr, Origin: b.set["kafka-addr"].origin,
				Expected: "advertised.listeners to be set when kafka-addr is a wildcard, since clients cannot connect to " +
					"\"every interface\": for example advertised.listeners=PLAINTEXT://" + net.JoinHostPort("broker1.example.com", i64(int64(max(port, 1)))),
			}
		}
		b.AdvertisedHost, b.AdvertisedPort = host, port
		return nil
	}
	return b.resolveAdvertised(port)
}

func (b *Broker) resolveAdvertised(listenPort int32) error {
	const name = "advertised.listeners"
	elems, origin := b.AdvertisedListeners, b.set[name].origin
	if len(elems) != 1 {
		return &ValueError{
			Key: name, Value: b.set[name].value, Origin: origin, Expected: "one PLAINTEXT://host:port",
			Why: "a node has one listener for clients",
		}
	}
	addr, err := plaintextAddress(name, elems[0])
	if err != nil {
		return from(err, origin)
	}
	host, port, err := splitAddress(addr)
	if err != nil {
		return &ValueError{Key: name, Value: elems[0], Origin: origin, Expected: "PLAINTEXT://host:port"}
	}
	if wildcard(host) {
		return &ValueError{
			Key: name, Value: elems[0], Origin: origin,
			Expected: "a host name or address that clients can reach; a wildcard would make every client connect to its own machine",
		}
	}
	if port == 0 {
		port = listenPort
	}
	b.AdvertisedHost, b.AdvertisedPort = host, port
	return nil
}

// BrokerDefs returns the table of broker keys, sorted by name.
func BrokerDefs() []Def {
	defs := make([]Def, 0, len(brokerTable))
	for _, k := range brokerTable {
		defs = append(defs, k.Def)
	}
	slices.SortFunc(defs, func(x, y Def) int { return strings.Compare(x.Name, y.Name) })
	return defs
}

var brokerByName, brokerNames = func() (map[string]*brokerKey, []string) {
	m := make(map[string]*brokerKey, len(brokerTable))
	for i := range brokerTable {
		m[brokerTable[i].Name] = &brokerTable[i]
	}
	return m, slices.Sorted(maps.Keys(m))
}()
