package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// maxNewer bounds how many attempts and pushes `why --deployment` tells of.
const maxNewer = 50

// deploymentAnswer is what `why --deployment --json` prints: why what is live is
// live, and what came after it.
type deploymentAnswer struct {
	Slug       string   `json:"slug"`
	Repository string   `json:"repository"`
	Branch     string   `json:"branch"`
	Status     string   `json:"status"`
	Live       *liveRow `json:"live"`
	// Held is what the path holds, where that is not what Live says.
	Held  *answer.Held `json:"held,omitempty"`
	Newer []newerRow   `json:"newer"`
	// Elsewhere are the newest pushes to other branches, which do not deploy here.
	Elsewhere []newerRow `json:"other_branches"`
	// Unrouted counts the deliveries in the main queue: nobody knows yet where they go.
	Unrouted int `json:"unrouted"`
	// WaitsFor is what keeps that which waits from beginning, as far as it is known.
	WaitsFor string            `json:"waits_for,omitempty"`
	Frozen   *projections.Hold `json:"frozen,omitempty"`
	Pinned   *projections.Hold `json:"pinned,omitempty"`

	holds []string
}

type liveRow struct {
	Commit         string        `json:"commit"`
	PreviousCommit string        `json:"previous_commit"`
	DeliveryID     string        `json:"delivery_id"`
	Attempt        int           `json:"attempt"`
	Since          time.Time     `json:"since"`
	Actor          string        `json:"actor"`
	Cause          eventlog.Type `json:"cause"`
	Position       int64         `json:"position"`
}

// newerRow is something that came after what is live.
type newerRow struct {
	DeliveryID string    `json:"delivery_id"`
	Attempt    int       `json:"attempt,omitempty"`
	Commit     string    `json:"commit"`
	Ref        string    `json:"ref,omitempty"`
	Actor      string    `json:"actor"`
	At         time.Time `json:"at"`
	Outcome    string    `json:"outcome"`
	// Why says why it is not what is live.
	Why      string `json:"why"`
	position int64
}

// whyDeployment answers for a deployment: why is this live, and why not
// something newer?
func (c *cli) whyDeployment(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string, asJSON bool) error {
	d, err := answer.Deployment(cfg, slug)
	if err != nil {
		return err
	}
	known, err := daemon.Answers(cfg, store).Deployments(ctx, answer.Moment{})
	if err != nil {
		return err
	}
	now := known[slug]
	row := answer.NewStatusRow(d, now, time.Now())
	a := deploymentAnswer{Frozen: row.Frozen, Pinned: row.Pinned, holds: row.Holds, Slug: slug, Repository: d.Repository, Branch: d.Branch, Status: row.Status, Newer: []newerRow{}, Elsewhere: []newerRow{},
		Held: daemon.Answers(cfg, store).HeldElse(ctx, d, now)}
	models := projections.New(store.Pool, store.Log, discard())
	after := int64(0)
	if now.Live != nil {
		live, err := liveAttempt(ctx, models, cfg.Instance, slug, *now.Live)
		if err != nil {
			return err
		}
		after = live.AssignedPosition
		a.Live = &liveRow{
			Commit: now.Live.Commit, PreviousCommit: live.PreviousCommit, DeliveryID: now.Live.DeliveryID, Attempt: now.Live.Attempt,
			Since: now.Live.Since, Actor: now.Live.Actor, Cause: live.Cause, Position: now.Live.Position,
		}
	}
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{Instance: cfg.Instance, Deployment: slug, Limit: maxNewer})
	if err != nil {
		return err
	}
	for _, at := range attempts {
		if at.AssignedPosition > after {
			a.Newer = append(a.Newer, newerAttempt(at))
		}
	}
	if err := a.voided(ctx, cfg, store, d, after); err != nil {
		return err
	}
	slices.SortStableFunc(a.Newer, func(x, y newerRow) int { return cmp.Compare(x.position, y.position) })
	if main, err := queue.List(cfg.QueueDir(names.MainQueue)); err == nil {
		a.Unrouted = len(main)
	}
	if now.Running == nil && (now.Pending > 0 || a.Unrouted > 0) {
		a.WaitsFor = daemon.Obstacle(ctx, cfg, slug)
	}
	if asJSON {
		return writeJSON(c.out, a)
	}
	return c.tellDeployment(a, d.Enabled)
}

// liveAttempt is the run that put live what is live.
func liveAttempt(ctx context.Context, models *projections.Projector, instance, slug string, live projections.Mark) (projections.Attempt, error) {
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{Instance: instance, Deployment: slug, DeliveryID: live.DeliveryID})
	if err != nil {
		return projections.Attempt{}, err
	}
	for _, at := range attempts {
		if at.Attempt == live.Attempt {
			return at, nil
		}
	}
	return projections.Attempt{AssignedPosition: live.Position}, nil
}

func newerAttempt(at projections.Attempt) newerRow {
	row := newerRow{
		DeliveryID: at.DeliveryID, Attempt: at.Attempt, Commit: at.Commit, Actor: at.Actor, At: at.AssignedAt,
		Outcome: string(at.Outcome), position: at.AssignedPosition,
	}
	switch at.Outcome {
	case projections.OutcomeWaiting:
		row.Why = "it waits its turn"
	case projections.OutcomeRunning:
		row.Why = "it has been running since " + clock(at.StartedAt)
	case projections.OutcomeFailed:
		row.Why = fmt.Sprintf("it failed at step %s", at.Step)
		if at.ExitCode != nil {
			row.Why += fmt.Sprintf(" with exit code %d", *at.ExitCode)
		} else if at.Signal != "" {
			row.Why += ", ended by " + at.Signal
		}
	case projections.OutcomeVoided:
		row.Why = fmt.Sprintf("%s: %s", at.Reason, at.Detail)
		if at.SupersededBy != "" {
			row.Why += " (by delivery " + at.SupersededBy + ")"
		}
	case projections.OutcomeInterrupted:
		row.Why = "it was interrupted"
		switch {
		case at.ContinuedBy != 0:
			row.Why += fmt.Sprintf(" and went on as attempt %d", at.ContinuedBy)
		case at.Next == "retry":
			row.Why += " and will be tried again"
		}
	case projections.OutcomeDeployed: // a later one is live, of an earlier order
		row.Why = "it was live until another took its place"
	}
	return row
}

// voided adds the pushes to the deployment's repository that came after the
// position and were voided as a whole: those to its branch, and those to others.
func (a *deploymentAnswer) voided(ctx context.Context, cfg *config.Config, store *daemon.Store, d *config.Deployment, after int64) error {
	pushes := map[string]newerRow{}
	filter := eventlog.Filter{Instance: cfg.Instance, After: after, Types: []eventlog.Type{eventlog.TypeReceived, eventlog.TypeVoided}}
	for e, err := range store.Log.Find(ctx, filter) {
		if err != nil {
			return err
		}
		data, err := e.Decode()
		if err != nil {
			return err
		}
		switch data := data.(type) {
		case eventlog.Received:
			if strings.EqualFold(data.Repository, d.Repository) && strings.HasPrefix(data.Ref, "refs/heads/") {
				pushes[e.DeliveryID] = newerRow{
					DeliveryID: e.DeliveryID, Commit: data.Commit, Ref: data.Ref, Actor: e.Actor, At: e.RecordedAt, position: e.Position,
				}
			}
		case eventlog.Voided:
			push, ok := pushes[e.DeliveryID]
			if !ok || e.Deployment != nil {
				continue
			}
			delete(pushes, e.DeliveryID)
			push.Outcome, push.Why = string(projections.OutcomeVoided), fmt.Sprintf("%s: %s", data.Reason, data.Detail)
			if push.Ref == "refs/heads/"+d.Branch {
				a.Newer = append(a.Newer, push)
			} else {
				a.Elsewhere = append(a.Elsewhere, push)
			}
		}
	}
	a.Newer = a.Newer[max(0, len(a.Newer)-2*maxNewer):]
	a.Elsewhere = a.Elsewhere[max(0, len(a.Elsewhere)-maxNewer):]
	return nil
}

func (c *cli) tellDeployment(a deploymentAnswer, enabled bool) error {
	p := painterFor(c.out)
	verdict := fmt.Sprintf("Nothing was ever live at %s.", a.Slug)
	if l := a.Live; l != nil {
		how := map[eventlog.Type]string{
			eventlog.TypeReplayed: "replayed by ", eventlog.TypeRedelivered: "redelivered by ",
		}[l.Cause]
		if how == "" {
			how = "by "
		}
		form := "%s is live at %s since %s, %s%s, through delivery %s%s."
		if a.Held != nil {
			form = "%s was deployed last to %s, at %s, %s%s, through delivery %s%s."
		}
		verdict = fmt.Sprintf(form, shortCommit(l.Commit), a.Slug, clock(l.Since), how, l.Actor, l.DeliveryID, attemptTail(l.Attempt))
		switch l.PreviousCommit {
		case "", l.Commit:
		default:
			verdict += fmt.Sprintf(" Before it was %s.", shortCommit(l.PreviousCommit))
		}
	}
	if _, err := fmt.Fprintln(c.out, p.paint(bold, printable(verdict))); err != nil {
		return err
	}
	if a.Held != nil {
		fmt.Fprintf(c.out, "A run since then failed: %s.\n", printable(a.Held.String()))
	}
	for _, note := range a.holds {
		fmt.Fprintf(c.out, "It is %s.\n", printable(note))
	}
	if !enabled {
		fmt.Fprintf(c.out, "The deployment is disabled: nothing newer goes live until enabled = true.\n")
	}
	if a.Unrouted > 0 {
		fmt.Fprintf(c.out, "%s in the main queue, not routed yet.\n", counted(int64(a.Unrouted), "delivery is", "deliveries are"))
	}
	if a.WaitsFor != "" {
		fmt.Fprintf(c.out, "Waiting deploys do not start: %s\n", printable(a.WaitsFor))
	}
	if len(a.Newer) == 0 {
		fmt.Fprintf(c.out, "Nothing newer came: no push to %s of %s since, and no replay.\n", printable(a.Branch), printable(a.Repository))
	} else {
		fmt.Fprintf(c.out, "\nNewer deliveries, and why they are not live:\n")
		t := c.newTable(column{name: "ORDERED"}, column{name: "DELIVERY", id: true}, column{name: "COMMIT", id: true, drop: 1}, column{name: "BY", drop: 2},
			column{name: "OUTCOME"}, column{name: "WHY IT IS NOT LIVE", text: true})
		for _, r := range a.Newer {
			t.paintedRow(4, outcomeColour(r.Outcome), clock(r.At), r.DeliveryID+attemptTail(r.Attempt), orDash(r.Commit), r.Actor,
				r.Outcome, shorten(r.Why, answer.MaxSummary))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if n := len(a.Elsewhere); n > 0 {
		last := a.Elsewhere[n-1]
		fmt.Fprintf(c.out, "\n%s to other branches of %s since, the last to %s by %s: %s deploys from %s.\n",
			counted(int64(n), "push went", "pushes went"), printable(a.Repository),
			printable(strings.TrimPrefix(last.Ref, "refs/heads/")), printable(last.Actor), printable(a.Slug), printable(a.Branch))
	}
	return c.nextOf(a)
}

// nextOf says what can be done about the newest of what did not go live.
func (c *cli) nextOf(a deploymentAnswer) error {
	if len(a.Newer) == 0 {
		return nil
	}
	last := a.Newer[len(a.Newer)-1]
	_, err := fmt.Fprintf(c.out, "\nThe whole story of the last: %s\n", printable(c.command("why", last.DeliveryID)))
	return err
}
