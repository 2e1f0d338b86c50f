package answer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// AttemptRow is a line of `history --json`: one attempt.
type AttemptRow struct {
	Deployment     string        `json:"deployment"`
	DeliveryID     string        `json:"delivery_id"`
	Attempt        int           `json:"attempt"`
	Actor          string        `json:"actor"`
	Cause          eventlog.Type `json:"cause"`
	PreviousCommit string        `json:"previous_commit"`
	Commit         string        `json:"commit"`
	OrderedAt      time.Time     `json:"ordered_at"`
	StartedAt      *time.Time    `json:"started_at"`
	EndedAt        *time.Time    `json:"ended_at"`
	// QueueWaitMS is from the order to the start, DurationMS from the start to
	// the end; null where it did not start or end, or was retried without a new order.
	QueueWaitMS *int64 `json:"queue_wait_ms"`
	DurationMS  *int64 `json:"duration_ms"`
	Result      string `json:"result"`
	Step        string `json:"step,omitempty"`
	ExitCode    *int   `json:"exit_code,omitempty"`
	Signal      string `json:"signal,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Detail      string `json:"detail,omitempty"`
	// CanceledBy is who asked for its end while it ran, and CanceledReason why.
	CanceledBy     string `json:"canceled_by,omitempty"`
	CanceledReason string `json:"canceled_reason,omitempty"`
}

// History reads the newest attempts of a deployment, which need not be
// configured any more if the log knows it, the newest last; or those before a place. older
// is the place before which there are more, zero where there are none.
func (s Source) History(ctx context.Context, slug string, before projections.Place, limit int) (rows []AttemptRow, older projections.Place, err error) {
	models, err := s.Models(ctx)
	if err != nil {
		return nil, older, err
	}
	// One more tells whether the oldest of them is a retry.
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{Instance: s.Config.Instance, Deployment: slug, Before: before, Limit: limit + 1})
	if err != nil {
		return nil, older, err
	}
	if len(attempts) == 0 {
		if _, err := Deployment(s.Config, slug); err != nil {
			return nil, older, err
		}
	}
	if len(attempts) > limit {
		oldest := attempts[limit-1]
		older = projections.Place{Position: oldest.AssignedPosition, Attempt: oldest.Attempt}
	}
	slices.Reverse(attempts)
	for i, at := range attempts {
		// A retry after an interruption is of the same order.
		retry := i > 0 && attempts[i-1].DeliveryID == at.DeliveryID && attempts[i-1].AssignedPosition == at.AssignedPosition
		rows = append(rows, newAttemptRow(at, retry))
	}
	return rows[max(0, len(rows)-limit):], older, nil
}

func newAttemptRow(at projections.Attempt, retry bool) AttemptRow {
	row := AttemptRow{
		Deployment: at.Deployment, DeliveryID: at.DeliveryID, Attempt: at.Attempt, Actor: at.Actor, Cause: at.Cause,
		PreviousCommit: at.PreviousCommit, Commit: at.Commit, OrderedAt: at.AssignedAt, Result: string(at.Outcome),
		Step: at.Step, ExitCode: at.ExitCode, Signal: at.Signal, Reason: at.Reason, Detail: at.Detail,
		CanceledBy: at.CanceledBy, CanceledReason: at.CanceledReason,
	}
	if at.StartedPosition != 0 {
		row.StartedAt = &at.StartedAt
		if !retry {
			wait := max(0, at.StartedAt.Sub(at.AssignedAt).Milliseconds())
			row.QueueWaitMS = &wait
		}
	}
	if at.EndedPosition != 0 {
		row.EndedAt = &at.EndedAt
		if at.StartedPosition != 0 {
			took := max(0, at.EndedAt.Sub(at.StartedAt).Milliseconds())
			row.DurationMS = &took
		}
	}
	return row
}

// AtStep says at which step, where that is known: a run that a killed daemon left does not say.
func AtStep(step string) string {
	if step == "" {
		return ""
	}
	return " at step " + step
}

// Ended says how it ended.
func (r AttemptRow) Ended() string {
	switch projections.Outcome(r.Result) {
	case projections.OutcomeFailed:
		if r.CanceledBy != "" {
			return words.Canceled(r.CanceledBy, r.CanceledReason)
		}
		s := "failed" + AtStep(r.Step)
		if r.ExitCode != nil {
			s += fmt.Sprintf(", exit %d", *r.ExitCode)
		} else if r.Signal != "" {
			s += ", " + r.Signal
		}
		return s
	case projections.OutcomeVoided:
		return "voided: " + r.Reason
	case projections.OutcomeDeployed:
		if r.Cause == eventlog.TypeReplayed {
			return "deployed (a replay)"
		}
	}
	return r.Result
}
