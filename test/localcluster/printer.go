package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// printer puts the nodes' lines, whole and one at a time, on one output.
type printer struct {
	mu struct {
		sync.Mutex
		out io.Writer
	}
}

func newPrinter(out io.Writer) *printer {
	p := new(printer)
	p.mu.out = out
	return p
}

// say prints a line of this program's own.
func (p *printer) say(format string, args ...any) { p.text("* " + fmt.Sprintf(format, args...) + "\n") }

func (p *printer) text(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = io.WriteString(p.mu.out, s) // whoever reads this is gone; the nodes go on until they are told to stop
}

// lines is a writer that passes lines on with a prefix. seen, if not nil, gets each. os/exec calls it from one goroutine.
func (p *printer) lines(prefix string, seen func(string)) io.Writer {
	return &lineWriter{printer: p, prefix: prefix, seen: seen}
}

type lineWriter struct {
	printer *printer
	prefix  string
	seen    func(string)
	rest    []byte
}

const lineMax = 64 << 10 // a longer one is passed on in parts

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		switch {
		case i >= 0:
		case len(w.rest) > lineMax:
			i = lineMax
		default:
			return len(b), nil
		}
		line := string(w.rest[:i])
		w.rest = bytes.TrimPrefix(w.rest[i:], []byte("\n"))
		w.printer.text(w.prefix + line + "\n")
		if w.seen != nil {
			w.seen(line)
		}
	}
}
