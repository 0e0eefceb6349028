package house

import (
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	fileLinesMax     = 500
	functionLinesMax = 75
)

func TestEveryPackageHasADoc(t *testing.T) {
	documented, kind := map[string]bool{}, map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		name := s.file.Name.Name
		kind[s.pkg] = name
		want := "Package " + name + " "
		if name == "main" {
			want = "Command "
		}
		if s.file.Doc != nil && strings.HasPrefix(s.file.Doc.Text(), want) {
			documented[s.pkg] = true
		}
	}
	for pkg, name := range kind {
		if !documented[pkg] {
			t.Errorf("package %s (%s) has no doc comment that says what it is for", name, pkg)
		}
	}
}

// Every package with tests fails when one of them leaves a goroutine behind.
func TestEveryPackageChecksForLeaks(t *testing.T) {
	tested, checked := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		tested[s.pkg] = true
		for _, imported := range s.imports() {
			if imported == "go.uber.org/goleak" {
				checked[s.pkg] = true
			}
		}
	}
	for pkg := range tested {
		if !checked[pkg] {
			t.Errorf("%s has tests but no TestMain with goleak", pkg)
		}
	}
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if n := s.fset.Position(s.file.FileEnd).Line; n > fileLinesMax {
			t.Errorf("%s has %d lines, more than %d: a file is one idea", s.name, n, fileLinesMax)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.line(f) + 1; n > functionLinesMax {
				t.Errorf("%s:%d: %s has %d lines, more than %d", s.name, s.line(f), f.Name.Name, n, functionLinesMax)
			}
		}
	}
}

// Product code waits for events: it never sleeps, and never ends the process except in main.
func TestForbiddenCalls(t *testing.T) {
	forbidden := map[string]string{
		"time.Sleep": "wait for an event, or use internal/clock",
		"time.Tick":  "it cannot be stopped",
		"os.Exit":    "only main ends the process",
		"log.Fatal":  "only main ends the process", "log.Fatalf": "only main ends the process",
		"fmt.Println": "stdout belongs to main", "fmt.Printf": "stdout belongs to main",
	}
	for _, s := range sources(t) {
		if s.test || within(s.pkg, "bench") || within(s.pkg, "cmd") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || x.Obj != nil { // a local variable of that name
				return true
			}
			if why := forbidden[x.Name+"."+sel.Sel.Name]; why != "" {
				t.Errorf("%s:%d: %s.%s: %s", s.name, s.line(call), x.Name, sel.Sel.Name, why)
			}
			return true
		})
	}
}

// words that must not appear in the repository. They are put together here so that this file does not have them either.
var words = []struct{ pattern, reason string }{
	{`\b` + "TO" + `DO\b|\b` + "FIX" + `ME\b|\b` + "XX" + `X\b|\b` + "HA" + `CK\b`, "finish it, or write an issue"},
	{"/wo" + "rk/", "a path of somebody's machine"},
	{`(?i)\b(chat` + "gpt|clau" + `de|copi` + `lot|anthro` + `pic|open` + `ai)\b`, "the repository does not say with what it was written"},
	{`(?i)proxy\.gol` + `ang\.org|repo1?\.mav` + `en|registry\.npm` + `js|pypi\.` + "org", "package registries are the user's choice"},
}

// textual are the files that are searched for words.
var textual = map[string]bool{
	".go": true, ".md": true, ".sh": true, ".yaml": true, ".yml": true, ".html": true, ".java": true, ".js": true, ".json": true,
	".xml": true, ".py": true, "": true, ".mod": true, ".txt": true,
}

func TestForbiddenWords(t *testing.T) {
	patterns := make([]*regexp.Regexp, len(words))
	for i, w := range words {
		patterns[i] = regexp.MustCompile(w.pattern)
	}
	files(t, func(name string) {
		if !textual[path.Ext(name)] {
			return
		}
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			return
		}
		if info.Size() > 1<<20 || name == "LICENSE" {
			return
		}
		text := read(t, name)
		for i, p := range patterns {
			for _, at := range p.FindAllStringIndex(text, -1) {
				t.Errorf("%s:%d: %q: %s", name, 1+strings.Count(text[:at[0]], "\n"), text[at[0]:at[1]], words[i].reason)
			}
		}
	})
}

// The rules are worth something only if they can fail.
func TestWordsCanBeFound(t *testing.T) {
	for i, text := range []string{"// TO" + "DO later", "see /wo" + "rk/main", "Clau" + "de", "https://proxy.gol" + "ang.org"} {
		if !regexp.MustCompile(words[i].pattern).MatchString(text) {
			t.Errorf("pattern %d does not find %q", i, text)
		}
	}
}

func TestReadmeNamesExistingTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, m := range regexp.MustCompile("`make ([a-z-]+)`|(?m)^make ([a-z-]+)").FindAllStringSubmatch(read(t, "README.md"), -1) {
		target := m[1] + m[2]
		if !strings.Contains(makefile, fmt.Sprintf("\n%s:", target)) {
			t.Errorf("README.md names make %s, which the Makefile does not have", target)
		}
	}
}

// The map of the architecture has every package on it.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	text := read(t, "docs/ARCHITECTURE.md")
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if name := strings.TrimPrefix(s.pkg, "internal/"); !strings.Contains(text, "`"+s.pkg) && !strings.Contains(text, "`"+name+"`") && !strings.HasPrefix(s.pkg, "bench") {
			t.Errorf("docs/ARCHITECTURE.md does not mention %s", s.pkg)
		}
	}
}

// What a map names is there.
func TestArchitectureNamesExistingFiles(t *testing.T) {
	for _, m := range regexp.MustCompile("`([a-z/]+/[a-z_]+\\.go)`").FindAllStringSubmatch(read(t, "docs/ARCHITECTURE.md"), -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("docs/ARCHITECTURE.md: %v", err)
		}
	}
	for row := range strings.Lines(read(t, "docs/ARCHITECTURE.md")) {
		m := regexp.MustCompile("^\\| `([a-z/]+)` \\| `").FindStringSubmatch(row)
		if m == nil {
			continue
		}
		for _, f := range regexp.MustCompile("`([a-z_]+\\.go)`").FindAllStringSubmatch(row, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1], f[1])); err != nil {
				t.Errorf("docs/ARCHITECTURE.md: %v", err)
			}
		}
	}
}
