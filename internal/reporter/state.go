package reporter

import (
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// stateOf is the state of a commit status, and why, in words of any length.
func stateOf(a projections.Attempt) (state, why string) {
	switch a.Outcome {
	case projections.OutcomeRunning:
		if a.CanceledBy != "" {
			return github.StatePending, "being canceled by " + a.CanceledBy
		}
		return github.StatePending, "being deployed"
	case projections.OutcomeDeployed:
		return github.StateSuccess, "deployed in " + words.Span(time.Duration(a.DurationMS)*time.Millisecond)
	case projections.OutcomeVoided:
		return github.StateError, fmt.Sprintf("not deployed (%s): %s", a.Reason, a.Detail)
	case projections.OutcomeInterrupted:
		return github.StatePending, "interrupted: " + a.Detail // its end, or its next attempt, follows
	case projections.OutcomeFailed:
		switch {
		case a.CanceledBy != "":
			return github.StateError, words.Canceled(a.CanceledBy, a.CanceledReason)
		case a.Next != "": // by an interruption
			return github.StateError, orElse(a.Error, "interrupted: "+a.Detail)
		}
		return github.StateFailure, failure(a)
	}
	switch a.Cause {
	case eventlog.TypeReplayed:
		return github.StatePending, "queued again by " + a.Actor
	case eventlog.TypeRedelivered:
		return github.StatePending, "queued again, because it was delivered again"
	}
	return github.StatePending, "queued"
}

func failure(a projections.Attempt) string {
	text := "failed"
	if a.Step != "" {
		text += " at step " + a.Step
	}
	switch {
	case a.ExitCode != nil:
		text += fmt.Sprintf(", exit %d", *a.ExitCode)
	case a.Signal != "":
		text += ", " + a.Signal
	case a.Error != "":
		text += ": " + a.Error
	}
	return text
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// describe makes a text one line that GitHub takes.
func describe(text string) string {
	return words.Shorten(words.OneLine(text), github.MaxDescription)
}
