package answer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// StatusRow is a line of `status --json`. Commit, delivery, attempt and since
// are those of what is live; Running is the run in progress; Last is the newest
// transition, live or not.
type StatusRow struct {
	Slug       string               `json:"slug"`
	Repository string               `json:"repository"`
	Branch     string               `json:"branch"`
	Status     string               `json:"status"`
	Commit     *string              `json:"commit"`
	DeliveryID *string              `json:"delivery_id"`
	Attempt    *int                 `json:"attempt"`
	Since      *time.Time           `json:"since"`
	Actor      *string              `json:"actor"`
	Pending    int                  `json:"pending"`
	Running    *StatusMark          `json:"running"`
	Progress   *Progress            `json:"progress,omitempty"`
	Last       *StatusMark          `json:"last"`
	Failure    *projections.Failure `json:"failure"`
	// Canceled says by whom the run was ended that Failure is about, and why.
	Canceled string `json:"canceled,omitempty"`
	// Held is what the path holds, where a run that failed has left something else
	// there than what was deployed last, which Commit and the others name.
	Held *Held `json:"held,omitempty"`
	// WaitsFor is what keeps that which waits from beginning, as far as it is known.
	WaitsFor string `json:"waits_for,omitempty"`
	// Frozen and Pinned are the holds that are in force.
	Frozen *projections.Hold `json:"frozen,omitempty"`
	Pinned *projections.Hold `json:"pinned,omitempty"`
	// URL is the live site, where the configuration names it.
	URL string `json:"url,omitempty"`

	// Holds say so for people.
	Holds []string `json:"-"`
}

// StatusMark is a moment of a deployment.
type StatusMark struct {
	Type       eventlog.Type `json:"type"`
	Commit     string        `json:"commit"`
	DeliveryID string        `json:"delivery_id"`
	Attempt    int           `json:"attempt"`
	At         time.Time     `json:"at"`
	Actor      string        `json:"actor"`
	// Canceled says by whom a run was canceled that has not ended yet, and why.
	Canceled string `json:"canceled,omitempty"`
}

// Status is a row for each of the deployments, of which known is what the log says, as
// Deployments gave it at that moment. What this host knows is told only of now.
func (s Source) Status(ctx context.Context, slugs []string, known map[string]projections.Deployment, at Moment) ([]StatusRow, error) {
	var rows []StatusRow
	when, err := at.when(ctx, s.Log)
	if err != nil {
		return nil, err
	}
	for _, slug := range slugs {
		d, now := s.Config.Deployments[slug], known[slug]
		row := NewStatusRow(d, now, when)
		if !at.Set {
			row.Held = s.HeldElse(ctx, d, now)
			if row.Pending > 0 && row.Running == nil {
				row.WaitsFor = s.Obstacle(ctx, slug)
			}
			if now.Running != nil {
				if row.Progress, err = s.progress(ctx, slug, *now.Running); err != nil {
					return nil, err
				}
				run, err := attemptOf(ctx, projections.New(s.Pool, s.Log, slog.New(slog.DiscardHandler)), s.Config.Instance, slug, *now.Running)
				if err != nil {
					return nil, err
				}
				row.Running.Canceled = Canceled(run)
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// NewStatusRow is what the log and the configuration say of a deployment.
func NewStatusRow(d *config.Deployment, p projections.Deployment, at time.Time) StatusRow {
	row := StatusRow{Slug: d.Slug, Repository: d.Repository, Branch: d.Branch, Status: string(p.Status), Pending: p.Pending, Failure: p.Failure, URL: d.SiteURL}
	if p.Status == "" {
		row.Status = string(projections.StatusNever)
	}
	if !d.Enabled {
		row.Status = "disabled"
	}
	if f := p.Failure; f != nil && f.CanceledBy != "" {
		row.Canceled = words.Canceled(f.CanceledBy, f.CanceledReason)
	}
	row.Holds = HoldNotes(p, at)
	if p.Frozen.Active(at) {
		row.Frozen = p.Frozen
	}
	if p.Pinned.Active(at) {
		row.Pinned = p.Pinned
	}
	if m := p.Live; m != nil {
		row.Commit, row.DeliveryID, row.Attempt, row.Since, row.Actor = &m.Commit, &m.DeliveryID, &m.Attempt, &m.Since, &m.Actor
	}
	if m := p.Running; m != nil {
		row.Running = &StatusMark{eventlog.TypeStarted, m.Commit, m.DeliveryID, m.Attempt, m.Since, m.Actor, ""}
	}
	if m := p.Last; m != nil {
		row.Last = &StatusMark{p.LastType, m.Commit, m.DeliveryID, m.Attempt, m.Since, m.Actor, ""}
	}
	return row
}

// Note is what there is to know beside what is live.
func (r StatusRow) Note(short func(id string) string) string {
	switch {
	case r.Status == string(projections.StatusRunning) && r.Running != nil:
		s := fmt.Sprintf("%s since %s: why %s", words.ShortCommit(r.Running.Commit), words.Clock(r.Running.At), short(r.Running.DeliveryID))
		if r.Progress != nil {
			s += "; " + r.Progress.String()
		}
		if r.Running.Canceled != "" {
			s += "; it is being ended: " + r.Running.Canceled
		}
		return s
	case r.Status == string(projections.StatusFailed) && r.Failure != nil:
		s := "failed" + AtStep(r.Failure.Step)
		if r.Failure.ExitCode != nil {
			s += fmt.Sprintf(", exit %d", *r.Failure.ExitCode)
		}
		if r.Canceled != "" {
			s = r.Canceled
		}
		if r.Last.Type != eventlog.TypeFailed { // something was voided since
			return s + fmt.Sprintf(": log --deployment %s --type failed", r.Slug)
		}
		return fmt.Sprintf("%s %s: why %s", words.ShortCommit(r.Last.Commit), s, short(r.Last.DeliveryID))
	}
	return ""
}

// LastDeployed names what the path should hold, for a row whose path does not.
func (r StatusRow) LastDeployed(short func(id string) string) string {
	if r.Commit == nil {
		return "nothing was deployed yet"
	}
	return fmt.Sprintf("deployed last was %s, by %s", words.ShortCommit(*r.Commit), short(*r.DeliveryID))
}

// HoldNotes say that a deployment is frozen or pinned, by whom and why.
func HoldNotes(d projections.Deployment, at time.Time) []string {
	var notes []string
	if h := d.Frozen; h.Active(at) {
		until := ""
		if !h.Until.IsZero() {
			until = " until " + words.Clock(h.Until)
		}
		notes = append(notes, fmt.Sprintf("frozen%s since %s by %s: %s", until, words.Clock(h.Since), h.Actor, h.Reason))
	}
	if h := d.Pinned; h.Active(at) {
		notes = append(notes, fmt.Sprintf("pinned to %s since %s by %s: %s", words.ShortCommit(h.Commit), words.Clock(h.Since), h.Actor, h.Reason))
	}
	return notes
}

// holdEnds are the commands that end what HoldNotes tell of.
func holdEnds(d projections.Deployment, at time.Time) [][]string {
	var ends [][]string
	if d.Frozen.Active(at) {
		end := []string{"thaw", "--reason", "..."}
		if !d.FrozenWithAll {
			end = slices.Insert(end, 1, d.Slug)
		}
		ends = append(ends, end)
	}
	if d.Pinned.Active(at) {
		ends = append(ends, []string{"unpin", d.Slug, "--reason", "..."})
	}
	return ends
}
