package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) whyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "why DELIVERY [--json]", Short: "Tell what became of a delivery, and what decided it",
		Long: `Tells the story of one delivery: what became of it, each transition with its
time and what decided it, and what can be done next; for a failure the step, the
exit code, the last lines of output and the path of the run log. DELIVERY is the
ID on GitHub's "Recent deliveries" page, or as printed by "log" and "deploy".
With --json it prints the delivery's events.`,
		Example: `  durhack-deployer why 72d3162e-cc78-11e3-81ab-4c9367dc0958`,
		Args:    takes("DELIVERY"), ValidArgsFunction: completeNothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				events, err := deliveryEvents(cmd.Context(), cfg, store, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					for _, e := range events {
						if err := writeJSON(c.out, e); err != nil {
							return err
						}
					}
					return nil
				}
				state, err := router.Fold(events)
				if err != nil {
					return err
				}
				known, err := deployments(cmd.Context(), cfg, store, time.Time{})
				if err != nil {
					return err
				}
				a := answer{w: c.out, p: painterFor(c.out), id: args[0], state: state, known: known, command: c.command}
				return a.tell(events)
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// deliveryEvents reads one delivery's events, or says where else to look.
func deliveryEvents(ctx context.Context, cfg *config.Config, store *daemon.Store, id string) ([]eventlog.Event, error) {
	var events []eventlog.Event
	for e, err := range store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, DeliveryID: id}) {
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	if len(events) > 0 {
		return events, nil
	}
	unknown := fmt.Errorf("the log of instance %q knows no delivery %q", cfg.Instance, id)
	entries, err := queueEntries(cfg, config.MainQueue)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.DeliveryID != id {
			continue
		}
		if e.Reason != "" {
			return nil, &hintedError{unknown, "it is in quarantine: " + e.Reason}
		}
		return nil, &hintedError{unknown, "it waits in the main queue to be routed: is `durhack-deployer work` or `serve` running?"}
	}
	return nil, &hintedError{unknown, "`durhack-deployer log --type received` lists the deliveries; one that never came is on GitHub's \"Recent deliveries\" page"}
}

// live says, of a commit that was deployed, whether it still is what is live.
func (a answer) live(slug string, part router.Part) string {
	d, ok := a.known[slug]
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
	case d.Running != nil && d.Running.DeliveryID != a.id:
		return fmt.Sprintf(", which is busy with %s of delivery %s", shortCommit(d.Running.Commit), d.Running.DeliveryID)
	case d.Status == projections.StatusNever:
		return ""
	case d.Pending > 1:
		return fmt.Sprintf(", where %d deliveries wait", d.Pending)
	}
	return ""
}
