package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// historyRow is a line of `history --json`: one attempt.
type historyRow struct {
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
}

func (c *cli) historyCommand() *cobra.Command {
	var asJSON bool
	limit := 20
	cmd := &cobra.Command{
		Use: "history SLUG [--limit N] [--json]", Short: "List a deployment's attempts: who, from, to, how long, how it ended",
		Long: `Lists the attempts of a deployment, the newest last: when each was ordered and by
whom, from which commit to which, how long it waited in the queue, how long it
took, and how it ended. An attempt that was voided never ran.`,
		Example: `  durhack-deployer history web
  durhack-deployer history web --limit 5 --json | jq -r .result`,
		Args: takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit takes a number from 1 on, not %d", limit)
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				rows, err := history(cmd.Context(), cfg, store, args[0], limit)
				if err != nil {
					return err
				}
				return c.tellHistory(rows, args[0], limit, asJSON)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "the newest `N` attempts")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// history reads the newest attempts of a deployment, which need not be
// configured any more if the log knows it.
func history(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string, limit int) ([]historyRow, error) {
	models, err := daemon.Answers(cfg, store).Models(ctx)
	if err != nil {
		return nil, err
	}
	// One more tells whether the oldest of them is a retry.
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{Instance: cfg.Instance, Deployment: slug, Limit: limit + 1})
	if err != nil {
		return nil, err
	}
	if len(attempts) == 0 {
		if _, err := answer.Deployment(cfg, slug); err != nil {
			return nil, err
		}
	}
	slices.Reverse(attempts)
	var rows []historyRow
	for i, at := range attempts {
		// A retry after an interruption is of the same order.
		retry := i > 0 && attempts[i-1].DeliveryID == at.DeliveryID && attempts[i-1].AssignedPosition == at.AssignedPosition
		rows = append(rows, newHistoryRow(at, retry))
	}
	return rows[max(0, len(rows)-limit):], nil
}

func newHistoryRow(at projections.Attempt, retry bool) historyRow {
	row := historyRow{
		Deployment: at.Deployment, DeliveryID: at.DeliveryID, Attempt: at.Attempt, Actor: at.Actor, Cause: at.Cause,
		PreviousCommit: at.PreviousCommit, Commit: at.Commit, OrderedAt: at.AssignedAt, Result: string(at.Outcome),
		Step: at.Step, ExitCode: at.ExitCode, Signal: at.Signal, Reason: at.Reason, Detail: at.Detail,
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

func (c *cli) tellHistory(rows []historyRow, slug string, limit int, asJSON bool) error {
	if asJSON {
		return writeJSONLines(c.out, rows)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintf(c.out, "no deploys of %s yet\n", printable(slug))
		return err
	}
	t := c.newTable(column{name: "ORDERED"}, column{name: "DELIVERY", id: true}, column{name: "BY", drop: 2}, column{name: "FROM", id: true, drop: 3},
		column{name: "TO", id: true}, column{name: "WAITED", drop: 4}, column{name: "TOOK", drop: 1}, column{name: "RESULT", text: true})
	for _, r := range rows {
		t.paintedRow(7, outcomeColour(r.Result), clock(r.OrderedAt), r.DeliveryID+attemptTail(r.Attempt), r.Actor,
			orDash(r.PreviousCommit), orDash(r.Commit), orMillis(r.QueueWaitMS), orMillis(r.DurationMS), r.result())
	}
	if err := t.flush(); err != nil || len(rows) < limit {
		return err
	}
	_, err := fmt.Fprintf(c.err, "hint: these are the newest %d; --limit N shows more\n", limit)
	return err
}

func (r historyRow) result() string {
	switch projections.Outcome(r.Result) {
	case projections.OutcomeFailed:
		s := "failed at step " + r.Step
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
