package answer

import (
	"fmt"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// MaxSummary bounds, in characters, what a line says of an event.
const MaxSummary = 400

// Summary is an event in a line: what happened, without where and when.
func Summary(e eventlog.Event) string {
	data, err := e.Decode()
	if err != nil {
		return err.Error()
	}
	switch d := data.(type) {
	case eventlog.Received:
		return received(d, e.Actor)
	case eventlog.Redelivered:
		return d.Action + ": " + d.Detail
	case eventlog.Forwarded:
		return fmt.Sprintf("commit %s, by the rule %s", words.ShortCommit(d.Commit), d.Rule)
	case eventlog.Voided:
		return fmt.Sprintf("%s: %s", d.Reason, d.Detail)
	case eventlog.Started:
		return fmt.Sprintf("commit %s%s, on %s: %s", words.ShortCommit(d.Commit), replacing(d), d.Host, strings.Join(d.Plan, ", "))
	case eventlog.Deployed:
		return fmt.Sprintf("commit %s is live, after %s", words.ShortCommit(d.Commit), words.Millis(d.DurationMS))
	case eventlog.Failed:
		return failureText(d)
	case eventlog.Interrupted:
		if d.Then == "retry" {
			return d.Detail + "; it is tried again"
		}
		return d.Detail + "; it is counted as failed"
	case eventlog.Replayed:
		return fmt.Sprintf("by %s, for %s: %s", e.Actor, Slugs(d.Deployments), d.Reason)
	case eventlog.Redacted:
		return fmt.Sprintf("its body was deleted by %s: %s", e.Actor, d.Reason)
	case eventlog.Pinned:
		return fmt.Sprintf("to commit %s, by %s: %s", words.ShortCommit(d.Commit), e.Actor, d.Reason)
	case eventlog.Unpinned:
		return fmt.Sprintf("by %s: %s", e.Actor, d.Reason)
	case eventlog.Frozen:
		if !d.Until.IsZero() {
			return fmt.Sprintf("%s, until %s, by %s: %s", WhichOf(e.DeploymentSlug()), words.Clock(d.Until), e.Actor, d.Reason)
		}
		return fmt.Sprintf("%s, by %s: %s", WhichOf(e.DeploymentSlug()), e.Actor, d.Reason)
	case eventlog.Thawed:
		return fmt.Sprintf("%s, by %s: %s", WhichOf(e.DeploymentSlug()), e.Actor, d.Reason)
	case eventlog.Canceled:
		return strings.TrimPrefix(words.Canceled(e.Actor, d.Reason), "canceled ")
	}
	return ""
}

func received(d eventlog.Received, actor string) string {
	s := d.Event
	if d.Source == eventlog.SourceCLI {
		s = "deploy by hand"
	}
	if d.Repository != "" {
		s += " of " + d.Repository
	}
	if d.Ref != "" {
		s += " " + strings.TrimPrefix(d.Ref, "refs/heads/")
	}
	if d.Commit != "" {
		s += ", commit " + words.ShortCommit(d.Commit)
	}
	return s + ", by " + actor
}

// cameBy says how a delivery came in, where that is worth a word.
func cameBy(d eventlog.Received) string {
	switch {
	case d.Source == eventlog.SourceGitHub:
		return ", from GitHub"
	case d.Source == eventlog.SourceRecovery && d.HookID != "":
		return ", from GitHub: GitHub could not deliver it, and was asked to send it again"
	case d.Source == eventlog.SourceRecovery:
		return ": GitHub did not deliver this push; the branch's tip was found by asking the remote"
	}
	return ""
}

func replacing(d eventlog.Started) string {
	switch d.PreviousCommit {
	case "":
		return ", the first"
	case d.Commit:
		return " again"
	}
	return ", in place of " + words.ShortCommit(d.PreviousCommit)
}

// failureText says at which step and how; the error itself mostly begins with
// both, and is then enough.
func failureText(d eventlog.Failed) string {
	if d.Step == "" || strings.Contains(d.Error, fmt.Sprintf("step %q", d.Step)) {
		return d.Error
	}
	return fmt.Sprintf("step %q: %s", d.Step, d.Error)
}

// Slugs names the deployments of assignments.
func Slugs(assignments []eventlog.Assignment) string {
	var names []string
	for _, a := range assignments {
		names = append(names, a.Deployment)
	}
	return strings.Join(names, ", ")
}

// WhichOf names a deployment, or all of them.
func WhichOf(slug string) string {
	if slug == "" || slug == projections.All {
		return "all deployments"
	}
	return slug
}
