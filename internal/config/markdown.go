package config

import (
	"cmp"
	"fmt"
	"strings"
)

// Markdown renders the table as docs/configuration.md.
func Markdown() string {
	var w strings.Builder
	w.WriteString(`# Configuration

<!-- Generated from internal/config by "go generate ./internal/config". Do not edit. -->

A key is set in the file given with ` + "`--config`" + ` (YAML, nested or with dots), by the variable ` + "`WEIR_...`" + ` (upper case, dots and
dashes become underscores: ` + "`log.segment.bytes`" + ` is ` + "`WEIR_LOG_SEGMENT_BYTES`" + `), or, for some, by a flag of ` + "`weir serve`" + `. A flag wins
over a variable, a variable over the file, the file over the default. An unknown key or a bad value keeps the broker from starting.

Keys that Kafka has keep Kafka's name and meaning; **Weir** marks those that it does not have. *Only* marks what
this version cannot do otherwise: another value is refused rather than ignored.

## Broker keys

| key | type | default | accepted | meaning |
|---|---|---|---|---|
`)
	for _, d := range BrokerDefs() {
		row(&w, d)
	}
	w.WriteString(`
## Topic keys

Set when a topic is created. A topic without an override takes the value of the broker key named in the last column, if there is one.

| key | type | default | accepted | meaning | broker key |
|---|---|---|---|---|---|
`)
	for _, d := range TopicDefs() {
		row(&w, d)
	}
	return w.String()
}

func row(w *strings.Builder, d Def) {
	value := "`" + d.Default + "`"
	switch {
	case d.Null:
		value = "not set"
	case d.Default == "":
		value = "empty"
	case d.Default == forever:
		value = "2^63-1"
	}
	expect := d.Expect
	if d.Only != "" {
		expect = fmt.Sprintf("*only %s*: %s", cmp.Or(expect, "empty"), d.Only)
	}
	name := "`" + d.Name + "`"
	if d.Weir {
		name += " **Weir**"
	}
	if flag := flagOf(d.Name); flag != "" {
		name += " `--" + flag + "`"
	}
	fmt.Fprintf(w, "| %s | %s | %s | %s | %s |", name, d.Type, value, strings.ReplaceAll(expect, "|", "\\|"), d.Doc)
	if !d.ReadOnly {
		broker := ""
		if len(d.Synonyms) > 0 {
			broker = "`" + d.Synonyms[0] + "`"
		}
		fmt.Fprintf(w, " %s |", broker)
	}
	w.WriteByte('\n')
}

func flagOf(key string) string {
	for _, k := range serveFlags {
		if k == key {
			return FlagName(k)
		}
	}
	return ""
}
