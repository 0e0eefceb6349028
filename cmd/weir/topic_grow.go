package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

func newTopicGrow(io stdio, c *cluster) *cobra.Command {
	var partitions int
	var dryRun bool
	cmd := &cobra.Command{
		Use: "grow NAME...", Short: "Give topics more partitions",
		Long: `Give topics more partitions. They can never have fewer again. Records with keys that come later may go to another partition than
those before them, so what counts on the order of a key's records should be read to the end first.`,
		Example: "  weir topic grow orders --partitions 12",
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().IntVarP(&partitions, "partitions", "p", 0, "how many partitions the topics shall have")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only check whether it can be done")
	_ = cmd.MarkFlagRequired("partitions") // there is one of this name
	cmd.RunE = func(_ *cobra.Command, names []string) error {
		return c.admin(func(ctx context.Context, admin *kadm.Client) error {
			if _, err := existing(ctx, admin, names...); err != nil {
				return err
			}
			update, done := admin.UpdatePartitions, "%s has %d partitions\n"
			if dryRun {
				update, done = admin.ValidateUpdatePartitions, "%s can have %d partitions\n"
			}
			grown, err := update(ctx, partitions, names...)
			if err != nil {
				return fmt.Errorf("grow topics: %w", err)
			}
			var failed error
			for _, t := range grown.Sorted() {
				if t.Err != nil {
					failed = errors.Join(failed, explained("grow topic", t.Topic, t.Err, t.ErrMessage))
					continue
				}
				if _, err := fmt.Fprintf(io.out, done, t.Topic, partitions); err != nil {
					return err
				}
			}
			return failed
		})
	}
	return cmd
}
