package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// noEffect lists the keys that are accepted and change nothing, with why that is no pretence.
var noEffect = map[string]string{
	"advertised.listeners":   "becomes AdvertisedHost and AdvertisedPort",
	"seed-nodes":             "becomes Seeds",
	"compression.gzip.level": "for a compression.type that is refused",
	"compression.lz4.level":  "for a compression.type that is refused",
	"compression.zstd.level": "for a compression.type that is refused",
	"flush.ms":               "flush.messages=1 flushes sooner",
	"file.delete.delay.ms":   "a deleted segment stays for those who read it, by reference",
	"cleanup.policy":         "becomes Delete and Compact",
	"message.timestamp.type": "becomes LogAppendTime",
}

// selectors returns the names that product code outside this package selects with a dot.
func selectors(t *testing.T) map[string]bool {
	t.Helper()
	used := map[string]bool{}
	const root = "../.."
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch rel {
			case "internal/config", "test", "bench", "data", "bin", ".git":
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				used[s.Sel.Name] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// A key that can be set must do something: each is read by the product, refused but for its default, or listed with a
// reason. (A broker key that topics inherit does something through the topic key.)
func TestNoKeyIsSilentlyIgnored(t *testing.T) {
	used := selectors(t)
	inherited := map[string]bool{}
	check := func(d Def, field string) {
		reason, excused := noEffect[d.Name]
		switch {
		case excused && d.Only != "":
			t.Errorf("%s is refused anyway; noEffect need not list it (%s)", d.Name, reason)
		case !used[field] && !excused && d.Only == "":
			t.Errorf("%s is accepted, but nothing reads its field %s: honour it, or refuse it with only(...)", d.Name, field)
		}
	}
	var topic Topic
	for _, k := range topicTable {
		for _, s := range k.Synonyms {
			inherited[s] = true
		}
		if k.field != nil {
			check(k.Def, fieldName(&topic, k.field(&topic)))
		}
	}
	var b Broker
	for _, k := range brokerTable {
		if k.field != nil && !inherited[k.Name] {
			check(k.Def, fieldName(&b, k.field(&b)))
		}
	}
}

// fieldName finds the field of the struct that pointer points to.
func fieldName(structure, pointer any) string {
	v := reflect.ValueOf(structure).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() && v.Field(i).Addr().Interface() == pointer {
			return f.Name
		}
	}
	panic("BUG: not a field")
}
