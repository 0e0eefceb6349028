package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"weir/bench/result"
)

// The generated part of BENCHMARKS.md lies between these lines.
const (
	markBegin = "<!-- results: made by `bench report`, do not edit -->"
	markEnd   = "<!-- end of results -->"
)

func reportCommand(args []string) error {
	flags := flag.NewFlagSet("bench report", flag.ContinueOnError)
	into := flags.String("o", "", "replace the results in this `file`; empty: print")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("no result files\n%s", usage)
	}
	var text bytes.Buffer
	for _, path := range flags.Args() {
		file, err := result.Read(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "## `%s`\n\n", strings.Join(file.Command, " "))
		fmt.Fprintf(&text, "Raw figures: [%s](%s).\n\n", path, path)
		if err := report(&text, file); err != nil {
			return err
		}
	}
	if *into == "" {
		_, err := os.Stdout.Write(text.Bytes())
		return err
	}
	return replaceBetween(*into, text.String())
}

// report writes setup, limits, ratios and tables.
func report(w io.Writer, file *result.File) error {
	base := file.Base
	if base == "" {
		base = "weir"
	}
	sections := []struct {
		title string
		write func(io.Writer) error
	}{
		{"### Setup\n\n", file.Setup},
		{"### Limits of the machine\n\n", file.LimitTable},
		{"### Weir against the others, median of the rounds' ratios (least-greatest)\n\n", func(w io.Writer) error { return file.Ratios(w, base) }},
	}
	for _, s := range sections {
		var body bytes.Buffer
		if err := s.write(&body); err != nil {
			return err
		}
		if body.Len() == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", s.title, body.String()); err != nil {
			return err
		}
	}
	return file.Tables(w, about)
}

// replaceBetween puts text between the marks of a file.
func replaceBetween(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), markBegin)
	_, after, ok2 := strings.Cut(rest, markEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", path, markBegin, markEnd)
	}
	return os.WriteFile(path, []byte(before+markBegin+"\n\n"+text+markEnd+after), 0o644)
}
