package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) cancelCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "cancel SLUG [--reason TEXT]", Short: "End the run of a deployment that is going on",
		Long: `Records that the run is canceled, by whom and why; the daemon then ends its programs
and records it as failed. The deployment's other pushes go on. What waits is not
canceled: "freeze" and "pin" hold it.`,
		Example: `  durhack-deployer cancel web --reason "the wrong branch"`,
		Args:    takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := act.Reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.cancel(cmd.Context(), cfg, store, args[0], why)
			})
		},
	}
	cmd.Flags().StringVar(&why, "reason", "", "why, for the log: `TEXT`")
	return cmd
}

func (c *cli) cancel(ctx context.Context, cfg *config.Config, store *daemon.Store, slug, why string) error {
	run, err := c.person(cfg, store).Cancel(ctx, slug, why, act.Run{})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "canceled: %s at %s, delivery %s, attempt %d\n", slug, words.ShortCommit(run.Commit), printable(run.DeliveryID), run.Attempt)
	return err
}
