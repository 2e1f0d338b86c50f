package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) rollbackCommand() *cobra.Command {
	var to, why string
	var wait bool
	cmd := &cobra.Command{
		Use: "rollback SLUG [--to COMMIT|DELIVERY] --reason TEXT [--wait]", Short: "Put back what was live before, and pin it",
		Long: `Pins the deployment to the commit that was live before the present one, and deploys
that commit; where the newest run has failed, the commit that was live until then.
Going back once more goes further back, and not to what was gone back from.
--to names another that was live once, by its hash or by the delivery that put it
there. Pushes are voided from then on, until "unpin". A freeze does not hold it up.`,
		Example: `  durhack-deployer rollback web --reason "checkout is broken" --wait
  durhack-deployer rollback web --to 3f1c2a9 --reason "the last good one"`,
		Args: takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.rollback(cmd.Context(), cfg, store, args[0], to, why, wait)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "what to put back: a `COMMIT` that was live once, or the delivery that put it there; a unique beginning will do")
	cmd.Flags().BoolVar(&wait, "wait", false, "print the story until it ends; exit 1 unless it went live")
	reasonFlag(cmd, &why)
	return cmd
}

func (c *cli) rollback(ctx context.Context, cfg *config.Config, store *daemon.Store, slug, to, why string, wait bool) error {
	r, err := c.person(cfg, store).Rollback(ctx, "", slug, to, why)
	if r.Pinned {
		err = cmp.Or(err, c.tellPinned(slug, r.Commit))
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "queued: %s at %s, delivery %s\n", slug, words.ShortCommit(r.Commit), r.DeliveryID)
	if wait {
		return c.awaitLive(ctx, cfg, store, r.DeliveryID, 0, false)
	}
	c.warnOfObstacles(ctx, cfg, slug)
	return nil
}
