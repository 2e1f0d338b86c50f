package router

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// Verdict is the part of a decision that can be compared with another one: where
// the delivery went, or why it went nowhere.
type Verdict struct {
	// Forwards are sorted by deployment.
	Forwards []eventlog.Assignment
	Void     *eventlog.Voided
}

// Verdict is what d decided.
func (d Decision) Verdict() Verdict { return Verdict{Forwards: d.Forwards, Void: d.Void} }

// Recorded is what was decided of a delivery when it came in, as its events tell.
// It is false where they do not: nothing was decided yet.
func Recorded(events []eventlog.Event) (Verdict, bool, error) {
	var v Verdict
	for _, e := range events {
		if e.Attempt > 1 || e.Type != eventlog.TypeForwarded && (e.Type != eventlog.TypeVoided || e.Deployment != nil) {
			continue
		}
		data, err := e.Decode()
		if err != nil {
			return Verdict{}, false, err
		}
		switch d := data.(type) {
		case eventlog.Voided:
			v.Void = &d
		case eventlog.Forwarded:
			orders, err := e.Assignments()
			if err != nil {
				return Verdict{}, false, err
			}
			v.Forwards = append(v.Forwards, orders...)
		}
	}
	slices.SortFunc(v.Forwards, func(a, b eventlog.Assignment) int { return cmp.Compare(a.Deployment, b.Deployment) })
	return v, v.Void != nil || len(v.Forwards) > 0, nil
}

// Same says whether two verdicts come to the same: the same commit for the same
// deployments, or a void for the same reason. How a void is worded, which rule
// matched and how a deployment is configured make no difference.
func (v Verdict) Same(o Verdict) bool {
	if v.Void != nil || o.Void != nil {
		return v.Void != nil && o.Void != nil && v.Void.Reason == o.Void.Reason
	}
	return slices.EqualFunc(v.Forwards, o.Forwards, func(a, b eventlog.Assignment) bool {
		return a.Deployment == b.Deployment && a.Branch == b.Branch && a.Commit == b.Commit
	})
}

// Deployments are the slugs that the delivery is forwarded to.
func (v Verdict) Deployments() []string {
	slugs := []string{}
	for _, a := range v.Forwards {
		slugs = append(slugs, a.Deployment)
	}
	return slugs
}

// String says what was decided and why, for people.
func (v Verdict) String() string {
	if v.Void != nil {
		return fmt.Sprintf("voided (%s): %s", v.Void.Reason, v.Void.Detail)
	}
	var parts []string
	for _, a := range v.Forwards {
		parts = append(parts, fmt.Sprintf("%s (%s)", a.Deployment, a.Rule))
	}
	return "forwarded to " + strings.Join(parts, ", ")
}
