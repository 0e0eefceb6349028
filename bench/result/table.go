package result

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Spread is a value over rounds.
type Spread struct{ Median, Min, Max float64 }

// Over sums up values; zero where there are none.
func Over(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	middle := len(sorted) / 2
	s := Spread{Median: sorted[middle], Min: sorted[0], Max: sorted[len(sorted)-1]}
	if len(sorted)%2 == 0 {
		s.Median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return s
}

// column is a figure of a run.
type column struct {
	title  string
	value  func(*Run) float64
	digits int
	spread bool // shown with its least and greatest value
}

func latency(pick func(*Latency) float64) func(*Run) float64 {
	return func(r *Run) float64 {
		if r.LatencyUs == nil {
			return 0
		}
		return pick(r.LatencyUs) / 1000
	}
}

var columns = []column{
	{"msg/s", func(r *Run) float64 { return r.MessagesPerSecond }, 0, true},
	{"MB/s", func(r *Run) float64 { return r.MBPerSecond }, 1, false},
	{"p50 ms", latency(func(l *Latency) float64 { return l.P50 }), 2, false},
	{"p99 ms", latency(func(l *Latency) float64 { return l.P99 }), 2, true},
	{"p99.9 ms", latency(func(l *Latency) float64 { return l.P999 }), 2, false},
	{"CPU s/GB", func(r *Run) float64 { return r.CPUSecondsPerGB }, 2, true},
	{"CPU s/M msg", func(r *Run) float64 { return r.CPUSecondsPerMillion }, 2, false},
	{"client CPU s", func(r *Run) float64 { return r.ClientCPUSeconds }, 1, false},
	{"log writes/s", func(r *Run) float64 { return r.DurableWritesPerSecond }, 0, false},
	{"flushes/s", func(r *Run) float64 { return r.DeviceFlushesPerSecond }, 0, false},
	{"written/produced", writtenPerProduced, 2, false},
	{"peak RSS MB", func(r *Run) float64 { return float64(r.PeakRSSBytes) / 1e6 }, 0, false},
	{"switches/msg", switchesPerMessage, 2, false},
}

func switchesPerMessage(r *Run) float64 {
	return float64(r.ContextSwitches) / float64(max(r.Messages, 1))
}

func writtenPerProduced(r *Run) float64 {
	if r.Bytes == 0 || r.Consumed {
		return 0
	}
	return float64(r.ServerWriteBytes) / float64(r.Bytes)
}

// Tables writes one Markdown table per workload: a row per server, medians over rounds with least and greatest.
func (f *File) Tables(w io.Writer, describe func(workload string) string) error {
	var out strings.Builder
	for _, workload := range f.workloads() {
		fmt.Fprintf(&out, "### %s\n\n", workload)
		if text := describe(workload); text != "" {
			fmt.Fprintf(&out, "%s\n\n", text)
		}
		rows := [][]string{{"server"}}
		for _, c := range columns {
			rows[0] = append(rows[0], c.title)
		}
		for _, server := range f.Servers {
			if runs := f.runs(server.Name, workload); len(runs) > 0 {
				rows = append(rows, row(server.Name, runs))
			}
		}
		writeTable(&out, rows)
		out.WriteByte('\n')
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func row(name string, runs []*Run) []string {
	cells := []string{name}
	for _, c := range columns {
		var values []float64
		for _, r := range runs {
			values = append(values, c.value(r))
		}
		s := Over(values)
		switch {
		case s.Max == 0:
			cells = append(cells, "-")
		case c.spread && len(runs) > 1:
			cells = append(cells, fmt.Sprintf("%s (%s-%s)", number(s.Median, c.digits), number(s.Min, c.digits), number(s.Max, c.digits)))
		default:
			cells = append(cells, number(s.Median, c.digits))
		}
	}
	return cells
}

// Ratios writes the other servers' figures relative to the base's, median of rounds.
func (f *File) Ratios(w io.Writer, base string) error {
	rows := [][]string{{"workload", base + " divided by", "msg/s", "p99", "CPU per GB", "peak RSS"}}
	for _, workload := range f.workloads() {
		ours := f.runs(base, workload)
		for _, server := range f.Servers {
			theirs := f.runs(server.Name, workload)
			if server.Name == base || len(ours) == 0 || len(theirs) == 0 {
				continue
			}
			cells := []string{workload, server.Name}
			for _, value := range []func(*Run) float64{columns[0].value, columns[3].value, columns[5].value, columns[11].value} {
				cells = append(cells, ratio(ours, theirs, value))
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) == 1 {
		return nil
	}
	var out strings.Builder
	writeTable(&out, rows)
	_, err := io.WriteString(w, out.String())
	return err
}

// ratio compares within each round, since rounds differ by what else the machine did, and takes the median.
func ratio(ours, theirs []*Run, value func(*Run) float64) string {
	var ratios []float64
	for _, o := range ours {
		for _, t := range theirs {
			if o.Round == t.Round && value(t) > 0 {
				ratios = append(ratios, value(o)/value(t))
			}
		}
	}
	if len(ratios) == 0 {
		return "-"
	}
	s := Over(ratios)
	return fmt.Sprintf("%s (%s-%s)", number(s.Median, 2), number(s.Min, 2), number(s.Max, 2))
}

// Setup writes what was measured where.
func (f *File) Setup(w io.Writer) error {
	m := f.Machine
	rows := [][]string{
		{"", ""},
		{"commit", f.Commit}, {"date", f.Date.Format("2006-01-02 15:04 MST")}, {"command", "`" + strings.Join(f.Command, " ") + "`"},
		{"CPU", fmt.Sprintf("%s, %d cores, the load generator on the same", m.CPU, m.Cores)},
		{"memory", fmt.Sprintf("%.1f GB", float64(m.MemoryBytes)/1e9)},
		{"disk", fmt.Sprintf("%s, write cache: %s; %s", m.Device, m.WriteCache, m.FileSystem)},
		{"kernel", m.Kernel}, {"Go", m.Go},
		{"rounds", fmt.Sprintf("%d, interleaved; %g s measured after %g s of warm-up, each from a clean directory",
			f.Settings.Rounds, f.Settings.DurationSeconds, f.Settings.WarmupSeconds)},
	}
	if f.Settings.Quick {
		rows = append(rows, []string{"size", "the short form: few workloads, short runs; it shows that it works and not how fast it is"})
	}
	if acked, read, runs := f.readBack(); runs > 0 {
		rows = append(rows, []string{"read back", fmt.Sprintf("%s messages were acknowledged in %d runs; all of them, and what was under way at the end, are there: %s",
			number(float64(acked), 0), runs, number(float64(read), 0))})
	}
	for _, s := range f.Servers {
		rows = append(rows, []string{"server " + s.Name, strings.TrimSpace(s.Version + " " + s.Note)})
	}
	for _, name := range sortedKeys(f.Missing) {
		rows = append(rows, []string{"server " + name, "not measured: " + firstLine(f.Missing[name])})
	}
	for _, failure := range f.Failures {
		rows = append(rows, []string{"failed", firstLine(failure)})
	}
	var out strings.Builder
	writeTable(&out, rows)
	_, err := io.WriteString(w, out.String())
	return err
}

// readBack sums up the runs after which everything was read again.
func (f *File) readBack() (acked, read int64, runs int) {
	for i := range f.Runs {
		if r := &f.Runs[i]; r.ReadBack > 0 {
			acked, read, runs = acked+r.Acknowledged, read+r.ReadBack, runs+1
		}
	}
	return acked, read, runs
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// LimitTable writes the machine's limits.
func (f *File) LimitTable(w io.Writer) error {
	if len(f.Limits) == 0 {
		return nil
	}
	rows := [][]string{{"limit", "value", ""}}
	for _, l := range f.Limits {
		rows = append(rows, []string{l.Name, number(l.Value, 2) + " " + l.Unit, l.Note})
	}
	var out strings.Builder
	writeTable(&out, rows)
	_, err := io.WriteString(w, out.String())
	return err
}

func (f *File) workloads() []string {
	var names []string
	for _, r := range f.Runs {
		if !slices.Contains(names, r.Workload) {
			names = append(names, r.Workload)
		}
	}
	return names
}

func (f *File) runs(server, workload string) []*Run {
	var runs []*Run
	for i := range f.Runs {
		if r := &f.Runs[i]; r.Server == server && r.Workload == workload {
			runs = append(runs, r)
		}
	}
	return runs
}

// writeTable aligns the columns, so that the Markdown also reads well as text: figures to the right, the first column and those
// without a title to the left.
func writeTable(out *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, cells := range rows {
		for i, cell := range cells {
			widths[i] = max(widths[i], len([]rune(cell)), 3)
		}
	}
	line := func(cells []string) {
		for i, cell := range cells {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			switch {
			case i == 0:
				out.WriteString("| " + cell + pad + " |")
			case rows[0][i] == "":
				out.WriteString(" " + cell + pad + " |")
			default:
				out.WriteString(" " + pad + cell + " |")
			}
		}
		out.WriteByte('\n')
	}
	line(rows[0])
	for i, width := range widths {
		switch {
		case i == 0:
			out.WriteString("|" + strings.Repeat("-", width+2) + "|")
		case rows[0][i] == "":
			out.WriteString(strings.Repeat("-", width+2) + "|")
		default:
			out.WriteString(strings.Repeat("-", width+1) + ":|")
		}
	}
	out.WriteByte('\n')
	for _, cells := range rows[1:] {
		line(cells)
	}
}

// number prints with thousands separated.
func number(v float64, digits int) string {
	text := fmt.Sprintf("%.*f", digits, v)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest == "" {
		return whole
	}
	return whole + "." + rest
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
