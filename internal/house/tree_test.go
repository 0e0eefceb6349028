package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	root   = "../.."
	module = "weir"
)

// source is one parsed Go file.
type source struct {
	name string // path below the root, with slashes
	pkg  string // import path below the module: "internal/config"
	test bool
	fset *token.FileSet
	file *ast.File
}

func (s *source) line(n ast.Node) int { return s.fset.Position(n.Pos()).Line }

// skipped are directories that hold no source of ours.
func skipped(d fs.DirEntry) bool {
	switch name := d.Name(); name {
	case "data", "target", "node_modules", "testdata", "bin":
		return true
	default:
		return strings.HasPrefix(name, ".") && name != "." && name != ".." && name != ".ci"
	}
}

// files calls fn for every file of the repository, with its path below the root.
func files(t *testing.T, fn func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		switch {
		case rel == ".":
		case d.IsDir() && skipped(d):
			return filepath.SkipDir
		case d.Type().IsRegular():
			fn(filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses every Go file of this module, whatever its build tags; those of the nested module test/ are left out.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	files(t, func(name string) {
		if path.Ext(name) != ".go" || strings.HasPrefix(name, "test/") {
			return
		}
		s := &source{name: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), fset: token.NewFileSet()}
		var err error
		if s.file, err = parser.ParseFile(s.fset, filepath.Join(root, name), nil, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	})
	if len(all) < 20 {
		t.Fatalf("only %d Go files found below %s", len(all), root)
	}
	return all
}

// imports returns the import paths of a file.
func (s *source) imports() []string {
	paths := make([]string, len(s.file.Imports))
	for i, spec := range s.file.Imports {
		paths[i] = strings.Trim(spec.Path.Value, `"`)
	}
	return paths
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
