package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) tellCommit(rows []answer.DeliveryRow, known map[string]projections.Deployment) error {
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
		verdict := fmt.Sprintf("Commit %s came with %s and %s.", commit, words.Counted(int64(n), "delivery", "deliveries"), whereLive(commit, known))
		if _, err := fmt.Fprintln(c.out, p.paint(bold, printable(verdict))); err != nil {
			return err
		}
	}
	fmt.Fprintln(c.out)
	t := c.newTable(column{name: "RECEIVED"}, column{name: "DELIVERY", id: true}, column{name: "COMMIT", id: true, drop: 2}, column{name: "BRANCH", drop: 3},
		column{name: "BY", drop: 1}, column{name: "DEPLOYMENT"}, column{name: "OUTCOME", text: true})
	for _, row := range rows {
		branch := strings.TrimPrefix(row.Ref, "refs/heads/")
		cells := []string{words.Clock(row.ReceivedAt), row.DeliveryID, row.Commit, words.Shorten(orDash(branch), 40), row.Actor}
		if len(row.Parts) == 0 {
			what := "not decided yet"
			if row.Reason != "" {
				what = fmt.Sprintf("%s: %s", row.Reason, row.Detail)
			}
			t.row(append(cells, "-", words.Shorten(what, answer.MaxSummary))...)
		}
		for _, part := range row.Parts {
			t.row(append(slices.Clone(cells), part.Deployment, became(part))...)
		}
	}
	return t.flush()
}

// whereLive lists the deployments where the commit is what is live.
func whereLive(commit string, known map[string]projections.Deployment) string {
	var at []string
	for slug, d := range known {
		if d.Live != nil && d.Live.Commit == commit {
			at = append(at, fmt.Sprintf("%s (since %s, by delivery %s)", slug, words.Clock(d.Live.Since), d.Live.DeliveryID))
		}
	}
	if len(at) == 0 {
		return "is live nowhere"
	}
	slices.Sort(at)
	return "is live at " + strings.Join(at, ", ")
}

func became(p answer.DeliveryPart) string {
	s := p.Status
	switch p.Status {
	case string(router.StatusFailed):
		s += answer.AtStep(p.Step)
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
