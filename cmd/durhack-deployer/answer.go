package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// answer is what `why` says about one delivery: the outcome first, then how it
// came about, then what can be done.
type answer struct {
	w     io.Writer
	p     painter
	id    string
	state router.DeliveryState
	// known are the deployments as they are now, by slug.
	known map[string]projections.Deployment
	// held is what the paths hold that do not hold what was deployed last.
	held map[string]*check.Held
	// configured says whether a deployment is; nil where all are.
	configured func(slug string) bool
	// obstacle says what keeps a deployment from beginning; nil where nobody knows.
	obstacle func(slug string) string
	// command makes a call of this program that can be copied.
	command func(args ...string) string
}

// indent is the column where the story's words begin.
var indent = strings.Repeat(" ", len(clockLayout+"    +0.00s  interrupted  "))

// maxTold bounds, in characters, one event's words.
const maxTold = 2000

func (a answer) tell(events []eventlog.Event) error {
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

// verdict is the one sentence that whoever asks wants first.
func (a answer) verdict() string {
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
		s := summary(e)
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
		return fmt.Sprintf("%s, as attempt %d", summary(e), e.Attempt)
	}
	if where == "" || e.Deployment == nil {
		return summary(e)
	}
	return where + ": " + summary(e)
}

func (a answer) steps(steps []eventlog.Step) {
	width := 0
	for _, s := range steps {
		width = max(width, columns(printable(s.Name)))
	}
	for _, s := range steps {
		c := colour("")
		if s.Result != "ok" {
			c = red
		}
		fmt.Fprintf(a.w, "%s%s  %s  %8s\n", indent, pad(printable(s.Name), width), a.p.paint(c, pad(printable(s.Result), len("canceled"))), millis(s.DurationMS))
	}
}

func (a answer) output(tail string) {
	if strings.TrimSpace(tail) == "" {
		fmt.Fprintf(a.w, "%sit printed nothing\n", indent)
		return
	}
	fmt.Fprintf(a.w, "%sthe last lines of the output:\n", indent)
	for _, line := range strings.Split(strings.TrimRight(tail, "\r\n"), "\n") {
		fmt.Fprintf(a.w, "%s%s %s\n", indent, a.p.paint(grey, "|"), printableLines(line))
	}
}

func (a answer) runLog(path string) {
	if path != "" {
		fmt.Fprintf(a.w, "%srun log: %s\n", indent, printable(path))
	}
}

// next says what can be done: nothing where all is well.
func (a answer) next() error {
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
		lines = append(lines, "Once that is mended: "+replay)
	case waits:
		lines = append(lines, "See what waits:      "+a.command("queue", "list"))
	case a.state.Void != nil && len(a.state.Parts) == 0 && mendable(a.state.Void.Reason):
		lines = append(lines, "Once that is mended: "+replay)
	}
	for _, part := range voided {
		slug, commit := part.Assignment.Deployment, part.Assignment.Commit
		if part.Reason == eventlog.ReasonStale || part.Reason == eventlog.ReasonSuperseded {
			lines = append(lines, "To run it all the same: "+a.command("deploy", slug, "--ref", commit))
		} else if mendable(part.Reason) {
			lines = append(lines, "Once that is mended: "+replay)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(a.w, "\n%s\n", printableLines(strings.Join(lines, "\n")))
	return err
}

// mendable says whether another configuration would have decided otherwise.
func mendable(r eventlog.Reason) bool {
	return r == eventlog.ReasonNoDeployment || r == eventlog.ReasonDeploymentDisabled || r == eventlog.ReasonFrozen
}

func sinceStart(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
