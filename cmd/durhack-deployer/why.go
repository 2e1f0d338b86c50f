package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) whyCommand() *cobra.Command {
	var asJSON bool
	var slug string
	cmd := &cobra.Command{
		Use: "why (DELIVERY | COMMIT | --deployment SLUG) [--json]", Short: "Tell what became of a delivery or a commit, or why a deployment is as it is",
		Long: `Tells the story of one delivery: what became of it, each transition with its
time and what decided it, and what can be done next; for a failure the step, the
exit code, the last lines of output and the path of the run log. DELIVERY is the
ID on GitHub's "Recent deliveries" page, or as printed by "log" and "deploy".
With --json it prints the delivery's events.

Of a COMMIT it lists every delivery that carried it, the newest first, and says
where the commit is live. The first six characters of either are enough where
they are of no other.

Of a deployment it says what is live, since when, by whom and through which
delivery; then what came after that, and why it is not what is live.`,
		Example: `  durhack-deployer why 72d3162e-cc78-11e3-81ab-4c9367dc0958
  durhack-deployer why 3f1c2a9be7d0
  durhack-deployer why --deployment web`,
		ValidArgsFunction: completeNothing,
		Args: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("deployment") {
				return takes("DELIVERY")(cmd, args)
			}
			if len(args) > 0 {
				return usagef("why: name a delivery, a commit or a --deployment: one of them")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				if len(args) == 0 {
					return c.whyDeployment(cmd.Context(), cfg, store, slug, asJSON)
				}
				return c.why(cmd.Context(), cfg, store, args[0], asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&slug, "deployment", "", "why is at this deployment `SLUG` what is, and not something newer?")
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	jsonFlag(cmd, &asJSON)
	return cmd
}

// why answers for a delivery, or else for a commit.
func (c *cli) why(ctx context.Context, cfg *config.Config, store *daemon.Store, what string, asJSON bool) error {
	carried, err := carrying(ctx, cfg, store, what)
	if err != nil {
		return err
	}
	id, err := deliveryID(ctx, cfg, store, what)
	if unknown, ok := errors.AsType[*unknownDeliveryError](err); ok && !unknown.unrouted && maybeCommit(what) {
		if len(carried) > 0 {
			return c.whyCommit(ctx, cfg, store, carried, asJSON)
		}
		return &hintedError{fmt.Errorf("%w, and no delivery that carried such a commit", err), hint(err)}
	}
	if err != nil {
		return err
	}
	if id != what && len(carried) > 0 {
		lines := []string{"delivery " + id}
		for _, e := range carried {
			lines = append(lines, summary(e))
		}
		return ambiguous(what, lines)
	}
	events, err := deliveryEvents(ctx, cfg, store, id)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSONLines(c.out, events)
	}
	state, err := router.Fold(events)
	if err != nil {
		return err
	}
	known, err := deployments(ctx, cfg, store, moment{})
	if err != nil {
		return err
	}
	a := answer{w: c.out, p: painterFor(c.out), id: id, state: state, known: known, held: heldElse(ctx, cfg, known), command: c.command,
		configured: func(slug string) bool { return cfg.Deployments[slug] != nil },
		obstacle:   func(slug string) string { return daemon.Obstacle(ctx, cfg, slug) }}
	return a.tell(events)
}

// heldElse looks at the paths that do not hold what was deployed last.
func heldElse(ctx context.Context, cfg *config.Config, known map[string]projections.Deployment) map[string]*check.Held {
	held := map[string]*check.Held{}
	for slug, d := range cfg.Deployments {
		if h := check.HeldElse(ctx, cfg, d, known[slug]); h != nil {
			held[slug] = h
		}
	}
	return held
}

// live says, of a commit that was deployed, whether it still is what is live.
func (a answer) live(slug string, part router.Part) string {
	d, ok := a.known[slug]
	if h := a.held[slug]; h != nil {
		return fmt.Sprintf("; %s; %s", h, newStatusRow(&config.Deployment{}, d).lastDeployed(func(id string) string { return id }))
	}
	if !ok || d.Live == nil {
		return ""
	}
	if d.Live.DeliveryID == a.id && d.Live.Attempt == part.Attempt {
		return ", which is what is live now"
	}
	if d.Live.Commit == part.Assignment.Commit {
		return fmt.Sprintf(", which is live now, by delivery %s", d.Live.DeliveryID)
	}
	return fmt.Sprintf("; live now is %s, by delivery %s", shortCommit(d.Live.Commit), d.Live.DeliveryID)
}

// ahead counts, of a part that waits, what the deployment has to do.
func (a answer) ahead(slug string) string {
	d := a.known[slug]
	switch {
	case a.configured != nil && !a.configured(slug):
		return ", which is not in the configuration, so that nobody deploys it"
	case d.Running != nil && d.Running.DeliveryID != a.id:
		return fmt.Sprintf(", which is busy with %s of delivery %s", shortCommit(d.Running.Commit), d.Running.DeliveryID)
	case a.obstacle != nil && a.obstacle(slug) != "":
		return ", which does not begin: " + a.obstacle(slug)
	case d.Status == projections.StatusNever:
		return ""
	case d.Pending > 1:
		return fmt.Sprintf(", where %d deliveries wait", d.Pending)
	}
	return ""
}
