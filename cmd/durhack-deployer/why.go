package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

func (c *cli) whyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "why DELIVERY [--json]", Short: "Tell what became of a delivery, and what decided it",
		Long: `Tells the story of one delivery: each transition with its time and what decided
it; for a failure the step, the exit code, the last lines of output and the path
of the run log. DELIVERY is the ID on GitHub's "Recent deliveries" page, or as
printed by "log" and "deploy".`,
		Args: cobra.ExactArgs(1),
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
				return tellWhy(c.out, painterFor(c.out), events)
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

// tellWhy is the answer in words: the outcome first, then how it came about.
func tellWhy(w io.Writer, p painter, events []eventlog.Event) error {
	state, err := router.Fold(events)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n\n", p.paint(bold, printable(verdict(events[0].DeliveryID, state))))
	begin := events[0].RecordedAt
	for _, e := range events {
		fmt.Fprintf(w, "%s  %8s  %s %s\n", clock(e.RecordedAt), "+"+sinceStart(e.RecordedAt.Sub(begin)),
			p.paint(typeColour(e.Type), string(e.Type)), printable(explain(e)))
		data, err := e.Decode()
		if err != nil {
			return err
		}
		if f, ok := data.(eventlog.Failed); ok {
			tellFailure(w, p, f)
		}
		if d, ok := data.(eventlog.Deployed); ok {
			tellSteps(w, d.Steps)
		}
	}
	return nil
}

// verdict is the one sentence that whoever asks wants first.
func verdict(id string, s router.DeliveryState) string {
	if len(s.Parts) == 0 {
		if s.Void != nil {
			return fmt.Sprintf("Delivery %s did not deploy: %s (%s).", id, s.Void.Detail, s.Void.Reason)
		}
		return fmt.Sprintf("Delivery %s has been received and is not decided yet.", id)
	}
	var parts []string
	for _, slug := range s.Deployments() {
		part := s.Parts[slug]
		commit := shortCommit(part.Assignment.Commit)
		switch part.Status {
		case router.StatusDeployed:
			parts = append(parts, fmt.Sprintf("deployed %s to %s", commit, slug))
		case router.StatusFailed:
			parts = append(parts, fmt.Sprintf("failed to deploy %s to %s, at step %s", commit, slug, part.Step))
		case router.StatusVoided:
			parts = append(parts, fmt.Sprintf("did not deploy %s to %s: %s", commit, slug, part.Reason))
		case router.StatusRunning:
			parts = append(parts, fmt.Sprintf("is deploying %s to %s now", commit, slug))
		default:
			parts = append(parts, fmt.Sprintf("waits to deploy %s to %s", commit, slug))
		}
	}
	return fmt.Sprintf("Delivery %s %s.", id, strings.Join(parts, "; it "))
}

// explain says what an event means and what decided it.
func explain(e eventlog.Event) string {
	data, err := e.Decode()
	if err != nil {
		return err.Error()
	}
	switch d := data.(type) {
	case eventlog.Forwarded:
		return fmt.Sprintf("to %s (attempt %d), because the rule %q matched; commit %s", e.DeploymentSlug(), e.Attempt, d.Rule, d.Commit)
	case eventlog.Started:
		return fmt.Sprintf("%s attempt %d: %s", e.DeploymentSlug(), e.Attempt, summary(e))
	case eventlog.Deployed, eventlog.Failed, eventlog.Interrupted:
		return fmt.Sprintf("%s attempt %d: %s", e.DeploymentSlug(), e.Attempt, summary(e))
	case eventlog.Voided:
		if e.Deployment != nil {
			return fmt.Sprintf("for %s, %s", e.DeploymentSlug(), summary(e))
		}
	}
	return summary(e)
}

func tellSteps(w io.Writer, steps []eventlog.Step) {
	for _, s := range steps {
		fmt.Fprintf(w, "    %-9s %8s  %s\n", s.Result, millis(s.DurationMS), printable(s.Name))
	}
}

func tellFailure(w io.Writer, p painter, f eventlog.Failed) {
	tellSteps(w, f.Steps)
	switch {
	case f.ExitCode != nil:
		fmt.Fprintf(w, "    step %s exited with code %d\n", printable(f.Step), *f.ExitCode)
	case f.Signal != "":
		fmt.Fprintf(w, "    step %s was ended by %s\n", printable(f.Step), printable(f.Signal))
	}
	if f.OutputTail != "" {
		fmt.Fprintf(w, "    the last lines of its output:\n")
		for _, line := range strings.Split(strings.TrimRight(f.OutputTail, "\n"), "\n") {
			fmt.Fprintf(w, "    %s %s\n", p.paint(grey, "|"), printableLines(line))
		}
	}
	if f.RunLog != "" {
		fmt.Fprintf(w, "    run log: %s\n", printable(f.RunLog))
	}
}

func sinceStart(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
