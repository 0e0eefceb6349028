package tuning

import "fmt"

// Cores reports how threads are placed. Nothing is pinned yet on any machine: the write-ahead logs have operating system
// threads of their own, and the kernel places those.
func Cores(n int) Finding {
	f := Finding{Subject: "cores", Text: fmt.Sprintf("%d: no thread is pinned to a core", n)}
	if n <= 2 {
		f.Text = fmt.Sprintf("%d: too few to reserve one for the metadata log, so nothing is pinned", n)
	}
	return f
}
