// Command weir is the broker (weir serve) and a small client for looking after it (weir topic, produce, consume).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes. Supervisors rely on them: 70 means that the disk failed and a restart is in order.
const (
	exitOK    = 0
	exitError = 1
	exitDisk  = 70
)

// coded is an error that asks for an exit code of its own.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}, startBroker))
}

// run executes a command line and returns the exit code. A user's mistake is one line on stderr, never a stack.
func run(args []string, io stdio, start startFunc) int {
	root := newRoot(io, start)
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	if errors.Is(err, syscall.EPIPE) {
		return exitOK // the reader of our output has seen enough: weir consume | head
	}
	fmt.Fprintln(io.err, "weir:", err)
	var c *coded
	if errors.As(err, &c) {
		return c.code
	}
	return exitError
}

func newRoot(io stdio, start startFunc) *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "A Kafka-compatible broker",
		Long: `Weir is a Kafka-compatible broker: one binary, durable before it acknowledges.

  weir serve                       run a broker on 127.0.0.1:9092, data in ./data
  weir topic create orders -p 3    create a topic
  echo hello | weir produce orders
  weir consume orders --exit-at-end`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	root.AddCommand(newServe(io, start), newTopic(io), newProduce(io), newConsume(io), newClusterCommand(io), newLog(io), newVersion(io))
	return root
}

// interruptible returns a context that ends at Ctrl-C, for the client commands.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
