package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// clients are the clients this machine has. One that is missing is skipped loudly; in CI it is a failure.
func clients(t *testing.T) []client {
	t.Helper()
	all := []client{franz{}}
	if bin, err := exec.LookPath("kcat"); err == nil {
		all = append(all, kcat{bin: bin})
	} else {
		missing(t, "kcat", "install the package kcat")
	}
	if j, err := javaClient(); err == nil {
		all = append(all, j)
	} else {
		missing(t, "Apache Kafka's Java client", err.Error())
	}
	return all
}

func missing(t *testing.T, what, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing, and CI tests every client: %s", what, why)
	}
	t.Logf("NOT TESTED: %s is missing: %s", what, why)
}

// javaClient builds the bridge once, fetching the client's newest release that the pom names.
var javaClient = sync.OnceValues(func() (java, error) {
	bin, err := exec.LookPath("java")
	if err != nil {
		return java{}, err
	}
	dir, err := filepath.Abs("java")
	if err != nil {
		return java{}, err
	}
	sources := filepath.Join(dir, "src", "main", "java", "weir", "test", "Bridge.java")
	if newer(filepath.Join(dir, "target", "classes", "weir", "test", "Bridge.class"), sources, filepath.Join(dir, "pom.xml")) {
		return java{bin: bin, dir: dir}, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return java{}, err
	}
	build := exec.Command(mvn, "-q", "-B", "package")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return java{}, &buildError{err: err, out: string(out)}
	}
	return java{bin: bin, dir: dir}, nil
})

type buildError struct {
	err error
	out string
}

func (e *buildError) Error() string { return "mvn package: " + e.err.Error() + "\n" + e.out }

// newer reports whether built exists and is newer than each source.
func newer(built string, sources ...string) bool {
	b, err := os.Stat(built)
	if err != nil {
		return false
	}
	for _, source := range sources {
		s, err := os.Stat(source)
		if err != nil || s.ModTime().After(b.ModTime()) {
			return false
		}
	}
	return true
}
