package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) pinCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "pin SLUG --reason TEXT", Short: "Keep a deployment at the commit that is live",
		Long: `Pushes to a pinned deployment are recorded and voided with the reason "pinned", until
it is unpinned. "deploy --override" runs a commit all the same; "rollback" puts an
earlier commit back and pins it.`,
		Example: `  durhack-deployer pin web --reason "the demo is tomorrow"`,
		Args:    takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				d, err := stateOf(cmd.Context(), cfg, store, args[0])
				if err != nil {
					return err
				}
				if d.Live == nil {
					return &hintedError{fmt.Errorf("nothing is live at %s, so there is no commit to pin it to", args[0]), "`" + c.command("freeze", args[0]) + "` lets pushes wait"}
				}
				return c.pin(cmd.Context(), cfg, store, newDeliveryID(time.Now()), args[0], d.Live.Commit, why)
			})
		},
	}
	reasonFlag(cmd, &why)
	return cmd
}

func (c *cli) pin(ctx context.Context, cfg *config.Config, store *daemon.Store, id, slug, commit, why string) error {
	if err := c.order(ctx, cfg, store, id, slug, eventlog.Pinned{Commit: commit, Reason: why}); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.out, "pinned: %s to %s, until durhack-deployer unpin %s\n", slug, shortCommit(commit), slug)
	return err
}

func (c *cli) unpinCommand() *cobra.Command {
	var why string
	var deploy bool
	cmd := &cobra.Command{
		Use: "unpin SLUG --reason TEXT [--deploy]", Short: "Let pushes be deployed again",
		Long: `Ends the pin of a deployment. What was voided meanwhile stays voided: --deploy deploys
the newest of it, and without it the command says which that is.`,
		Example: `  durhack-deployer unpin web --reason "the demo is over" --deploy`,
		Args:    takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.unpin(cmd.Context(), cfg, store, args[0], why, deploy)
			})
		},
	}
	cmd.Flags().BoolVar(&deploy, "deploy", false, "deploy the newest push that was voided because of the pin")
	reasonFlag(cmd, &why)
	return cmd
}

func (c *cli) unpin(ctx context.Context, cfg *config.Config, store *daemon.Store, slug, why string, deploy bool) error {
	d, err := stateOf(ctx, cfg, store, slug)
	if err != nil {
		return err
	}
	if !d.Pinned.Active(time.Now()) {
		return fmt.Errorf("%s is not pinned", slug)
	}
	missed, err := missedBy(ctx, cfg, store, slug, d.Pinned)
	if err != nil {
		return err
	}
	if err := c.order(ctx, cfg, store, newDeliveryID(time.Now()), slug, eventlog.Unpinned{Reason: why}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "unpinned: %s\n", slug)
	switch {
	case missed == nil && deploy:
		fmt.Fprintln(c.err, "note: nothing came while it was pinned, so there is nothing to deploy")
	case missed == nil:
	case !deploy:
		fmt.Fprintf(c.err, "hint: the newest push that it missed is %s, by %s: `%s`\n", shortCommit(missed.Commit), printable(missed.Actor), c.command("deploy", slug, "--ref", missed.Commit))
	default:
		id, commit, err := c.enqueueDeploy(ctx, cfg, slug, deployOrder{ref: missed.Commit})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "queued: %s at %s, delivery %s\n", slug, shortCommit(commit), id)
		c.warnOfObstacles(ctx, cfg, slug)
	}
	return nil
}

// missedBy is the newest attempt that was voided because of a pin; nil where there is none.
func missedBy(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string, pin *projections.Hold) (*projections.Attempt, error) {
	voided, err := projections.New(store.Pool, store.Log, discard()).Attempts(ctx, projections.AttemptFilter{
		Instance: cfg.Instance, Deployment: slug, Outcomes: []projections.Outcome{projections.OutcomeVoided}, Limit: 1000,
	})
	for _, a := range voided {
		if a.Reason == string(eventlog.ReasonPinned) && a.EndedPosition > pin.Position {
			return &a, err
		}
	}
	return nil, err
}
