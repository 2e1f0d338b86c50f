package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// commitRow is a line of `why COMMIT --json`: a delivery that carried the commit.
type commitRow struct {
	DeliveryID string       `json:"delivery_id"`
	ReceivedAt time.Time    `json:"received_at"`
	Actor      string       `json:"actor"`
	Source     string       `json:"source"`
	Repository string       `json:"repository"`
	Ref        string       `json:"ref"`
	Commit     string       `json:"commit"`
	Reason     string       `json:"reason,omitempty"`
	Detail     string       `json:"detail,omitempty"`
	Parts      []commitPart `json:"deployments"`
}

// commitPart is what became of it at one deployment.
type commitPart struct {
	Deployment string `json:"deployment"`
	Status     string `json:"status"`
	Attempt    int    `json:"attempt"`
	Step       string `json:"step,omitempty"`
	Reason     string `json:"reason,omitempty"`
	// Live says that the commit is what is live there now, by whichever delivery.
	Live bool `json:"live"`
}

// whyCommit tells of the deliveries that carried a commit, the newest first.
func (c *cli) whyCommit(ctx context.Context, cfg *config.Config, store *daemon.Store, carried []eventlog.Event, asJSON bool) error {
	var ids []string
	for _, e := range carried {
		ids = append(ids, e.DeliveryID)
	}
	events, err := daemon.Answers(cfg, store).DeliveriesOf(ctx, ids)
	if err != nil {
		return err
	}
	known, err := daemon.Answers(cfg, store).Deployments(ctx, answer.Moment{})
	if err != nil {
		return err
	}
	for slug := range daemon.Answers(cfg, store).Held(ctx, known) {
		d := known[slug]
		d.Live = nil // visitors get what a failed run has left there
		known[slug] = d
	}
	slices.Reverse(carried)
	var rows []commitRow
	for _, e := range carried {
		state, err := router.Fold(events[e.DeliveryID])
		if err != nil {
			return err
		}
		rows = append(rows, newCommitRow(e, state, known))
	}
	if asJSON {
		return writeJSONLines(c.out, rows)
	}
	return c.tellCommit(rows, known)
}

func newCommitRow(e eventlog.Event, s router.DeliveryState, known map[string]projections.Deployment) commitRow {
	row := commitRow{DeliveryID: e.DeliveryID, Actor: e.Actor, Parts: []commitPart{}}
	if r := s.Received; r != nil {
		row.ReceivedAt, row.Source, row.Repository, row.Ref, row.Commit = r.ReceivedAt, string(r.Source), r.Repository, r.Ref, r.Commit
	}
	if s.Void != nil && len(s.Parts) == 0 {
		row.Reason, row.Detail = string(s.Void.Reason), s.Void.Detail
	}
	for _, slug := range s.Deployments() {
		p := s.Parts[slug]
		live := known[slug].Live
		row.Parts = append(row.Parts, commitPart{
			Deployment: slug, Status: string(p.Status), Attempt: p.Attempt, Step: p.Step, Reason: string(p.Reason),
			Live: live != nil && live.Commit == row.Commit,
		})
	}
	return row
}

func (c *cli) tellCommit(rows []commitRow, known map[string]projections.Deployment) error {
	p := painterFor(c.out)
	var commits []string
	for _, row := range rows {
		if !slices.Contains(commits, row.Commit) {
			commits = append(commits, row.Commit)
		}
	}
	slices.Sort(commits)
	for _, commit := range commits {
		n := 0
		for _, row := range rows {
			if row.Commit == commit {
				n++
			}
		}
		verdict := fmt.Sprintf("Commit %s came with %s and %s.", commit, counted(int64(n), "delivery", "deliveries"), whereLive(commit, known))
		if _, err := fmt.Fprintln(c.out, p.paint(bold, printable(verdict))); err != nil {
			return err
		}
	}
	fmt.Fprintln(c.out)
	t := c.newTable(column{name: "RECEIVED"}, column{name: "DELIVERY", id: true}, column{name: "COMMIT", id: true, drop: 2}, column{name: "BRANCH", drop: 3},
		column{name: "BY", drop: 1}, column{name: "DEPLOYMENT"}, column{name: "OUTCOME", text: true})
	for _, row := range rows {
		branch := strings.TrimPrefix(row.Ref, "refs/heads/")
		cells := []string{clock(row.ReceivedAt), row.DeliveryID, row.Commit, shorten(orDash(branch), 40), row.Actor}
		if len(row.Parts) == 0 {
			what := "not decided yet"
			if row.Reason != "" {
				what = fmt.Sprintf("%s: %s", row.Reason, row.Detail)
			}
			t.row(append(cells, "-", shorten(what, answer.MaxSummary))...)
		}
		for _, part := range row.Parts {
			t.row(append(slices.Clone(cells), part.Deployment, part.became())...)
		}
	}
	return t.flush()
}

// whereLive lists the deployments where the commit is what is live.
func whereLive(commit string, known map[string]projections.Deployment) string {
	var at []string
	for slug, d := range known {
		if d.Live != nil && d.Live.Commit == commit {
			at = append(at, fmt.Sprintf("%s (since %s, by delivery %s)", slug, clock(d.Live.Since), d.Live.DeliveryID))
		}
	}
	if len(at) == 0 {
		return "is live nowhere"
	}
	slices.Sort(at)
	return "is live at " + strings.Join(at, ", ")
}

func (p commitPart) became() string {
	s := p.Status
	switch p.Status {
	case string(router.StatusFailed):
		s += " at step " + p.Step
	case string(router.StatusVoided):
		s += ": " + p.Reason
	}
	if p.Attempt > 1 {
		s += fmt.Sprintf(", attempt %d", p.Attempt)
	}
	if p.Live {
		s += "; this commit is live there"
	} else if p.Status == string(router.StatusDeployed) {
		s += "; another commit is there now"
	}
	return s
}
