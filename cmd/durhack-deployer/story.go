package main

import (
	"fmt"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// typeColour is the colour of an event type on a terminal.
func typeColour(t eventlog.Type) colour {
	switch t {
	case eventlog.TypeDeployed:
		return green
	case eventlog.TypeFailed:
		return red
	case eventlog.TypeInterrupted, eventlog.TypeVoided, eventlog.TypeRedacted, eventlog.TypePinned, eventlog.TypeFrozen, eventlog.TypeCanceled:
		return yellow
	case eventlog.TypeStarted:
		return blue
	}
	return grey
}

const (
	typeWidth = len(eventlog.TypeInterrupted) // the longest
	// maxSummary bounds, in characters, what a line of the story says of an
	// event; `why` and --json tell all of it.
	maxSummary = 400
	// maxName bounds a delivery ID (64 characters at the listener), a slug and a
	// type, which a log that was imported or written by hand may hold longer.
	maxName = 80
	// maxSlugWidth keeps one long name from pushing every line to the right.
	maxSlugWidth = 24
)

// story prints events, a line each, as `log`, `demo` and `deploy --wait` do.
type story struct {
	p painter
	// slugWidth is the width of the column of deployments.
	slugWidth int
	// instanceWidth is that of the column of instances; 0 is no such column, since
	// the log has one.
	instanceWidth int
	// one says that all events are of one delivery, so that its ID is left out.
	one bool
}

func newStory(p painter, slugs []string, one bool) story {
	s := story{p: p, slugWidth: 1, one: one}
	for _, slug := range slugs {
		s.slugWidth = min(maxSlugWidth, max(s.slugWidth, len(slug)))
	}
	return s
}

// ofInstances adds a column for the instance, where there are several.
func (s story) ofInstances(names []string) story {
	if len(names) > 1 {
		for _, name := range names {
			s.instanceWidth = min(maxSlugWidth, max(s.instanceWidth, columns(printable(name))))
		}
	}
	return s
}

func (s story) line(e eventlog.Event) string {
	where := pad(shorten(printable(orDash(e.DeploymentSlug())), maxName), s.slugWidth)
	if s.instanceWidth > 0 {
		where = pad(shorten(printable(e.Instance), maxName), s.instanceWidth) + "  " + where
	}
	tail := ""
	if e.Attempt > 1 {
		tail = fmt.Sprintf(" #%d", e.Attempt)
	}
	if !s.one {
		tail = "  " + s.p.paint(grey, "["+shorten(printable(e.DeliveryID), maxName)+tail+"]")
	} else if tail != "" {
		tail = "  " + s.p.paint(grey, "["+tail[1:]+"]")
	}
	return fmt.Sprintf("%6d  %s  %s  %s  %s%s", e.Position, clock(e.RecordedAt),
		s.p.paint(typeColour(e.Type), pad(shorten(printable(string(e.Type)), maxName), typeWidth)),
		where, shorten(printable(summary(e)), maxSummary), tail)
}

// summary is an event in a line: what happened, without where and when.
func summary(e eventlog.Event) string {
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
		return fmt.Sprintf("commit %s, by the rule %s", shortCommit(d.Commit), d.Rule)
	case eventlog.Voided:
		return fmt.Sprintf("%s: %s", d.Reason, d.Detail)
	case eventlog.Started:
		return fmt.Sprintf("commit %s%s, on %s: %s", shortCommit(d.Commit), replacing(d), d.Host, strings.Join(d.Plan, ", "))
	case eventlog.Deployed:
		return fmt.Sprintf("commit %s is live, after %s", shortCommit(d.Commit), millis(d.DurationMS))
	case eventlog.Failed:
		return failureText(d)
	case eventlog.Interrupted:
		if d.Then == "retry" {
			return d.Detail + "; it is tried again"
		}
		return d.Detail + "; it is counted as failed"
	case eventlog.Replayed:
		return fmt.Sprintf("by %s, for %s: %s", e.Actor, slugs(d.Deployments), d.Reason)
	case eventlog.Redacted:
		return fmt.Sprintf("its body was deleted by %s: %s", e.Actor, d.Reason)
	case eventlog.Pinned:
		return fmt.Sprintf("to commit %s, by %s: %s", shortCommit(d.Commit), e.Actor, d.Reason)
	case eventlog.Unpinned:
		return fmt.Sprintf("by %s: %s", e.Actor, d.Reason)
	case eventlog.Frozen:
		if !d.Until.IsZero() {
			return fmt.Sprintf("%s, until %s, by %s: %s", whichOf(e.DeploymentSlug()), clock(d.Until), e.Actor, d.Reason)
		}
		return fmt.Sprintf("%s, by %s: %s", whichOf(e.DeploymentSlug()), e.Actor, d.Reason)
	case eventlog.Thawed:
		return fmt.Sprintf("%s, by %s: %s", whichOf(e.DeploymentSlug()), e.Actor, d.Reason)
	case eventlog.Canceled:
		return fmt.Sprintf("by %s: %s", e.Actor, d.Reason)
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
		s += ", commit " + shortCommit(d.Commit)
	}
	return s + ", by " + actor
}

func replacing(d eventlog.Started) string {
	switch d.PreviousCommit {
	case "":
		return ", the first"
	case d.Commit:
		return " again"
	}
	return ", in place of " + shortCommit(d.PreviousCommit)
}

// failureText says at which step and how; the error itself mostly begins with
// both, and is then enough.
func failureText(d eventlog.Failed) string {
	if strings.Contains(d.Error, fmt.Sprintf("step %q", d.Step)) {
		return d.Error
	}
	return fmt.Sprintf("step %q: %s", d.Step, d.Error)
}

func slugs(assignments []eventlog.Assignment) string {
	var names []string
	for _, a := range assignments {
		names = append(names, a.Deployment)
	}
	return strings.Join(names, ", ")
}

// eventPrinter prints events as JSON lines or as the story's.
func (c *cli) eventPrinter(s story, asJSON bool) func(eventlog.Event) error {
	return func(e eventlog.Event) error {
		if asJSON {
			return writeJSON(c.out, e)
		}
		_, err := fmt.Fprintln(c.out, s.line(e))
		return err
	}
}
