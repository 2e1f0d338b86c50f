package main

import (
	"fmt"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) tellDeployment(a *answer.DeploymentStory, enabled bool) error {
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
		verdict = fmt.Sprintf(form, words.ShortCommit(l.Commit), a.Slug, words.Clock(l.Since), how, l.Actor, l.DeliveryID, attemptTail(l.Attempt))
		switch l.PreviousCommit {
		case "", l.Commit:
		default:
			verdict += fmt.Sprintf(" Before it was %s.", words.ShortCommit(l.PreviousCommit))
		}
	}
	if _, err := fmt.Fprintln(c.out, p.paint(bold, printable(verdict))); err != nil {
		return err
	}
	if a.Held != nil {
		fmt.Fprintf(c.out, "A run since then failed: %s.\n", printable(a.Held.String()))
	}
	for i, note := range a.Holds {
		fmt.Fprintf(c.out, "It is %s.\n", printable(note))
		if i < len(a.HoldEnds) {
			fmt.Fprintf(c.out, "To end that: %s\n", printable(c.command(a.HoldEnds[i]...)))
		}
	}
	if !enabled {
		fmt.Fprintf(c.out, "The deployment is disabled: nothing newer goes live until enabled = true.\n")
	}
	if a.Unrouted > 0 {
		fmt.Fprintf(c.out, "%s in the main queue, not routed yet.\n", words.Counted(int64(a.Unrouted), "delivery is", "deliveries are"))
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
			t.paintedRow(4, outcomeColour(r.Outcome), words.Clock(r.At), r.DeliveryID+attemptTail(r.Attempt), orDash(r.Commit), r.Actor,
				r.Outcome, words.Shorten(r.Why, answer.MaxSummary))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if n := len(a.Elsewhere); n > 0 {
		last := a.Elsewhere[n-1]
		fmt.Fprintf(c.out, "\n%s to other branches of %s since, the last to %s by %s: %s deploys from %s.\n",
			words.Counted(int64(n), "push went", "pushes went"), printable(a.Repository),
			printable(strings.TrimPrefix(last.Ref, "refs/heads/")), printable(last.Actor), printable(a.Slug), printable(a.Branch))
	}
	return c.nextOf(a)
}

// nextOf says what can be done about the newest of what did not go live.
func (c *cli) nextOf(a *answer.DeploymentStory) error {
	if len(a.Newer) == 0 {
		return nil
	}
	last := a.Newer[len(a.Newer)-1]
	_, err := fmt.Fprintf(c.out, "\nThe whole story of the last: %s\n", printable(c.command("why", last.DeliveryID)))
	return err
}
