// Package figures owns the numbers of a period: how often a deployment deployed
// and failed, how long a push took to be live, and how long it waited. They are
// computed from a fold of the log and from nothing else.
package figures

import (
	"cmp"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/projections"
)

// Period is the time that a report is about: Since is within it, Until is not.
// A zero time does not bound it.
type Period struct{ Since, Until time.Time }

// Contains says whether t lies in the period.
func (p Period) Contains(t time.Time) bool {
	return !t.IsZero() && !t.Before(p.Since) && (p.Until.IsZero() || t.Before(p.Until))
}

// Numbers are those of one deployment, or of all together.
type Numbers struct {
	// Deploys and Failures count the runs that ended in the period.
	Deploys, Failures int
	// Voided counts the attempts that were voided in the period and never ran.
	Voided int
	// LeadTime is from a push to its first being live, Wait from an order to
	// the start of its run, and Took from a run's start to its end.
	LeadTime, Wait, Took Spread
	// Longest is the run that took longest; nil where none ended.
	Longest *projections.Attempt
}

// Runs is the number of runs that ended, whichever way.
func (n Numbers) Runs() int { return n.Deploys + n.Failures }

// FailureRate is Failures / Runs; false where nothing ran.
func (n Numbers) FailureRate() (rate float64, ok bool) {
	if n.Runs() == 0 {
		return 0, false
	}
	return float64(n.Failures) / float64(n.Runs()), true
}

// Line is a report's row.
type Line struct {
	// Deployment is the slug, or "" for all of them together.
	Deployment string
	Numbers
}

// Spread is a collection of durations.
type Spread struct{ sorted []time.Duration }

// Count is how many durations there are.
func (s Spread) Count() int { return len(s.sorted) }

// Median is Quantile(50).
func (s Spread) Median() (time.Duration, bool) { return s.Quantile(50) }

// P90 is Quantile(90).
func (s Spread) P90() (time.Duration, bool) { return s.Quantile(90) }

// Quantile is the nearest rank: the least of the durations that at least percent
// of a hundred do not exceed, so always one that was measured. It is false where
// there is none.
func (s Spread) Quantile(percent int) (time.Duration, bool) {
	n := len(s.sorted)
	if n == 0 {
		return 0, false
	}
	rank := (percent*n + 99) / 100
	return s.sorted[min(max(rank, 1), n)-1], true
}

// key is a delivery at a deployment.
type key struct{ delivery, deployment string }

// order is one order of a run; retries after an interruption are of the same order.
type order struct {
	key
	position int64
}

// Maker computes the report of an instance, from one part of its log after another.
type Maker struct {
	period  Period
	only    string
	numbers map[string]*Numbers
	total   *Numbers
}

// New returns a Maker. A deployment in which nothing ended or started in the period
// has no line unless it is among slugs. only, where not empty, is the one deployment
// to look at.
func New(p Period, slugs []string, only string) *Maker {
	m := &Maker{period: p, only: only, numbers: map[string]*Numbers{}, total: new(Numbers)}
	if only != "" {
		slugs = []string{only}
	}
	for _, slug := range slugs {
		m.numbers[slug] = new(Numbers)
	}
	return m
}

// Add counts what started or ended after one position and up to another. The state is a
// fold of all events, up to the latter, of the deliveries to which that happened.
func (m *Maker) Add(state *projections.State, instance string, after, through int64) {
	pushed := map[string]time.Time{}
	for _, d := range state.Deliveries(instance) {
		if d.Source == "github" && !d.ReceivedAt.IsZero() {
			pushed[d.ID] = d.ReceivedAt
		}
	}
	attempts := state.Attempts(instance)
	if m.only != "" {
		attempts = slices.DeleteFunc(attempts, func(a projections.Attempt) bool { return a.Deployment != m.only })
	}
	slices.SortFunc(attempts, func(a, b projections.Attempt) int {
		return cmp.Or(cmp.Compare(a.EndedPosition, b.EndedPosition), cmp.Compare(a.Attempt, b.Attempt))
	})
	within := func(position int64, t time.Time) bool {
		return after < position && position <= through && m.period.Contains(t)
	}
	m.waits(attempts, within)
	m.ends(attempts, pushed, within)
}

// of are the numbers that an attempt of the deployment counts in.
func (m *Maker) of(slug string) []*Numbers {
	n, ok := m.numbers[slug]
	if !ok {
		n = new(Numbers)
		m.numbers[slug] = n
	}
	return []*Numbers{n, m.total}
}

// waits counts, of each order whose first run started in the period, how long
// it waited for that.
func (m *Maker) waits(attempts []projections.Attempt, within func(int64, time.Time) bool) {
	first := map[order]projections.Attempt{}
	for _, a := range attempts {
		if a.StartedPosition == 0 || a.AssignedPosition == 0 {
			continue
		}
		o := order{key{a.DeliveryID, a.Deployment}, a.AssignedPosition}
		if known, ok := first[o]; !ok || a.Attempt < known.Attempt {
			first[o] = a
		}
	}
	for _, a := range first {
		if within(a.StartedPosition, a.StartedAt) {
			for _, n := range m.of(a.Deployment) {
				n.Wait.add(a.StartedAt.Sub(a.AssignedAt))
			}
		}
	}
}

// ends counts the ends in the period. attempts are in the order of their ends.
func (m *Maker) ends(attempts []projections.Attempt, pushed map[string]time.Time, within func(int64, time.Time) bool) {
	live := map[key]bool{}
	for _, a := range attempts {
		k := key{a.DeliveryID, a.Deployment}
		push, isPush := pushed[a.DeliveryID]
		// A replay of what was live before is no second arrival of that push.
		arrived := a.Outcome == projections.OutcomeDeployed && isPush && !live[k]
		if a.Outcome == projections.OutcomeDeployed {
			live[k] = true
		}
		if !within(a.EndedPosition, a.EndedAt) {
			continue
		}
		for _, n := range m.of(a.Deployment) {
			switch a.Outcome {
			case projections.OutcomeDeployed:
				n.Deploys++
			case projections.OutcomeFailed:
				n.Failures++
			case projections.OutcomeVoided:
				n.Voided++
				continue
			default: // interrupted: its retry, or its failed, is what counts
				continue
			}
			if a.StartedPosition != 0 { // else a breach of the log
				took := a.EndedAt.Sub(a.StartedAt)
				n.Took.add(took)
				if n.Longest == nil || took > n.Longest.EndedAt.Sub(n.Longest.StartedAt) {
					n.Longest = &a
				}
			}
			if arrived {
				n.LeadTime.add(a.EndedAt.Sub(push))
			}
		}
	}
}

// Lines are the report; the last one is that of all together, whose durations are of
// all runs, not of the lines.
func (m *Maker) Lines() []Line {
	var lines []Line
	for slug, n := range m.numbers {
		lines = append(lines, Line{slug, *n})
	}
	slices.SortFunc(lines, func(a, b Line) int { return cmp.Compare(a.Deployment, b.Deployment) })
	lines = append(lines, Line{"", *m.total})
	for i := range lines {
		slices.Sort(lines[i].LeadTime.sorted)
		slices.Sort(lines[i].Wait.sorted)
		slices.Sort(lines[i].Took.sorted)
	}
	return lines
}

// add counts a duration. Times of two clocks may be in the wrong order: such a
// duration counts as none.
func (s *Spread) add(d time.Duration) { s.sorted = append(s.sorted, max(0, d)) }
