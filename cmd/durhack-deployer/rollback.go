package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) rollbackCommand() *cobra.Command {
	var to, why string
	var wait bool
	cmd := &cobra.Command{
		Use: "rollback SLUG [--to COMMIT|DELIVERY] --reason TEXT [--wait]", Short: "Put back what was live before, and pin it",
		Long: `Pins the deployment to the commit that was live before the present one, and deploys
that commit; where the newest run has failed, the commit that was live until then.
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
	if _, err := enabled(cfg, slug); err != nil {
		return err // before the pin, which would stay
	}
	d, err := stateOf(ctx, cfg, store, slug)
	if err != nil {
		return err
	}
	commit, err := c.wasLive(ctx, cfg, store, d, slug, to)
	if err != nil {
		return err
	}
	// The pin comes first: nothing that is pushed in between may go over it.
	id := newDeliveryID(time.Now())
	if err := c.pin(ctx, cfg, store, id, slug, commit, why); err != nil {
		return err
	}
	if _, _, err := c.enqueueDeploy(ctx, cfg, slug, deployOrder{id: id, ref: commit, override: true, reason: why}); err != nil {
		return &hintedError{err, fmt.Sprintf("%s is pinned already: run rollback again, or unpin it", slug)}
	}
	fmt.Fprintf(c.out, "queued: %s at %s, delivery %s\n", slug, shortCommit(commit), id)
	if wait {
		return c.awaitLive(ctx, cfg, store, id, 0, false)
	}
	c.warnOfObstacles(ctx, cfg, slug)
	return nil
}

// wasLive is the commit to go back to.
func (c *cli) wasLive(ctx context.Context, cfg *config.Config, store *daemon.Store, d projections.Deployment, slug, to string) (string, error) {
	if d.Live == nil {
		return "", fmt.Errorf("nothing was ever live at %s, so there is nothing to go back to", slug)
	}
	if to == "" && d.Failure != nil {
		return d.Live.Commit, nil
	}
	runs, err := projections.New(store.Pool, store.Log, discard()).Attempts(ctx, projections.AttemptFilter{
		Instance: cfg.Instance, Deployment: slug, Outcomes: []projections.Outcome{projections.OutcomeDeployed},
	})
	if err != nil {
		return "", err
	}
	var found []string
	for _, a := range runs { // the newest first
		switch {
		case to == "" && a.EndedPosition < d.Live.Position && a.Commit != d.Live.Commit:
			return a.Commit, nil
		case to != "" && (strings.HasPrefix(a.Commit, strings.ToLower(to)) || strings.HasPrefix(a.DeliveryID, to)):
			if len(found) == 0 || found[len(found)-1] != a.Commit {
				found = append(found, a.Commit)
			}
		}
	}
	history := "`" + c.command("history", slug) + "` lists what was"
	switch {
	case to == "":
		return "", &hintedError{fmt.Errorf("nothing else was live at %s before %s", slug, shortCommit(d.Live.Commit)), history}
	case len(found) == 0:
		return "", &hintedError{fmt.Errorf("%q was never live at %s", to, slug), history + "; deploy --ref deploys any commit"}
	case len(found) > 1:
		return "", usagef("--to %q is the beginning of several that were live: %s", to, strings.Join(found, ", "))
	}
	return found[0], nil
}
