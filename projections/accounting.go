package projections

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// maxBreaches bounds what a state remembers of a log that is wrong throughout;
// the count goes on.
const maxBreaches = 1000

// Breach is something that the log must never hold.
type Breach struct {
	Position   int64
	Instance   string
	DeliveryID string
	Text       string
}

// String names the place and what is wrong with it.
func (b Breach) String() string {
	return fmt.Sprintf("position %d, delivery %s: %s", b.Position, b.DeliveryID, b.Text)
}

// Accounting is invariant 3: received = voided + finished + pending.
type Accounting struct {
	// Received counts received events; the states below are counted by
	// themselves, so that a remainder shows (and is among the breaches).
	Received int
	Voided   int
	Finished int
	Pending  int
	// Undecided counts those of the pending that were neither voided nor
	// forwarded: a breach, since the decision is appended with the received.
	Undecided int
	// Breaches are for people, one line each, in position order, at most 1000.
	Breaches []string
}

type totals struct {
	received  int
	undecided int
	byState   map[DeliveryState]int
	breaches  int
}

func (s *State) total(instance string) *totals {
	t, ok := s.totals[instance]
	if !ok {
		t = &totals{byState: make(map[DeliveryState]int)}
		s.totals[instance] = t
	}
	return t
}

// undecided says that nothing was ordered or voided since the received.
func (d *Delivery) undecided() bool { return d.State == DeliveryPending && d.Attempts == 0 }

// count moves a delivery from what it was before an event to what it is after.
func (s *State) count(instance string, before, after DeliveryState, wasUndecided, isUndecided bool) {
	if before == after && wasUndecided == isUndecided {
		return
	}
	t := s.total(instance)
	switch {
	case isUndecided && !wasUndecided:
		t.undecided++
	case wasUndecided && !isUndecided:
		t.undecided--
	}
	if before != "" {
		t.byState[before]--
	}
	t.byState[after]++
}

func (s *State) breach(e *eventlog.Event, format string, args ...any) {
	s.total(e.Instance).breaches++
	if len(s.breaches) < maxBreaches {
		s.breaches = append(s.breaches, Breach{
			Position: e.Position, Instance: e.Instance, DeliveryID: e.DeliveryID, Text: fmt.Sprintf(format, args...),
		})
	}
}

// Accounting counts the deliveries of an instance and lists what breaks the
// rules of the log. It speaks of a whole log: a state that was folded up to a
// point inside a group of events may show a delivery as undecided.
func (s *State) Accounting(instance string) Accounting {
	t := s.total(instance)
	a := Accounting{
		Received: t.received,
		Voided:   t.byState[DeliveryVoided],
		Finished: t.byState[DeliveryFinished],
		Pending:  t.byState[DeliveryPending],
	}
	for _, b := range s.breaches {
		if b.Instance == instance {
			a.Breaches = append(a.Breaches, b.String())
		}
	}
	if n := t.breaches - len(a.Breaches); n > 0 {
		a.Breaches = append(a.Breaches, fmt.Sprintf("and %d more", n))
	}
	var undecided []*record
	for _, r := range s.deliveries {
		if r.Instance == instance && r.undecided() {
			undecided = append(undecided, r)
		}
	}
	slices.SortFunc(undecided, func(a, b *record) int { return cmp.Compare(a.ReceivedPosition, b.ReceivedPosition) })
	a.Undecided = t.undecided
	for _, r := range undecided[:min(len(undecided), maxBreaches)] {
		a.Breaches = append(a.Breaches, fmt.Sprintf("position %d, delivery %s: received, but neither voided nor forwarded",
			r.ReceivedPosition, r.ID))
	}
	if n := t.undecided - min(len(undecided), maxBreaches); n > 0 {
		a.Breaches = append(a.Breaches, fmt.Sprintf("and %d more received, but neither voided nor forwarded", n))
	}
	if rest := a.Received - a.Voided - a.Finished - a.Pending; rest != 0 {
		a.Breaches = append(a.Breaches, fmt.Sprintf("%d received, but %d voided + %d finished + %d pending",
			a.Received, a.Voided, a.Finished, a.Pending))
	}
	return a
}
