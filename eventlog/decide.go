package eventlog

import (
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
)

// snapshot is what a batch knows of the log while it holds the head lock.
type snapshot struct {
	position int64
	lastID   ulid.ULID
	at       time.Time
	existing map[identity]Event
	// newest is the position of the newest event that a fence counts; only what is
	// fenced in the batch is looked up.
	newest map[fenceKey]int64
	// bodies are the digests that a delivery's events name; only deliveries that
	// are redacted in the batch are looked up.
	bodies map[deliveryKey][]string
}

type deliveryKey struct{ instance, delivery string }

func (id identity) delivery() deliveryKey { return deliveryKey{id.instance, id.deliveryID} }

// void is the identity of the end of an attempt without a run.
func (id identity) void() identity {
	id.typ = TypeVoided
	return id
}

// redaction is the identity of the redacted event of a delivery.
func (k deliveryKey) redaction() identity {
	return identity{deliveryID: k.delivery, instance: k.instance, typ: TypeRedacted, attempt: 1}
}

// decision is what a batch will do: what it appends, and each group's result
// once that is committed.
type decision struct {
	events   []Event
	payloads []*Payload
	results  []Result
}

// decide is the whole rule of appending, without I/O. Groups are taken in
// order, each by itself and as a whole: one that repeats an earlier one of the
// same batch gets its events, and one that is refused leaves no trace.
func decide(s snapshot, requests []*request) decision {
	d := decision{results: make([]Result, len(requests))}
	for i, r := range requests {
		events, fresh, err := decideGroup(&s, r)
		if err != nil {
			d.results[i].Err = err
			continue
		}
		d.results[i].Events = events
		for _, row := range r.rows {
			if key := row.delivery(); row.typ != TypeRedacted && s.existing[row.identity].ID == "" && s.bodies[key] != nil {
				s.bodies[key] = append(s.bodies[key], row.bodies...)
			}
		}
		for _, e := range fresh {
			s.existing[identityOf(e)] = e
			s.position, s.at = e.Position, e.RecordedAt
			if kinds.find(e.Type).ofRun {
				s.newest[fenceKey{instance: e.Instance, deployment: e.DeploymentSlug()}] = e.Position
			}
			if key := (fenceKey{instance: e.Instance, deliveryID: e.DeliveryID}); s.newest[key] != 0 {
				s.newest[key] = e.Position
			}
		}
		if len(fresh) > 0 {
			s.lastID = ulid.MustParse(fresh[len(fresh)-1].ID)
			d.events = append(d.events, fresh...)
			if r.payload != nil {
				d.payloads = append(d.payloads, r.payload)
			}
		}
	}
	return d
}

// decideGroup returns the group's events, and those of them that are new.
func decideGroup(s *snapshot, r *request) (events, fresh []Event, err error) {
	position, lastID := s.position, s.lastID
	var own map[identity]Event
	for _, row := range r.rows {
		stored, ok := s.existing[row.identity]
		if !ok {
			stored, ok = own[row.identity]
			if ok && (stored.Actor != row.actor || !sameJSON(stored.Data, row.data)) {
				stored.Position = 0 // it never will be stored
			}
		}
		if ok {
			if stored.Actor != row.actor || !kinds.same(stored, row.data) {
				return nil, nil, &ConflictError{Stored: stored, Actor: row.actor, Data: row.data}
			}
			events = append(events, stored)
			continue
		}
		position++
		lastID = nextID(lastID, s.at)
		e := row.event(position, lastID.String(), s.at)
		if own == nil {
			own = make(map[identity]Event, len(r.rows))
		}
		own[row.identity] = e
		events, fresh = append(events, e), append(fresh, e)
	}
	if len(fresh) > 0 {
		if err := s.allowsBodies(r); err != nil {
			return nil, nil, err
		}
	}
	// A group that is recorded already stays recorded, whatever has run
	// since: its commit may have been answered by a connection that broke.
	if len(fresh) > 0 && r.fence != nil {
		newest := s.newest[r.fence.key()]
		if newest != r.fence.Position {
			return nil, nil, fmt.Errorf("%w (of %s: its newest is at position %d, the fence at %d)",
				ErrFenced, r.fence.Deployment+r.fence.DeliveryID, newest, r.fence.Position)
		}
		for _, e := range fresh {
			if void, ok := s.existing[identityOf(e).void()]; ok && e.Type == TypeStarted {
				return nil, nil, fmt.Errorf("%w (attempt %d of %s was voided at position %d)", ErrFenced, e.Attempt, e.DeploymentSlug(), void.Position)
			}
		}
	}
	return events, fresh, nil
}

// allowsBodies refuses a body that would come after its redaction, and a
// redaction that would leave a body.
func (s *snapshot) allowsBodies(r *request) error {
	first := r.rows[0].delivery()
	if _, redacted := s.existing[first.redaction()]; redacted && r.payload != nil {
		return fmt.Errorf("delivery %s: %w", first.delivery, ErrRedacted)
	}
	for _, row := range r.rows {
		if row.typ != TypeRedacted || s.existing[row.identity].ID != "" {
			continue
		}
		if row.identity != row.delivery().redaction() {
			return fmt.Errorf("append: a redacted event has attempt 1 and no deployment")
		}
		names := slices.Compact(slices.Sorted(slices.Values(row.bodies)))
		if !slices.Equal(names, slices.Compact(slices.Sorted(slices.Values(s.bodies[row.delivery()])))) {
			return fmt.Errorf("delivery %s: %w", row.deliveryID, ErrOtherBodies)
		}
	}
	return nil
}

func (r row) event(position int64, id string, at time.Time) Event {
	e := Event{
		Position: position, ID: id, Instance: r.instance, DeliveryID: r.deliveryID, Type: r.typ,
		Attempt: r.attempt, Actor: r.actor, RecordedAt: at, Data: r.data,
	}
	if r.deployment != "" {
		e.Deployment = &r.deployment
	}
	return e
}

func identityOf(e Event) identity {
	return identity{deliveryID: e.DeliveryID, instance: e.Instance, typ: e.Type, deployment: e.DeploymentSlug(), attempt: e.Attempt}
}
