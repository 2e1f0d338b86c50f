package router

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Status says where a deployment's part of a delivery stands.
type Status string

// The statuses of a Part.
const (
	StatusWaiting  Status = "waiting"
	StatusRunning  Status = "running"
	StatusDeployed Status = "deployed"
	StatusFailed   Status = "failed"
	StatusVoided   Status = "voided"
)

// Part is what the log says of one delivery at one deployment.
type Part struct {
	// Assignment is the newest one. Its Attempt may be less than the part's: a
	// run that was interrupted goes on as a new attempt of the same assignment.
	Assignment eventlog.Assignment
	// Attempt is the one that Status is about: one that has not ended, where there
	// is one, else the one that ended last.
	Attempt int
	// Highest is the highest attempt that was assigned or run.
	Highest int
	Status  Status
	// Step is where the attempt failed, for StatusFailed.
	Step string
	// Reason is why the attempt was voided, for StatusVoided.
	Reason eventlog.Reason
}

// Open says that something of the part is still to come.
func (p Part) Open() bool { return p.Status == StatusWaiting || p.Status == StatusRunning }

// DeliveryState is the fold of one delivery's events.
type DeliveryState struct {
	// Received is nil where the log does not know the delivery.
	Received *eventlog.Received
	// Void is set where the delivery as a whole ended in a void.
	Void *eventlog.Voided
	// Redelivered and Replayed are the highest attempts of those events.
	Redelivered, Replayed int
	// Redacted is set where the delivery's bodies were deleted: none is stored
	// again.
	Redacted *eventlog.Redacted
	// Parts is keyed by deployment.
	Parts map[string]Part
	// Position is that of the newest event.
	Position int64
	// Actor is that of the received event.
	Actor string

	entries map[string]bool
}

// Handled says whether the main-queue entry of this ULID is in the log already,
// which happens when a crash came between the commit and the removal of the file.
func (s DeliveryState) Handled(entry string) bool { return s.entries[entry] }

// Highest is the highest attempt of any deployment, 0 where there is none.
func (s DeliveryState) Highest() int {
	highest := s.Replayed
	for _, p := range s.Parts {
		highest = max(highest, p.Highest)
	}
	return highest
}

// Deployments lists the deployments that the delivery was handed to, sorted.
func (s DeliveryState) Deployments() []string {
	return slices.Sorted(maps.Keys(s.Parts))
}

// Fold reads the events of one delivery of one instance, in position order. An
// event that this binary does not know is an error. Where the runs stand is the
// read models' fold, so that router, worker and queues agree about it.
func Fold(events []eventlog.Event) (DeliveryState, error) {
	s := DeliveryState{Parts: map[string]Part{}, entries: map[string]bool{}}
	if len(events) == 0 {
		return s, nil
	}
	runs := projections.NewState()
	assigned := map[string]eventlog.Assignment{}
	for _, e := range events {
		if err := runs.Apply(&e); err != nil {
			return DeliveryState{}, err
		}
		data, err := e.Decode()
		if err != nil {
			return DeliveryState{}, err
		}
		switch d := data.(type) {
		case eventlog.Received:
			s.Received, s.Actor = &d, e.Actor
			s.entries[d.Entry] = true
		case eventlog.Redelivered:
			s.Redelivered = max(s.Redelivered, e.Attempt)
			s.entries[d.Entry] = true
		case eventlog.Replayed:
			s.Replayed = max(s.Replayed, e.Attempt)
		case eventlog.Redacted:
			s.Redacted = &d
		case eventlog.Voided:
			if e.Deployment == nil {
				s.Void = &d
			}
		}
		orders, err := e.Assignments()
		if err != nil {
			return DeliveryState{}, err
		}
		for _, a := range orders {
			assigned[a.Deployment] = a
		}
	}
	s.Position = events[len(events)-1].Position
	told := map[string]projections.Attempt{}
	for _, a := range runs.Attempts("") { // by deployment, in the order of their numbers
		p := s.Parts[a.Deployment]
		p.Assignment, p.Highest = assigned[a.Deployment], a.Attempt
		if was, ok := told[a.Deployment]; !ok || tells(a, was) {
			told[a.Deployment] = a
			p.Attempt, p.Status, p.Step, p.Reason = a.Attempt, statusOf(a.Outcome), a.Step, eventlog.Reason(a.Reason)
		}
		s.Parts[a.Deployment] = p
	}
	return s, nil
}

// tells says whether a, rather than b, is where the part stands.
func tells(a, b projections.Attempt) bool {
	if a.Open() != b.Open() {
		return a.Open()
	}
	if a.Open() {
		return a.Outcome == projections.OutcomeRunning
	}
	return a.EndedPosition > b.EndedPosition
}

func statusOf(outcome projections.Outcome) Status {
	if outcome == projections.OutcomeInterrupted {
		// Policy follows: a `started` with the next attempt, or a `failed` with this
		// one. Until then the work waits.
		return StatusWaiting
	}
	return Status(outcome)
}

// describe says where the part stands, for people.
func (p Part) describe(slug string) string {
	switch p.Status {
	case StatusWaiting:
		return fmt.Sprintf("%s waits for it (attempt %d)", show(slug), p.Attempt)
	case StatusRunning:
		return fmt.Sprintf("%s is running it (attempt %d)", show(slug), p.Attempt)
	case StatusDeployed:
		return fmt.Sprintf("%s deployed it (attempt %d)", show(slug), p.Attempt)
	case StatusFailed:
		if p.Step != "" {
			return fmt.Sprintf("%s failed it at step %s (attempt %d)", show(slug), quote(p.Step), p.Attempt)
		}
		return fmt.Sprintf("%s failed it (attempt %d)", show(slug), p.Attempt)
	default:
		return fmt.Sprintf("%s voided it: %s (attempt %d)", show(slug), p.Reason, p.Attempt)
	}
}

// Pending says whether anything of the delivery is still to come: it waits, it
// runs, or it was not decided yet.
func (s DeliveryState) Pending() bool {
	if len(s.Parts) == 0 {
		return s.Void == nil
	}
	for _, p := range s.Parts {
		if p.Open() {
			return true
		}
	}
	return false
}
