package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// Redeliver decides what becomes of a delivery whose ID the log knows already:
// the deployments whose newest attempt failed try again, on the commit that was
// forwarded the first time; everything else is only recorded. The result is
// complete but for Entry.
func Redeliver(known DeliveryState, d delivery.Delivery, rules []Rule) eventlog.Redelivered {
	out := eventlog.Redelivered{Action: eventlog.ActionIgnored, ReceivedAt: d.ReceivedAt}
	rules = canonical(rules)
	var said []string
	for _, slug := range known.Deployments() {
		p := known.Parts[slug]
		what := p.describe(slug)
		if p.Status == StatusFailed {
			i := slices.IndexFunc(rules, func(r Rule) bool { return r.Slug == slug })
			switch {
			case i < 0:
				what += ", and is not configured any more"
			case p.Assignment.Deployment == "":
				what += ", and the log does not say on which commit"
			case !rules[i].Enabled:
				what += ", and is disabled now"
			default:
				a := p.Assignment
				a.Attempt = p.Highest + 1
				a.ConfigDigest = rules[i].ConfigDigest
				out.Deployments = append(out.Deployments, a)
				what += fmt.Sprintf(" and tries again as attempt %d", a.Attempt)
			}
		}
		said = append(said, what)
	}
	switch {
	case len(out.Deployments) > 0:
		out.Action = eventlog.ActionRetried
	case known.Void != nil:
		said = append(said, fmt.Sprintf("it was voided: %s", known.Void.Reason))
	}
	out.Detail = strings.Join(said, "; ")
	if out.Action == eventlog.ActionIgnored {
		out.Detail = strings.TrimPrefix(out.Detail+"; to run it anyway: durhack-deployer replay "+d.ID, "; ")
	}
	out.Detail = truncate(out.Detail, maxDetail)
	return out
}

// Errors of PlanReplay.
var (
	// ErrUnknownDelivery says that the log has no such delivery.
	ErrUnknownDelivery = errors.New("the log knows no such delivery")
	// ErrNotChosen says that the delivery concerns none of the deployments that
	// the caller limited the replay to.
	ErrNotChosen = errors.New("the delivery would go to none of the chosen deployments")
	// ErrOpen says that a run of the delivery has not ended yet. Another order would
	// be for the very same run.
	ErrOpen = errors.New("a run of the delivery is still open")
)

// PlanReplay decides a past delivery again, with today's rules. events are the
// delivery's own, in position order; body is what came in then. Where only is
// not empty, just those deployments count; in none of them may a run of the
// delivery be open. It returns the runs to record in a
// `replayed` event whose attempt is that of each run, or why there are none.
func PlanReplay(events []eventlog.Event, body delivery.Delivery, rules []Rule, only []string) ([]eventlog.Assignment, *eventlog.Voided, error) {
	known, err := Fold(events)
	if err != nil {
		return nil, nil, fmt.Errorf("read the events of delivery %s: %w", body.ID, err)
	}
	if known.Received == nil {
		return nil, nil, fmt.Errorf("replay %s: %w", body.ID, ErrUnknownDelivery)
	}
	decision := Decide(body, rules)
	if decision.Void != nil {
		return nil, decision.Void, nil
	}
	attempt := known.Highest() + 1
	var runs []eventlog.Assignment
	var open []string
	for _, a := range decision.Forwards {
		if len(only) > 0 && !slices.Contains(only, a.Deployment) {
			continue
		}
		if p := known.Parts[a.Deployment]; p.Open() {
			open = append(open, p.describe(a.Deployment))
		}
		a.Attempt = attempt
		runs = append(runs, a)
	}
	if len(open) > 0 {
		return nil, nil, fmt.Errorf("replay %s: %w: %s", body.ID, ErrOpen, strings.Join(open, "; "))
	}
	if len(runs) == 0 {
		var would []string
		for _, a := range decision.Forwards {
			would = append(would, a.Deployment)
		}
		return nil, nil, fmt.Errorf("replay %s: %w; it would go to: %s", body.ID, ErrNotChosen, strings.Join(would, ", "))
	}
	return runs, nil, nil
}
