package answer

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// DeliveryRow is a line of `why COMMIT --json`: a delivery that carried the commit.
type DeliveryRow struct {
	DeliveryID string         `json:"delivery_id"`
	ReceivedAt time.Time      `json:"received_at"`
	Actor      string         `json:"actor"`
	Source     string         `json:"source"`
	Repository string         `json:"repository"`
	Ref        string         `json:"ref"`
	Commit     string         `json:"commit"`
	Reason     string         `json:"reason,omitempty"`
	Detail     string         `json:"detail,omitempty"`
	Parts      []DeliveryPart `json:"deployments"`
}

// DeliveryPart is what became of it at one deployment.
type DeliveryPart struct {
	Deployment string `json:"deployment"`
	Status     string `json:"status"`
	Attempt    int    `json:"attempt"`
	Step       string `json:"step,omitempty"`
	Reason     string `json:"reason,omitempty"`
	// Live says that the commit is what is live there now, by whichever delivery.
	Live bool `json:"live"`
}

// Commit tells of the deliveries that carried a commit, the newest first, and what
// visitors of each deployment get.
func (s Source) Commit(ctx context.Context, carried []eventlog.Event) ([]DeliveryRow, map[string]projections.Deployment, error) {
	var ids []string
	for _, e := range carried {
		ids = append(ids, e.DeliveryID)
	}
	events, err := s.DeliveriesOf(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	known, err := s.Deployments(ctx, Moment{})
	if err != nil {
		return nil, nil, err
	}
	known = liveOf(known, s.Held(ctx, known))
	var rows []DeliveryRow
	for _, e := range slices.Backward(carried) {
		state, err := router.Fold(events[e.DeliveryID])
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, newDeliveryRow(e, state, known))
	}
	return rows, known, nil
}

// liveOf is known without what is not live any more, because a failed run has left
// something else to visitors.
func liveOf(known map[string]projections.Deployment, held map[string]*Held) map[string]projections.Deployment {
	known = maps.Clone(known)
	for slug := range held {
		d := known[slug]
		d.Live = nil
		known[slug] = d
	}
	return known
}

func newDeliveryRow(e eventlog.Event, s router.DeliveryState, known map[string]projections.Deployment) DeliveryRow {
	row := DeliveryRow{DeliveryID: e.DeliveryID, Actor: e.Actor, Parts: []DeliveryPart{}}
	if r := s.Received; r != nil {
		row.ReceivedAt, row.Source, row.Repository, row.Ref, row.Commit = r.ReceivedAt, string(r.Source), r.Repository, r.Ref, r.Commit
	}
	if s.Void != nil && len(s.Parts) == 0 {
		row.Reason, row.Detail = string(s.Void.Reason), s.Void.Detail
	}
	for _, slug := range s.Deployments() {
		p := s.Parts[slug]
		live := known[slug].Live
		row.Parts = append(row.Parts, DeliveryPart{
			Deployment: slug, Status: string(p.Status), Attempt: p.Attempt, Step: p.Step, Reason: string(p.Reason),
			Live: live != nil && live.Commit == row.Commit,
		})
	}
	return row
}
