package projections

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

type deliveryKey struct{ instance, id string }

type deploymentKey struct{ instance, slug string }

// record is a delivery with all its attempts, and what the tables hold of them.
type record struct {
	Delivery
	attempts []*attempt // by deployment and number
	dirty    bool
}

type attempt struct {
	Attempt
	dirty bool
}

type deploymentRecord struct {
	Deployment
	// lastEnd is the newest outcome of a run: deployed, failed or "".
	lastEnd Outcome
	dirty   bool
}

// State is the fold of a log, or of the part of it that has been applied. It is
// not safe for concurrent use.
type State struct {
	position    int64
	deliveries  map[deliveryKey]*record
	deployments map[deploymentKey]*deploymentRecord
	totals      map[string]*totals
	breaches    []Breach
}

// NewState returns the state of an empty log.
func NewState() *State {
	return &State{
		deliveries:  make(map[deliveryKey]*record),
		deployments: make(map[deploymentKey]*deploymentRecord),
		totals:      make(map[string]*totals),
	}
}

// Position is that of the last event that was applied.
func (s *State) Position() int64 { return s.position }

// ForgetEnded drops a delivery that owes nothing, so that a fold that goes on
// for ever stays small. Later questions about it go to the log.
func (s *State) ForgetEnded(instance, deliveryID string) {
	key := deliveryKey{instance, deliveryID}
	if r := s.deliveries[key]; r != nil && r.Open == 0 {
		delete(s.deliveries, key)
	}
}

// FoldAt folds events, which must come in position order; it stops at the first
// error of the sequence. Events may be left out of it (those of other instances,
// say), but not events of the deliveries and deployments that are asked about.
func FoldAt(events iter.Seq2[eventlog.Event, error]) (*State, error) {
	return fold(events, func(*State, *eventlog.Event) {})
}

// FoldOpen is FoldAt that keeps the deployments and, of the deliveries, those that
// owe something, so that it is small however long the log is.
func FoldOpen(events iter.Seq2[eventlog.Event, error]) (*State, error) {
	return fold(events, func(s *State, e *eventlog.Event) {
		if e.Type != eventlog.TypeReceived { // whose decision comes next
			s.ForgetEnded(e.Instance, e.DeliveryID)
		}
	})
}

func fold(events iter.Seq2[eventlog.Event, error], applied func(*State, *eventlog.Event)) (*State, error) {
	s := NewState()
	for e, err := range events {
		if err != nil {
			return nil, fmt.Errorf("fold the log after position %d: %w", s.position, err)
		}
		if err := s.Apply(&e); err != nil {
			return nil, err
		}
		applied(s, &e)
	}
	return s, nil
}

// Deployments lists the deployments of an instance ("" for all), by slug, and those of
// also that no event has named.
func (s *State) Deployments(instance string, also ...Key) []Deployment {
	var list []Deployment
	for _, d := range s.deployments {
		if instance == "" || d.Instance == instance {
			list = append(list, d.snapshot())
		}
	}
	return withoutAll(list, also)
}

// Holds are the newest freeze and the newest pin of a deployment, ended or not; nil
// where there never was one.
func (s *State) Holds(instance, slug string) (frozen, pinned *Hold) {
	var list []Deployment
	for _, key := range []deploymentKey{{instance, slug}, {instance, All}} {
		d := s.deployments[key]
		if d == nil {
			d = &deploymentRecord{Deployment: Deployment{Instance: instance, Slug: key.slug}}
		}
		list = append(list, d.Deployment)
	}
	one := withoutAll(list, nil)[0]
	return one.Frozen, one.Pinned
}

// Attempt is one attempt of a delivery that is not forgotten.
func (s *State) Attempt(instance, deliveryID, slug string, n int) (Attempt, bool) {
	if r := s.deliveries[deliveryKey{instance, deliveryID}]; r != nil {
		if a := r.find(slug, n); a != nil {
			return a.Attempt, true
		}
	}
	return Attempt{}, false
}

// Delivery is a delivery that is not forgotten.
func (s *State) Delivery(instance, id string) (Delivery, bool) {
	if r := s.deliveries[deliveryKey{instance, id}]; r != nil {
		return r.Delivery, true
	}
	return Delivery{}, false
}

// withoutAll gives each deployment, and those of also that are not in the list, that of its
// own freeze and the one of all that lasts longer, and leaves out what stands for all. They
// are sorted by instance and slug.
func withoutAll(list []Deployment, also []Key) []Deployment {
	for _, key := range also {
		if !slices.ContainsFunc(list, func(d Deployment) bool { return d.Instance == key.Instance && d.Slug == key.Slug }) {
			list = append(list, Deployment{Instance: key.Instance, Slug: key.Slug, Status: StatusNever})
		}
	}
	all := map[string]*Hold{}
	for _, d := range list {
		if d.Slug == All {
			all[d.Instance] = d.Frozen
		}
	}
	list = slices.DeleteFunc(list, func(d Deployment) bool { return d.Slug == All })
	for i := range list {
		if h := all[list[i].Instance]; h.outlasts(list[i].Frozen) {
			list[i].Frozen, list[i].FrozenWithAll = h, true
		}
	}
	slices.SortFunc(list, func(a, b Deployment) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Slug, b.Slug))
	})
	return list
}

// outlasts compares two holds: one without an end outlasts one that has one, and the
// later end the earlier one, whether somebody has made it or it came by itself.
func (h *Hold) outlasts(other *Hold) bool {
	if h == nil || other == nil {
		return h != nil
	}
	end, others := h.end(), other.end()
	return !others.IsZero() && (end.IsZero() || end.After(others))
}

// end is when it ended or will; zero is never.
func (h *Hold) end() time.Time {
	switch {
	case h.Ended == 0:
		return h.Until
	case h.EndedAt.IsZero(): // read models of before there was one do not say
		return h.Since
	}
	return h.EndedAt
}

// Deliveries lists the deliveries of an instance ("" for all), by instance and ID.
func (s *State) Deliveries(instance string) []Delivery {
	var list []Delivery
	for _, r := range s.deliveries {
		if instance == "" || r.Instance == instance {
			list = append(list, r.Delivery)
		}
	}
	slices.SortFunc(list, func(a, b Delivery) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Attempts lists the attempts of an instance ("" for all), by key.
func (s *State) Attempts(instance string) []Attempt {
	var list []Attempt
	for _, r := range s.deliveries {
		if instance != "" && r.Instance != instance {
			continue
		}
		for _, a := range r.attempts {
			list = append(list, a.Attempt)
		}
	}
	slices.SortFunc(list, func(a, b Attempt) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.DeliveryID, b.DeliveryID),
			cmp.Compare(a.Deployment, b.Deployment), cmp.Compare(a.Attempt, b.Attempt))
	})
	return list
}

// Newest returns the newest attempt of the run that the event at position
// ordered: the one that it assigned, or the last that went on after an
// interruption. The order has ended exactly when that attempt is not open. It is
// false where the event ordered no attempt of its own.
func (s *State) Newest(instance, deliveryID, slug string, position int64) (Attempt, bool) {
	var newest *attempt
	if r := s.deliveries[deliveryKey{instance, deliveryID}]; r != nil {
		for _, a := range r.of(slug) {
			if a.AssignedPosition == position {
				newest = a
			}
		}
	}
	if newest == nil {
		return Attempt{}, false
	}
	return newest.Attempt, true
}

// record returns the record of e's delivery, made where there is none.
func (s *State) record(e *eventlog.Event) *record {
	key := deliveryKey{e.Instance, e.DeliveryID}
	r, ok := s.deliveries[key]
	if !ok {
		r = &record{Delivery: Delivery{Instance: key.instance, ID: key.id}}
		s.deliveries[key] = r
	}
	return r
}

func (s *State) deployment(instance, slug string) *deploymentRecord {
	key := deploymentKey{instance, slug}
	d, ok := s.deployments[key]
	if !ok {
		d = &deploymentRecord{Deployment: Deployment{Instance: instance, Slug: slug, Status: StatusNever}}
		s.deployments[key] = d
	}
	d.dirty = true
	return d
}

// snapshot returns a copy that later events do not change.
func (d *deploymentRecord) snapshot() Deployment {
	c := d.Deployment
	for _, mark := range []**Mark{&c.Live, &c.Running, &c.Last} {
		if *mark != nil {
			m := **mark
			*mark = &m
		}
	}
	return c
}

// set writes m into *mark, which it reuses.
func set(mark **Mark, m Mark) {
	if *mark == nil {
		*mark = new(Mark)
	}
	**mark = m
}

// put adds an attempt.
func (r *record) put(a *attempt) {
	i, _ := slices.BinarySearchFunc(r.attempts, a, func(b, a *attempt) int {
		return cmp.Or(cmp.Compare(b.Deployment, a.Deployment), cmp.Compare(b.Attempt.Attempt, a.Attempt.Attempt))
	})
	r.attempts = slices.Insert(r.attempts, i, a)
}

// of returns the attempts at a deployment.
func (r *record) of(slug string) []*attempt {
	from, _ := slices.BinarySearchFunc(r.attempts, slug, func(a *attempt, slug string) int { return cmp.Compare(a.Deployment, slug) })
	to := from
	for to < len(r.attempts) && r.attempts[to].Deployment == slug {
		to++
	}
	return r.attempts[from:to]
}

// find returns the attempt of the deployment with the number, or nil.
func (r *record) find(slug string, n int) *attempt {
	for _, a := range r.of(slug) {
		if a.Attempt.Attempt == n {
			return a
		}
	}
	return nil
}

// interruptedBelow returns the newest attempt under n that was interrupted and
// that no later attempt has continued, or nil.
func (r *record) interruptedBelow(slug string, n int) *attempt {
	var newest *attempt
	for _, a := range r.of(slug) {
		if a.Attempt.Attempt < n && a.Outcome == OutcomeInterrupted && a.Open() {
			newest = a
		}
	}
	return newest
}
