package projections

import (
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// Apply folds one event into the state. It is the only place that gives events
// a meaning: live update, rebuild, verification and FoldAt all go through it.
//
// An event that breaks the log's rules (a second end of one attempt, say) is not an
// error, since the log is what happened and the rest of it still counts: it is
// noted as a Breach, and the first of two contradicting facts stands. An event
// that this binary does not know is an *eventlog.UnknownEventError; the state is
// then as it was before.
func (s *State) Apply(e *eventlog.Event) error {
	if e.Position <= s.position {
		return fmt.Errorf("fold event at position %d after position %d: events must come in order", e.Position, s.position)
	}
	data, err := fieldsOf(e)
	if err != nil {
		return err
	}
	f := &data
	s.position = e.Position
	if ofDeployment(e.Type) {
		s.hold(e, f)
		return nil
	}
	r := s.record(e)
	r.dirty = true
	before, undecided := r.State, r.undecided()
	slug := e.DeploymentSlug()
	if r.ReceivedPosition == 0 && e.Type != eventlog.TypeReceived {
		s.breach(e, "the delivery has no received before this %s", e.Type)
	}
	switch e.Type {
	case eventlog.TypeReceived:
		s.received(e, r, f)
	case eventlog.TypeForwarded:
		if r.VoidedPosition != 0 {
			s.breach(e, "forwarded, but the delivery was voided at position %d", r.VoidedPosition)
		}
		s.assign(e, r, eventlog.Assignment{Deployment: slug, Attempt: e.Attempt, Order: eventlog.Order{Branch: f.Branch, Commit: f.Commit}})
	case eventlog.TypeRedelivered:
		r.Redeliveries++
		s.assignAll(e, r, f.Deployments)
	case eventlog.TypeReplayed:
		r.Replays++
		s.assignAll(e, r, f.Deployments)
	case eventlog.TypeVoided:
		if slug == "" {
			s.voidDelivery(e, r, f)
		} else {
			s.end(e, r, slug, OutcomeVoided, f)
		}
	case eventlog.TypeStarted:
		s.started(e, r, slug, f)
	case eventlog.TypeDeployed:
		s.end(e, r, slug, OutcomeDeployed, f)
	case eventlog.TypeFailed:
		s.end(e, r, slug, OutcomeFailed, f)
	case eventlog.TypeInterrupted:
		s.interrupted(e, r, slug, f)
	case eventlog.TypeCanceled:
		s.canceled(e, r, slug, f)
	}
	r.LastPosition, r.LastAt = e.Position, stored(e.RecordedAt)
	r.settle()
	s.count(r.Instance, before, r.State, undecided, r.undecided())
	return nil
}

// settle derives the delivery's state from its facts.
func (r *record) settle() {
	switch {
	case r.ReceivedPosition == 0:
		r.State = DeliveryUnreceived
	case r.Open > 0:
		r.State = DeliveryPending
	case r.Attempts > 0:
		r.State = DeliveryFinished
	case r.VoidedPosition != 0:
		r.State = DeliveryVoided
	default:
		r.State = DeliveryPending
	}
}

func (s *State) received(e *eventlog.Event, r *record, f *fields) {
	if r.ReceivedPosition != 0 {
		s.breach(e, "received again; it was received at position %d", r.ReceivedPosition)
		return
	}
	s.total(r.Instance).received++
	r.ReceivedPosition = e.Position
	r.Event, r.Ref, r.Repository, r.Commit = f.Event, f.Ref, f.Repository, f.Commit
	r.Source, r.ReceivedAt = f.Source, f.ReceivedAt
	r.Actor = e.Actor
}

func (s *State) voidDelivery(e *eventlog.Event, r *record, f *fields) {
	if e.Attempt <= 1 && r.Attempts > 0 {
		s.breach(e, "voided, but the delivery has %d attempts", r.Attempts)
	}
	r.VoidedPosition, r.Reason, r.Detail = e.Position, f.Reason, f.Detail
}

func (s *State) assignAll(e *eventlog.Event, r *record, list []eventlog.Assignment) {
	for _, a := range list {
		s.assign(e, r, a)
	}
}

// assign adds an attempt that waits for a worker.
func (s *State) assign(e *eventlog.Event, r *record, a eventlog.Assignment) {
	if a.Deployment == "" {
		s.breach(e, "%s names no deployment", e.Type)
		return
	}
	if old := r.find(a.Deployment, a.Attempt); old != nil {
		s.breach(e, "attempt %d of %s is assigned again; it is known since position %d",
			a.Attempt, a.Deployment, max(old.AssignedPosition, old.StartedPosition))
		return
	}
	d := s.deployment(r.Instance, a.Deployment)
	s.add(r, d, &attempt{Attempt: Attempt{
		Deployment: a.Deployment, Attempt: a.Attempt, Cause: e.Type,
		AssignedPosition: e.Position, AssignedAt: stored(e.RecordedAt),
		Actor: e.Actor, Branch: a.Branch, Commit: a.Commit,
	}})
	d.last(e, a.Commit, r.ID, a.Attempt, e.Actor)
	d.settle()
}

// add puts a waiting attempt into the record.
func (s *State) add(r *record, d *deploymentRecord, a *attempt) {
	a.Instance, a.DeliveryID, a.Outcome, a.dirty = r.Instance, r.ID, OutcomeWaiting, true
	r.put(a)
	r.Attempts++
	r.Open++
	d.Pending++
}

// attempt returns the attempt that e is about. One that no event assigned is
// the continuation of an interrupted attempt, or a breach; it is added either
// way. The interrupted attempts before it are over with it.
func (s *State) attempt(e *eventlog.Event, r *record, d *deploymentRecord) *attempt {
	a := r.find(d.Slug, e.Attempt)
	if a == nil {
		a = &attempt{Attempt: Attempt{Deployment: d.Slug, Attempt: e.Attempt}}
		if from := r.interruptedBelow(d.Slug, e.Attempt); from != nil {
			a.Cause, a.AssignedPosition, a.AssignedAt = from.Cause, from.AssignedPosition, from.AssignedAt
			a.Actor, a.Branch, a.Commit = from.Actor, from.Branch, from.Commit
		} else {
			s.breach(e, "%s of attempt %d of %s, which nothing assigned", e.Type, e.Attempt, d.Slug)
			a.Actor = e.Actor
		}
		s.add(r, d, a)
	}
	for from := r.interruptedBelow(d.Slug, e.Attempt); from != nil; from = r.interruptedBelow(d.Slug, e.Attempt) {
		s.leave(r, d, from)
		from.ContinuedBy = e.Attempt
	}
	a.dirty = true
	return a
}

// leave takes an open attempt out of the counts; the caller gives it its new outcome.
func (s *State) leave(r *record, d *deploymentRecord, a *attempt) {
	a.dirty = true
	if !a.Open() {
		return
	}
	if a.pending() {
		d.Pending--
	}
	r.Open--
}

func (s *State) started(e *eventlog.Event, r *record, slug string, f *fields) {
	d := s.deployment(r.Instance, slug)
	a := s.attempt(e, r, d)
	if a.Outcome != OutcomeWaiting {
		s.breach(e, "attempt %d of %s started, but it is %s since position %d",
			e.Attempt, slug, a.Outcome, max(a.StartedPosition, a.EndedPosition))
		return
	}
	if d.Running != nil {
		s.breach(e, "attempt %d of %s started while attempt %d of delivery %s, started at position %d, has not ended",
			e.Attempt, slug, d.Running.Attempt, d.Running.DeliveryID, d.Running.Position)
	}
	d.Pending--
	a.Outcome = OutcomeRunning
	a.StartedPosition, a.StartedAt = e.Position, stored(e.RecordedAt)
	a.Commit, a.PreviousCommit, a.Host = f.Commit, f.PreviousCommit, f.Host
	set(&d.Running, Mark{
		Commit: a.Commit, DeliveryID: r.ID, Attempt: e.Attempt,
		Since: a.StartedAt, Actor: a.Actor, Position: e.Position,
	})
	d.last(e, a.Commit, r.ID, e.Attempt, a.Actor)
	d.settle()
}

func (s *State) end(e *eventlog.Event, r *record, slug string, outcome Outcome, f *fields) {
	d := s.deployment(r.Instance, slug)
	a := s.attempt(e, r, d)
	switch {
	case a.Outcome == OutcomeInterrupted && a.ContinuedBy != 0:
		s.breach(e, "attempt %d of %s %s, but attempt %d has continued it", e.Attempt, slug, outcome, a.ContinuedBy)
		return
	case !a.Open():
		s.breach(e, "attempt %d of %s %s, but it is %s since position %d", e.Attempt, slug, outcome, a.Outcome, a.EndedPosition)
		return
	case a.StartedPosition == 0 && outcome != OutcomeVoided:
		s.breach(e, "attempt %d of %s %s, but it never started", e.Attempt, slug, outcome)
	}
	s.leave(r, d, a)
	a.Outcome = outcome
	a.EndedPosition, a.EndedAt = e.Position, stored(e.RecordedAt)
	if f.Commit != "" {
		a.Commit = f.Commit
	}
	if f.PreviousCommit != "" {
		a.PreviousCommit = f.PreviousCommit
	}
	a.DurationMS = f.DurationMS
	a.Step, a.ExitCode, a.Signal, a.Error = f.Step, f.ExitCode, f.Signal, f.Error
	a.Reason, a.Detail, a.SupersededBy = f.Reason, f.Detail, f.SupersededBy
	d.stopped(r.ID, e.Attempt)
	switch outcome {
	case OutcomeDeployed:
		d.Deployed++
		d.lastEnd, d.Failure = outcome, nil
		set(&d.Live, Mark{
			Commit: a.Commit, DeliveryID: r.ID, Attempt: e.Attempt,
			Since: a.EndedAt, Actor: a.Actor, Position: e.Position,
		})
	case OutcomeFailed:
		d.Deployment.Failed++
		d.lastEnd = outcome
		d.Failure = &Failure{
			Step: a.Step, ExitCode: a.ExitCode, Signal: a.Signal, Error: a.Error,
			CanceledBy: a.CanceledBy, CanceledReason: a.CanceledReason,
		}
	case OutcomeVoided:
		d.Voided++
	}
	d.last(e, a.Commit, r.ID, e.Attempt, a.Actor)
	d.settle()
}

func (s *State) interrupted(e *eventlog.Event, r *record, slug string, f *fields) {
	d := s.deployment(r.Instance, slug)
	a := s.attempt(e, r, d)
	if a.Outcome != OutcomeRunning {
		s.breach(e, "attempt %d of %s interrupted, but it is %s, not running", e.Attempt, slug, a.Outcome)
		return
	}
	// It stays open, and waits again: for a new attempt, or for its failed.
	d.Pending++
	a.Outcome = OutcomeInterrupted
	a.EndedPosition, a.EndedAt = e.Position, stored(e.RecordedAt)
	a.Detail, a.Step, a.Next = f.Detail, f.Step, f.Then
	d.stopped(r.ID, e.Attempt)
	d.last(e, a.Commit, r.ID, e.Attempt, a.Actor)
	d.settle()
}

func (s *State) canceled(e *eventlog.Event, r *record, slug string, f *fields) {
	a := r.find(slug, e.Attempt)
	if a == nil || a.Outcome != OutcomeRunning {
		s.breach(e, "attempt %d of %s canceled, but it is not running", e.Attempt, slug)
		return
	}
	a.CanceledBy, a.CanceledReason, a.dirty = e.Actor, f.Reason, true
}

// ofDeployment says that events of the type are about a deployment, or all of them, and
// of no delivery, whose ID they may have all the same.
func ofDeployment(t eventlog.Type) bool {
	switch t {
	case eventlog.TypePinned, eventlog.TypeUnpinned, eventlog.TypeFrozen, eventlog.TypeThawed:
		return true
	}
	return false
}

// hold makes and ends pins and freezes. A new one takes the place of the one before; an
// end of what is not there, or has ended by itself, changes nothing.
func (s *State) hold(e *eventlog.Event, f *fields) {
	slug := e.DeploymentSlug()
	if slug == "" {
		slug = All
	}
	d := s.deployment(e.Instance, slug)
	at := &d.Frozen
	if e.Type == eventlog.TypePinned || e.Type == eventlog.TypeUnpinned {
		at = &d.Pinned
	}
	switch e.Type {
	case eventlog.TypePinned, eventlog.TypeFrozen:
		*at = &Hold{Commit: f.Commit, Reason: f.Reason, Actor: e.Actor, Since: stored(e.RecordedAt), Until: f.Until, Position: e.Position}
	default:
		if h := *at; h.Active(e.RecordedAt) {
			ended := *h // others may have the old one
			ended.Ended, ended.EndedAt = e.Position, stored(e.RecordedAt)
			*at = &ended
		}
	}
}

// stopped clears the mark of the running attempt, if it is this one.
func (d *deploymentRecord) stopped(deliveryID string, n int) {
	if d.Running != nil && d.Running.DeliveryID == deliveryID && d.Running.Attempt == n {
		d.Running = nil
	}
}

func (d *deploymentRecord) last(e *eventlog.Event, commit, deliveryID string, n int, actor string) {
	d.LastType = e.Type
	set(&d.Last, Mark{
		Commit: commit, DeliveryID: deliveryID, Attempt: n,
		Since: stored(e.RecordedAt), Actor: actor, Position: e.Position,
	})
}

// settle derives the deployment's status from its facts. A void never changes
// what is live or whether the newest run failed.
func (d *deploymentRecord) settle() {
	switch {
	case d.Running != nil:
		d.Status = StatusRunning
	case d.Pending > 0:
		d.Status = StatusPending
	case d.lastEnd == OutcomeFailed:
		d.Status = StatusFailed
	case d.Live != nil:
		d.Status = StatusLive
	default:
		d.Status = StatusNever
	}
}
