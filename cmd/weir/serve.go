package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weir/internal/config"
)

func newServe(io stdio, start startFunc) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker",
		Long: `Run a broker in the foreground until SIGTERM or SIGINT; a second signal ends it at once.

Every flag is also a key of the configuration file and a variable: --data-dir, data-dir, WEIR_DATA_DIR. A flag wins over a
variable, a variable over the file. All keys: docs/configuration.md.

When the broker can serve it prints one line that begins with "ready" to stdout; logs go to stderr.
Exit codes: 0 ended by a signal, 1 could not start, 70 the disk stalled or failed (restart it).`,
		Args: cobra.NoArgs,
	}
	file := cmd.Flags().String("config", os.Getenv("WEIR_CONFIG"), "configuration file (YAML)")
	for _, key := range config.FlagKeys() {
		def, _ := config.BrokerDef(key)
		usage := def.Doc
		if def.Default != "" {
			usage += fmt.Sprintf(" (default %s)", def.Default)
		}
		// Defaults stay with the configuration: a flag that was not given must not win over the file.
		cmd.Flags().String(config.FlagName(key), "", usage)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(config.Sources{File: *file, Env: os.Environ(), Flags: givenFlags(cmd.Flags())})
		if err != nil {
			return err
		}
		signals, stop := notifySignals()
		defer stop()
		s := &serving{cfg: cfg, io: io, start: start, signals: signals, exit: os.Exit}
		return s.run(context.Background())
	}
	return cmd
}

// givenFlags returns the flags on the command line by their keys.
func givenFlags(flags *pflag.FlagSet) map[string]string {
	given := map[string]string{}
	for _, key := range config.FlagKeys() {
		if f := flags.Lookup(config.FlagName(key)); f.Changed {
			given[key] = f.Value.String()
		}
	}
	return given
}
