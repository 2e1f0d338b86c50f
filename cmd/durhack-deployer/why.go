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
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
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
	carried, err := daemon.Answers(cfg, store).Carrying(ctx, what)
	if err != nil {
		return err
	}
	id, err := daemon.Answers(cfg, store).DeliveryID(ctx, what)
	if unknown, ok := answer.IsUnknownDelivery(err); ok && unknown.Unrouted == nil && answer.MaybeCommit(what) {
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
			lines = append(lines, answer.Summary(e))
		}
		return answer.AmbiguousError(what, lines)
	}
	events, err := daemon.Answers(cfg, store).Delivery(ctx, id)
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
	known, err := daemon.Answers(cfg, store).Deployments(ctx, answer.Moment{})
	if err != nil {
		return err
	}
	a := explanation{w: c.out, p: painterFor(c.out), id: id, state: state, known: known, held: daemon.Answers(cfg, store).Held(ctx, known), command: c.command,
		configured: func(slug string) bool { return cfg.Deployments[slug] != nil },
		obstacle:   func(slug string) string { return daemon.Obstacle(ctx, cfg, slug) }}
	return a.tell(events)
}

// live says, of a commit that was deployed, whether it still is what is live.
func (a explanation) live(slug string, part router.Part) string {
	d, ok := a.known[slug]
	if h := a.held[slug]; h != nil {
		return fmt.Sprintf("; %s; %s", h, answer.NewStatusRow(&config.Deployment{}, d, time.Now()).LastDeployed(func(id string) string { return id }))
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
func (a explanation) ahead(slug string) string {
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

// explanation is what `why` says about one delivery: the outcome first, then how it
// came about, then what can be done.
type explanation struct {
	w     io.Writer
	p     painter
	id    string
	state router.DeliveryState
	// known are the deployments as they are now, by slug.
	known map[string]projections.Deployment
	// held is what the paths hold that do not hold what was deployed last.
	held map[string]*answer.Held
	// configured says whether a deployment is; nil where all are.
	configured func(slug string) bool
	// obstacle says what keeps a deployment from beginning; nil where nobody knows.
	obstacle func(slug string) string
	// command makes a call of this program that can be copied.
	command func(args ...string) string
}

// indent is the column where the story's words begin.
var indent = strings.Repeat(" ", len(words.ClockLayout+"    +0.00s  interrupted  "))

// maxTold bounds, in characters, one event's words.
const maxTold = 2000

func (a explanation) tell(events []eventlog.Event) error {
	if _, err := fmt.Fprintf(a.w, "%s\n\n", a.p.paint(bold, printable(a.verdict()))); err != nil {
		return err
	}
	begin := events[0].RecordedAt
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return err
		}
		fmt.Fprintf(a.w, "%s  %8s  %s  %s\n", clock(e.RecordedAt), "+"+sinceStart(e.RecordedAt.Sub(begin)),
			a.p.paint(typeColour(e.Type), pad(printable(string(e.Type)), typeWidth)), shorten(printable(explain(e, data)), maxTold))
		switch d := data.(type) {
		case eventlog.Deployed:
			a.steps(d.Steps)
			a.runLog(d.RunLog)
		case eventlog.Failed:
			a.steps(d.Steps)
			a.output(d.OutputTail)
			a.runLog(d.RunLog)
		}
	}
	return a.next()
}

// verdict is the one sentence that anyone who asks wants first.
func (a explanation) verdict() string {
	s := a.state
	if len(s.Parts) == 0 {
		if s.Void != nil {
			return fmt.Sprintf("Delivery %s did not deploy (%s): %s.", a.id, s.Void.Reason, strings.TrimSuffix(s.Void.Detail, "."))
		}
		return fmt.Sprintf("Delivery %s has been received and is not decided yet.", a.id)
	}
	var parts []string
	for _, slug := range s.Deployments() {
		part := s.Parts[slug]
		commit := shortCommit(part.Assignment.Commit)
		switch part.Status {
		case router.StatusDeployed:
			parts = append(parts, fmt.Sprintf("deployed %s to %s%s", commit, slug, a.live(slug, part)))
		case router.StatusFailed:
			parts = append(parts, fmt.Sprintf("failed to deploy %s to %s, at step %s%s", commit, slug, part.Step, a.live(slug, part)))
		case router.StatusVoided:
			parts = append(parts, fmt.Sprintf("did not deploy %s to %s (%s)%s", commit, slug, part.Reason, a.live(slug, part)))
		case router.StatusRunning:
			parts = append(parts, fmt.Sprintf("is deploying %s to %s now", commit, slug))
		default:
			parts = append(parts, fmt.Sprintf("waits to deploy %s to %s%s", commit, slug, a.ahead(slug)))
		}
	}
	return fmt.Sprintf("Delivery %s %s.", a.id, strings.Join(parts, "; it "))
}

// explain says what an event means and what decided it.
func explain(e eventlog.Event, data eventlog.Data) string {
	where := e.DeploymentSlug()
	if e.Attempt > 1 {
		where += fmt.Sprintf(", attempt %d", e.Attempt)
	}
	switch d := data.(type) {
	case eventlog.Received:
		s := answer.Summary(e)
		if d.Source == eventlog.SourceGitHub {
			s += ", from GitHub"
		}
		return s
	case eventlog.Forwarded:
		s := fmt.Sprintf("to %s, because %s; commit %s", where, d.Rule, d.Commit)
		if d.Forced {
			s += ", named by hand, so it may be older than what is live"
		}
		return s
	case eventlog.Replayed:
		return fmt.Sprintf("%s, as attempt %d", answer.Summary(e), e.Attempt)
	}
	if where == "" || e.Deployment == nil {
		return answer.Summary(e)
	}
	return where + ": " + answer.Summary(e)
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

// next says what can be done: nothing where all is well.
func (a explanation) next() error {
	var lines []string
	replay := a.command("replay", a.id, "--reason", "...")
	if a.state.Redacted != nil { // nothing is left to replay, but the commit can be deployed
		replay = a.command("deploy", "SLUG", "--ref", "COMMIT")
	}
	waits := false
	var failed, voided []router.Part
	for _, slug := range a.state.Deployments() {
		part := a.state.Parts[slug]
		switch part.Status {
		case router.StatusFailed:
			failed = append(failed, part)
		case router.StatusVoided:
			voided = append(voided, part)
		case router.StatusRunning:
			lines = append(lines, "Watch it:            "+a.command("logs", a.id, "--deployment", slug, "--follow"))
		case router.StatusWaiting:
			waits = true
		}
	}
	switch {
	case len(failed) > 0:
		lines = append(lines, "Once that is fixed: "+replay)
	case waits:
		lines = append(lines, "See what waits:      "+a.command("queue", "list"))
	case a.state.Void != nil && len(a.state.Parts) == 0 && fixable(a.state.Void.Reason):
		lines = append(lines, "Once that is fixed: "+replay)
	}
	for _, part := range voided {
		slug, commit := part.Assignment.Deployment, part.Assignment.Commit
		if part.Reason == eventlog.ReasonStale || part.Reason == eventlog.ReasonSuperseded {
			lines = append(lines, "To run it anyway: "+a.command("deploy", slug, "--ref", commit))
		} else if fixable(part.Reason) {
			lines = append(lines, "Once that is fixed: "+replay)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(a.w, "\n%s\n", printableLines(strings.Join(lines, "\n")))
	return err
}

// fixable says whether another configuration would have decided otherwise.
func fixable(r eventlog.Reason) bool {
	return r == eventlog.ReasonNoDeployment || r == eventlog.ReasonDeploymentDisabled || r == eventlog.ReasonFrozen
}

func sinceStart(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
