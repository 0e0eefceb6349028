package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// EnvPrefix begins the name of every variable that sets a key: WEIR_LOG_SEGMENT_BYTES sets log.segment.bytes.
const EnvPrefix = "WEIR_"

// foreignEnv are the WEIR_ variables that are not keys: those of the command line, those that Kubernetes injects into every
// container when there is a service named weir (an unknown-key error for those would keep the broker from starting
// there), and those of the tests, which reach the brokers that the tests start.
var foreignEnv = []string{"CONFIG", "BROKERS", "SERVICE_HOST", "SERVICE_PORT", "PORT", "BIN", "SEED", "KEEP_DIR"}

// foreignEnvPrefixes are for families of such variables.
var foreignEnvPrefixes = []string{"SERVICE_PORT_", "PORT_", "TEST_", "BENCH_", "CLIENT_", "KILL_"}

// Sources is where configuration comes from, weakest first: File, Env, Flags.
type Sources struct {
	File  string            // path of a YAML file; "" for none
	Env   []string          // as os.Environ returns; only WEIR_* is looked at
	Flags map[string]string // the flags that were given, by key
}

// EnvName returns the variable that sets key: upper case, dots and dashes become underscores.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// Load reads and merges the sources: flag over variable over file over default.
func Load(s Sources) (*Broker, error) {
	merged := map[string]given{}
	layers := []func(Sources) (map[string]given, error){fileLayer, envLayer, flagLayer}
	for _, layer := range layers {
		raw, err := layer(s)
		if err != nil {
			return nil, err
		}
		// Second spellings are resolved within a layer, so that --data-dir wins over the file's log.dirs.
		set, err := canonical(raw)
		if err != nil {
			return nil, err
		}
		maps.Copy(merged, set)
	}
	return loadBroker(merged)
}

func fileLayer(s Sources) (map[string]given, error) {
	if s.File == "" {
		return nil, nil
	}
	k := koanf.New(".")
	if err := k.Load(file.Provider(s.File), yaml.Parser()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("configuration file %s does not exist", s.File)
		}
		return nil, fmt.Errorf("configuration file %s: %w", s.File, err)
	}
	return flat(k, func(string) string { return s.File })
}

func envLayer(s Sources) (map[string]given, error) {
	byVariable := make(map[string]string, len(brokerNames))
	for _, name := range brokerNames {
		byVariable[EnvName(name)] = name
	}
	values := map[string]any{}
	for _, kv := range s.Env {
		variable, value, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(variable, EnvPrefix)
		if !ok || foreign(rest) {
			continue
		}
		name, ok := byVariable[variable]
		if !ok {
			known := slices.Sorted(maps.Keys(byVariable))
			return nil, &UnknownKeyError{Key: variable, Nearest: Nearest(variable, known), Origin: "environment variable"}
		}
		values[name] = value
	}
	return mapLayer(values, func(name string) string { return "environment variable " + EnvName(name) })
}

func foreign(rest string) bool {
	return slices.Contains(foreignEnv, rest) ||
		slices.ContainsFunc(foreignEnvPrefixes, func(p string) bool { return strings.HasPrefix(rest, p) })
}

func flagLayer(s Sources) (map[string]given, error) {
	values := make(map[string]any, len(s.Flags))
	for name, v := range s.Flags {
		values[name] = v
	}
	return mapLayer(values, func(name string) string { return "flag --" + FlagName(name) })
}

// mapLayer holds keys that contain dots: no delimiter, so that koanf leaves them whole.
func mapLayer(values map[string]any, origin func(string) string) (map[string]given, error) {
	k := koanf.New("\x00")
	if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
		return nil, err
	}
	return flat(k, origin)
}

// flat turns what koanf read into texts. Nested YAML (log: {segment: {bytes: 1}}) and dotted keys mean the same.
func flat(k *koanf.Koanf, origin func(string) string) (map[string]given, error) {
	set := map[string]given{}
	for name, v := range k.All() {
		text, ok := scalar(v)
		if !ok {
			return nil, &ValueError{Key: name, Value: fmt.Sprint(v), Expected: "a value or a list of values", Origin: origin(name)}
		}
		set[name] = given{value: text, origin: origin(name)}
	}
	return set, nil
}

// scalar renders a YAML value as text.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case []any:
		texts := make([]string, len(v))
		for i, e := range v {
			t, ok := scalar(e)
			if !ok {
				return "", false
			}
			texts[i] = t
		}
		return strings.Join(texts, ","), true
	}
	return "", false
}

// serveFlags are the keys that `weir serve` has a flag for.
var serveFlags = []string{"data-dir", "kafka-addr", "http-addr", "peer-addr", "node.id", "seed-nodes"}

// FlagKeys returns the keys that have a flag, in the order of the help text.
func FlagKeys() []string { return slices.Clone(serveFlags) }

// FlagName returns the flag of a key: node.id has --node-id.
func FlagName(key string) string { return strings.ReplaceAll(key, ".", "-") }

// BrokerDef returns the definition of one broker key.
func BrokerDef(name string) (Def, bool) {
	k, ok := brokerByName[name]
	if !ok {
		return Def{}, false
	}
	return k.Def, true
}
