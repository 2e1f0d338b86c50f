package projections

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

type deliveryKey struct{ instance, id string }

type deploymentKey struct{ instance, slug string }

// record is a delivery with all its attempts, and what the tables hold of them.
type record struct {
	Delivery
	attempts []*attempt
	// stored says that the tables have a row of this delivery.
	stored bool
	dirty  bool
	// queued says that a builder has it in line to be written, unwritten that it
	// was changed since it was.
	queued, unwritten bool
}

// written says that the tables have all of it, and nothing is in line.
func (r *record) written() {
	r.stored, r.unwritten, r.queued = true, false, false
	for _, a := range r.attempts {
		a.stored, a.dirty = true, false
	}
}

// ended says that the delivery owes nothing any more.
func (r *record) ended() bool { return r.State == DeliveryFinished || r.State == DeliveryVoided }

type attempt struct {
	Attempt
	stored, dirty bool
}

type deploymentRecord struct {
	Deployment
	// lastEnd is the newest outcome of a run: deployed, failed or "".
	lastEnd       Outcome
	stored, dirty bool
}

// State is the fold of a log, or of the part of it that has been applied. It is
// not safe for concurrent use.
type State struct {
	position    int64
	deliveries  map[deliveryKey]*record
	deployments map[deploymentKey]*deploymentRecord
	totals      map[string]*totals
	breaches    []Breach
	decoder     *decoder
	fields      fields
	// last is the record that was asked for last; neighbours often share it.
	last *record
	// touched are the deliveries that were changed since the last write.
	touched []*record
}

// NewState returns the state of an empty log.
func NewState() *State {
	return &State{
		deliveries:  make(map[deliveryKey]*record),
		deployments: make(map[deploymentKey]*deploymentRecord),
		totals:      make(map[string]*totals),
		decoder:     newDecoder(),
	}
}

// FoldAt folds events, which must come in position order; it stops at the first
// error of the sequence. Events may be left out of it (those of other instances,
// say), but not events of the deliveries and deployments that are asked about.
func FoldAt(events iter.Seq2[eventlog.Event, error]) (*State, error) {
	s := NewState()
	for e, err := range events {
		if err != nil {
			return nil, fmt.Errorf("fold the log after position %d: %w", s.position, err)
		}
		if err := s.Apply(&e); err != nil {
			return nil, err
		}
		s.touched = s.touched[:0]
	}
	return s, nil
}

// Deployments lists the deployments of an instance ("" for all), by slug.
func (s *State) Deployments(instance string) []Deployment {
	var list []Deployment
	for _, d := range s.deployments {
		if instance == "" || d.Instance == instance {
			list = append(list, d.snapshot())
		}
	}
	slices.SortFunc(list, func(a, b Deployment) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Slug, b.Slug))
	})
	return list
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

// record returns the record of e's delivery, made where there is none.
func (s *State) record(e *eventlog.Event) *record {
	if s.last != nil && s.last.ID == e.DeliveryID && s.last.Instance == e.Instance {
		return s.last
	}
	key := deliveryKey{e.Instance, e.DeliveryID}
	if r, ok := s.deliveries[key]; ok {
		s.last = r
		return r
	}
	key.instance = s.decoder.names.internString(e.Instance)
	r := &record{Delivery: Delivery{
		Instance: key.instance, ID: key.id,
	}}
	s.deliveries[key], s.last = r, r
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

// find returns the attempt of the deployment with the number, or nil.
func (r *record) find(slug string, n int) *attempt {
	for _, a := range r.attempts {
		if a.Attempt.Attempt == n && a.Deployment == slug {
			return a
		}
	}
	return nil
}

// interruptedBelow returns the newest attempt under n that was interrupted and
// that no later attempt has continued, or nil.
func (r *record) interruptedBelow(slug string, n int) *attempt {
	var newest *attempt
	for _, a := range r.attempts {
		if a.Deployment == slug && a.Attempt.Attempt < n && a.Outcome == OutcomeInterrupted && a.open() &&
			(newest == nil || a.Attempt.Attempt > newest.Attempt.Attempt) {
			newest = a
		}
	}
	return newest
}
