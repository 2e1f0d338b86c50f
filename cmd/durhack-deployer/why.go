package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) whyCommand() *cobra.Command {
	var asJSON bool
	var slug string
	cmd := &cobra.Command{
		Use: "why (DELIVERY | COMMIT | --deployment SLUG) [--json]", Short: "Explain what became of a delivery or a commit, or why a deployment is as it is",
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
	cmd.Flags().StringVar(&slug, "deployment", "", "why this deployment `SLUG` has what it has, and nothing newer")
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	jsonFlag(cmd, &asJSON)
	return cmd
}

// why answers for a delivery, or else for a commit.
func (c *cli) why(ctx context.Context, cfg *config.Config, store *daemon.Store, what string, asJSON bool) error {
	answers := daemon.Answers(cfg, store)
	id, carried, err := answers.Meant(ctx, what)
	switch {
	case err != nil:
		return err
	case len(carried) > 0:
		rows, known, err := answers.Commit(ctx, carried)
		switch {
		case err != nil:
			return err
		case asJSON:
			return writeJSONLines(c.out, rows)
		}
		return c.tellCommit(rows, known)
	case asJSON:
		events, err := answers.Delivery(ctx, id)
		if err != nil {
			return err
		}
		return writeJSONLines(c.out, events)
	}
	story, err := answers.Why(ctx, id)
	if err != nil {
		return err
	}
	return explanation{c.out, painterFor(c.out)}.tell(story, c.command)
}

// whyDeployment answers for a deployment.
func (c *cli) whyDeployment(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string, asJSON bool) error {
	story, err := daemon.Answers(cfg, store).WhyDeployment(ctx, slug)
	switch {
	case err != nil:
		return err
	case asJSON:
		return writeJSON(c.out, story)
	}
	return c.tellDeployment(story, cfg.Deployments[slug].Enabled)
}

// explanation is where `why` tells of a delivery.
type explanation struct {
	w io.Writer
	p painter
}

// indent is the column where the story's words begin.
var indent = strings.Repeat(" ", len(words.ClockLayout+"    +0.00s  interrupted  "))

// maxTold bounds, in characters, one event's words.
const maxTold = 2000

func (a explanation) tell(story *answer.Story, command func(args ...string) string) error {
	if _, err := fmt.Fprintf(a.w, "%s\n\n", a.p.paint(bold, printable(story.Verdict()))); err != nil {
		return err
	}
	begin := story.Events[0].RecordedAt
	for _, e := range story.Events {
		data, err := e.Decode()
		if err != nil {
			return err
		}
		fmt.Fprintf(a.w, "%s  %8s  %s  %s\n", words.Clock(e.RecordedAt), "+"+sinceStart(e.RecordedAt.Sub(begin)),
			a.p.paint(typeColour(e.Type), pad(printable(string(e.Type)), typeWidth)), words.Shorten(printable(answer.Explain(e, data)), maxTold))
		switch d := data.(type) {
		case eventlog.Deployed:
			a.steps(d.Steps)
			a.runLog(d.RunLog)
		case eventlog.Failed:
			a.steps(d.Steps)
			if d.Step != "" { // a run that a killed daemon left does not say
				a.output(d.OutputTail)
			}
			a.runLog(d.RunLog)
		}
	}
	next := story.Next(command)
	if len(next) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(a.w, "\n%s\n", printableLines(strings.Join(next, "\n")))
	return err
}

func (a explanation) steps(steps []eventlog.Step) {
	width := 0
	for _, s := range steps {
		width = max(width, columns(printable(s.Name)))
	}
	for _, s := range steps {
		c := colour("")
		if s.Result != "ok" {
			c = red
		}
		fmt.Fprintf(a.w, "%s%s  %s  %8s\n", indent, pad(printable(s.Name), width), a.p.paint(c, pad(printable(s.Result), len("canceled"))), words.Millis(s.DurationMS))
	}
}

func (a explanation) output(tail string) {
	if strings.TrimSpace(tail) == "" {
		fmt.Fprintf(a.w, "%sit printed nothing\n", indent)
		return
	}
	fmt.Fprintf(a.w, "%sthe last lines of the output:\n", indent)
	for _, line := range strings.Split(strings.TrimRight(tail, "\r\n"), "\n") {
		fmt.Fprintf(a.w, "%s%s %s\n", indent, a.p.paint(grey, "|"), printableLines(line))
	}
}

func (a explanation) runLog(path string) {
	if path != "" {
		fmt.Fprintf(a.w, "%srun log: %s\n", indent, printable(path))
	}
}

func sinceStart(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
