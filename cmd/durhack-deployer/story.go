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
	case eventlog.TypeInterrupted, eventlog.TypeVoided:
		return yellow
	case eventlog.TypeStarted:
		return blue
	}
	return grey
}

// summary is an event in a line: what happened, without who and when.
func summary(e eventlog.Event) string {
	data, err := e.Decode()
	if err != nil {
		return err.Error()
	}
	switch d := data.(type) {
	case eventlog.Received:
		s := d.Event
		if d.Repository != "" {
			s += " of " + d.Repository
		}
		if d.Ref != "" {
			s += " " + d.Ref
		}
		if d.Commit != "" {
			s += " at " + shortCommit(d.Commit)
		}
		return fmt.Sprintf("%s from %s by %s", s, d.Source, e.Actor)
	case eventlog.Redelivered:
		return d.Action + ": " + d.Detail
	case eventlog.Forwarded:
		return fmt.Sprintf("to %s, commit %s (%s)", e.DeploymentSlug(), shortCommit(d.Commit), d.Rule)
	case eventlog.Voided:
		return fmt.Sprintf("%s: %s", d.Reason, d.Detail)
	case eventlog.Started:
		return fmt.Sprintf("commit %s over %s on %s: %s", shortCommit(d.Commit), orNothing(d.PreviousCommit), d.Host, strings.Join(d.Plan, ", "))
	case eventlog.Deployed:
		return fmt.Sprintf("commit %s is live, after %s", shortCommit(d.Commit), millis(d.DurationMS))
	case eventlog.Failed:
		return fmt.Sprintf("at step %s: %s", d.Step, d.Error)
	case eventlog.Interrupted:
		return fmt.Sprintf("%s; then %s", d.Detail, d.Then)
	case eventlog.Replayed:
		return fmt.Sprintf("by %s: %s (%s)", e.Actor, d.Reason, slugs(d.Deployments))
	}
	return ""
}

func slugs(assignments []eventlog.Assignment) string {
	var names []string
	for _, a := range assignments {
		names = append(names, a.Deployment)
	}
	return strings.Join(names, ", ")
}

func orNothing(commit string) string {
	if commit == "" {
		return "nothing"
	}
	return shortCommit(commit)
}

func millis(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}

// storyLine is an event as `log` and `demo` print it.
func storyLine(e eventlog.Event, p painter) string {
	return fmt.Sprintf("%6d  %s  %s  %-12s  %s %s", e.Position, clock(e.RecordedAt),
		p.paint(typeColour(e.Type), fmt.Sprintf("%-11s", printable(string(e.Type)))),
		printable(orDash(e.DeploymentSlug())), printable(summary(e)), p.paint(grey, "["+printable(e.DeliveryID)+attemptNote(e)+"]"))
}

func attemptNote(e eventlog.Event) string {
	if e.Attempt <= 1 {
		return ""
	}
	return fmt.Sprintf(" #%d", e.Attempt)
}
