package answer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// maxNewer bounds how many attempts and pushes `why --deployment` tells of.
const maxNewer = 50

// DeploymentStory is what `why --deployment --json` prints: why what is live is
// live, and what came after it.
type DeploymentStory struct {
	Slug       string   `json:"slug"`
	Repository string   `json:"repository"`
	Branch     string   `json:"branch"`
	Status     string   `json:"status"`
	Live       *LiveRow `json:"live"`
	// Held is what the path holds, where that is not what Live says.
	Held  *Held      `json:"held,omitempty"`
	Newer []NewerRow `json:"newer"`
	// Elsewhere are the newest pushes to other branches, which do not deploy here.
	Elsewhere []NewerRow `json:"other_branches"`
	// Unrouted counts the deliveries in the main queue: nobody knows yet where they go.
	Unrouted int `json:"unrouted"`
	// WaitsFor is what keeps that which waits from beginning, as far as it is known.
	WaitsFor string            `json:"waits_for,omitempty"`
	Frozen   *projections.Hold `json:"frozen,omitempty"`
	Pinned   *projections.Hold `json:"pinned,omitempty"`

	// Holds say so for people, and HoldEnds are the commands that end them.
	Holds    []string   `json:"-"`
	HoldEnds [][]string `json:"-"`
}

// LiveRow is what is live, and how it came there.
type LiveRow struct {
	Commit         string        `json:"commit"`
	PreviousCommit string        `json:"previous_commit"`
	DeliveryID     string        `json:"delivery_id"`
	Attempt        int           `json:"attempt"`
	Since          time.Time     `json:"since"`
	Actor          string        `json:"actor"`
	Cause          eventlog.Type `json:"cause"`
	Position       int64         `json:"position"`
}

// NewerRow is something that came after what is live.
type NewerRow struct {
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

// WhyDeployment answers for a deployment: why is this live, and why not
// something newer?
func (s Source) WhyDeployment(ctx context.Context, slug string) (*DeploymentStory, error) {
	d, err := Deployment(s.Config, slug)
	if err != nil {
		return nil, err
	}
	known, err := s.Deployments(ctx, Moment{})
	if err != nil {
		return nil, err
	}
	now, at := known[slug], time.Now()
	row := NewStatusRow(d, now, at)
	a := &DeploymentStory{Frozen: row.Frozen, Pinned: row.Pinned, Holds: row.Holds, HoldEnds: holdEnds(now, at), Slug: slug, Repository: d.Repository, Branch: d.Branch, Status: row.Status, Newer: []NewerRow{}, Elsewhere: []NewerRow{},
		Held: s.HeldElse(ctx, d, now)}
	models := projections.New(s.Pool, s.Log, slog.New(slog.DiscardHandler))
	after := int64(0)
	if now.Live != nil {
		live, err := attemptOf(ctx, models, s.Config.Instance, slug, *now.Live)
		if err != nil {
			return nil, err
		}
		after = live.AssignedPosition
		a.Live = &LiveRow{
			Commit: now.Live.Commit, PreviousCommit: live.PreviousCommit, DeliveryID: now.Live.DeliveryID, Attempt: now.Live.Attempt,
			Since: now.Live.Since, Actor: now.Live.Actor, Cause: live.Cause, Position: now.Live.Position,
		}
	}
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{Instance: s.Config.Instance, Deployment: slug, Limit: maxNewer})
	if err != nil {
		return nil, err
	}
	for _, at := range attempts {
		if at.AssignedPosition > after {
			a.Newer = append(a.Newer, newerAttempt(at, now))
		}
	}
	if err := a.voided(ctx, s, d, after); err != nil {
		return nil, err
	}
	slices.SortStableFunc(a.Newer, func(x, y NewerRow) int { return cmp.Compare(x.position, y.position) })
	if main, err := queue.List(s.Config.QueueDir(names.MainQueue)); err == nil {
		a.Unrouted = len(main)
	}
	if now.Running == nil && (now.Pending > 0 || a.Unrouted > 0) {
		a.WaitsFor = s.Obstacle(ctx, slug)
	}
	return a, nil
}

// attemptOf is the run that a mark is of.
func attemptOf(ctx context.Context, models *projections.Projector, instance, slug string, m projections.Mark) (projections.Attempt, error) {
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{Instance: instance, Deployment: slug, DeliveryID: m.DeliveryID})
	if err != nil {
		return projections.Attempt{}, err
	}
	for _, at := range attempts {
		if at.Attempt == m.Attempt {
			return at, nil
		}
	}
	return projections.Attempt{AssignedPosition: m.Position}, nil
}

func newerAttempt(at projections.Attempt, d projections.Deployment) NewerRow {
	return NewerRow{
		DeliveryID: at.DeliveryID, Attempt: at.Attempt, Commit: at.Commit, Actor: at.Actor, At: at.AssignedAt,
		Outcome: string(at.Outcome), Why: WhyNotLive(at, d), position: at.AssignedPosition,
	}
}

// Canceled says by whom a run was canceled, and why; "" of any other, and where it had been
// deployed by then.
func Canceled(at projections.Attempt) string {
	if at.Outcome != projections.OutcomeFailed && at.Outcome != projections.OutcomeRunning || at.CanceledBy == "" {
		return ""
	}
	return words.Canceled(at.CanceledBy, at.CanceledReason)
}

// WhyNotLive says why an attempt is not what is live at its deployment.
func WhyNotLive(at projections.Attempt, d projections.Deployment) (why string) {
	switch at.Outcome {
	case projections.OutcomeWaiting:
		why = "it waits its turn"
		if d.Frozen.Active(time.Now()) {
			why = "it waits, and " + at.Deployment + " is frozen"
		}
	case projections.OutcomeRunning:
		why = "it has been running since " + words.Clock(at.StartedAt)
		if canceled := Canceled(at); canceled != "" {
			why += ", and is being ended: " + canceled
		}
	case projections.OutcomeFailed:
		if canceled := Canceled(at); canceled != "" {
			return "it was " + canceled
		}
		why = "it failed" + AtStep(at.Step)
		if at.ExitCode != nil {
			why += fmt.Sprintf(" with exit code %d", *at.ExitCode)
		} else if at.Signal != "" {
			why += ", ended by " + at.Signal
		}
	case projections.OutcomeVoided:
		why = fmt.Sprintf("%s: %s", at.Reason, at.Detail)
		if at.SupersededBy != "" {
			why += " (by delivery " + at.SupersededBy + ")"
		}
	case projections.OutcomeInterrupted:
		why = "it was interrupted"
		switch {
		case at.ContinuedBy != 0:
			why += fmt.Sprintf(" and went on as attempt %d", at.ContinuedBy)
		case at.Next == "retry":
			why += " and will be tried again"
		}
	case projections.OutcomeDeployed: // a later one is live, of an earlier order
		why = "it was live until another took its place"
	}
	return why
}

// maxVoided bounds how many voided deliveries are looked through for pushes to a deployment.
const maxVoided = 1000

// voided adds the pushes to the deployment's repository that came after the
// position and were voided as a whole, as far as they are among the newest that were voided:
// those to its branch, and those to others.
func (a *DeploymentStory) voided(ctx context.Context, s Source, d *config.Deployment, after int64) error {
	voids := map[string]eventlog.Voided{}
	ids := []string{}
	for e, err := range s.Log.Find(ctx, eventlog.Filter{
		Instance: s.Config.Instance, After: after, Types: []eventlog.Type{eventlog.TypeVoided}, Newest: true, Limit: maxVoided,
	}) {
		if err != nil {
			return err
		}
		data, err := e.Decode()
		if err != nil {
			return err
		}
		if void, ok := data.(eventlog.Voided); ok && e.Deployment == nil {
			voids[e.DeliveryID], ids = void, append(ids, e.DeliveryID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	for e, err := range s.Log.Find(ctx, eventlog.Filter{
		Instance: s.Config.Instance, After: after, DeliveryIDs: ids, Types: []eventlog.Type{eventlog.TypeReceived},
	}) {
		if err != nil {
			return err
		}
		data, err := e.Decode()
		if err != nil {
			return err
		}
		push, ok := data.(eventlog.Received)
		if !ok || !strings.EqualFold(push.Repository, d.Repository) || !strings.HasPrefix(push.Ref, "refs/heads/") {
			continue
		}
		void := voids[e.DeliveryID]
		row := NewerRow{
			DeliveryID: e.DeliveryID, Commit: push.Commit, Ref: push.Ref, Actor: e.Actor, At: e.RecordedAt,
			Outcome: string(projections.OutcomeVoided), Why: fmt.Sprintf("%s: %s", void.Reason, void.Detail), position: e.Position,
		}
		if row.Ref == "refs/heads/"+d.Branch {
			a.Newer = append(a.Newer, row)
		} else {
			a.Elsewhere = append(a.Elsewhere, row)
		}
	}
	a.Newer = a.Newer[max(0, len(a.Newer)-2*maxNewer):]
	a.Elsewhere = a.Elsewhere[max(0, len(a.Elsewhere)-maxNewer):]
	return nil
}
