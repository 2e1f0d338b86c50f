package main

import (
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
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
	where := pad(words.Shorten(printable(orDash(e.DeploymentSlug())), maxName), s.slugWidth)
	if s.instanceWidth > 0 {
		where = pad(words.Shorten(printable(e.Instance), maxName), s.instanceWidth) + "  " + where
	}
	tail := ""
	if e.Attempt > 1 {
		tail = fmt.Sprintf(" #%d", e.Attempt)
	}
	if !s.one {
		tail = "  " + s.p.paint(grey, "["+words.Shorten(printable(e.DeliveryID), maxName)+tail+"]")
	} else if tail != "" {
		tail = "  " + s.p.paint(grey, "["+tail[1:]+"]")
	}
	return fmt.Sprintf("%6d  %s  %s  %s  %s%s", e.Position, words.Clock(e.RecordedAt),
		s.p.paint(typeColour(e.Type), pad(words.Shorten(printable(string(e.Type)), maxName), typeWidth)),
		where, words.Shorten(printable(answer.Summary(e)), answer.MaxSummary), tail)
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
