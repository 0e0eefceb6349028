package broker

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestCompatibilityPage keeps the table of docs/compatibility.md equal to the dispatch table. With WEIR_UPDATE_DOCS=1 it
// rewrites the page instead.
func TestCompatibilityPage(t *testing.T) {
	const path, begin, end = "../docs/compatibility.md", "<!-- apis -->\n", "<!-- /apis -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	got, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no section between %q and %q", path, begin, end)
	}
	want := "| key | API | versions |\n|---|---|---|\n"
	for _, a := range apis {
		want += fmt.Sprintf("| %d | %s | %d-%d |\n", a.key, a.name, a.min, a.max)
	}
	if got == want {
		return
	}
	if os.Getenv("WEIR_UPDATE_DOCS") == "" {
		t.Fatalf("%s does not list what is served; run: WEIR_UPDATE_DOCS=1 go test ./broker -run TestCompatibilityPage", path)
	}
	if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
