package act

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// Replay is what a replay of one delivery would order, or has ordered.
type Replay struct {
	DeliveryID string
	// Received is the position of its first event; Newest that of its newest one, on
	// which it was planned.
	Received, Newest int64
	Runs             []eventlog.Assignment
	// Why is set where there is nothing to order.
	Why error
}

// Attempt is the number of the attempt that it orders.
func (r Replay) Attempt() int {
	attempt := 0
	for _, a := range r.Runs {
		attempt = max(attempt, a.Attempt)
	}
	return attempt
}

// Parts chooses the deployments to replay for; the zero one takes all that match today.
type Parts struct {
	Deployment string
	// Failed takes those whose newest attempt failed.
	Failed bool
}

func (o Parts) of(events []eventlog.Event) ([]string, error) {
	if o.Deployment != "" {
		return []string{o.Deployment}, nil
	}
	if !o.Failed {
		return nil, nil
	}
	state, err := router.Fold(events)
	if err != nil {
		return nil, err
	}
	var failed []string
	for _, slug := range state.Deployments() {
		if state.Parts[slug].Status == router.StatusFailed {
			failed = append(failed, slug)
		}
	}
	return failed, nil
}

// PlanReplay says what a replay of the delivery would order. An error is one
// that keeps all from being replayed; what concerns this one is in the plan.
func (p *Person) PlanReplay(ctx context.Context, id string, o Parts) (Replay, error) {
	r := Replay{DeliveryID: id}
	var events []eventlog.Event
	for e, err := range p.Log.Find(ctx, eventlog.Filter{Instance: p.Config.Instance, DeliveryID: id}) {
		if err != nil {
			return r, err
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		return r, wrongf("the log of instance %s has no delivery %q", p.Config.Instance, id)
	}
	r.Received, r.Newest = events[0].Position, events[len(events)-1].Position
	body, err := StoredDelivery(ctx, p.Log, events)
	if errors.As(err, new(*missingBodyError)) {
		r.Why = err
		return r, nil
	}
	if err != nil {
		return r, err
	}
	only, err := o.of(events)
	if err != nil {
		return r, err
	}
	runs, void, err := router.PlanReplay(events, body, router.Rules(p.Config), only)
	switch {
	case errors.Is(err, router.ErrNotChosen):
		r.Why = &Error{Err: err}
	case errors.Is(err, router.ErrOpen):
		r.Why = &Error{Err: err, Hint: "`" + p.Command("why", id) + "` shows when it has ended; --deployment replays only another part"}
	case err != nil:
		return r, err
	case void != nil:
		r.Why = &Error{
			Err:  fmt.Errorf("%s is not replayed, because it would be voided again: %s: %s", id, void.Reason, void.Detail),
			Hint: "fix the configuration first; `" + p.Command("why", id) + "` shows its past",
		}
	}
	r.Runs = runs
	return r, nil
}

// Replay plans, and appends what it planned; the error is also in Why where the
// delivery cannot be replayed. It does not sign: several may be replayed at once.
func (p *Person) Replay(ctx context.Context, id string, o Parts, why string) (Replay, error) {
	r, err := p.PlanReplay(ctx, id, o)
	if err != nil {
		return r, err
	}
	if r.Why != nil {
		return r, r.Why
	}
	_, err = p.Log.Append(ctx, eventlog.Group{
		Transitions: []eventlog.Transition{{
			Instance: p.Config.Instance, DeliveryID: id, Attempt: r.Attempt(), Actor: p.Name,
			Data: eventlog.Replayed{Reason: why, Deployments: r.Runs},
		}},
		Fence: &eventlog.Fence{Instance: p.Config.Instance, DeliveryID: id, Position: r.Newest},
	})
	if errors.Is(err, eventlog.ErrFenced) {
		return p.Replay(ctx, id, o, why) // something has come of it meanwhile
	}
	if err != nil {
		return r, fmt.Errorf("append the replay of %s: %w", id, err)
	}
	return r, nil
}

// missingBodyError concerns one delivery: others can be replayed.
type missingBodyError struct{ error }

func (e *missingBodyError) Unwrap() error { return e.error }

// Is makes it the same to those who only ask whether there is a body.
func (e *missingBodyError) Is(target error) bool { return target == eventlog.ErrNoPayload }

// missingBody says why a delivery cannot be decided again, and what to do instead.
func missingBody(id string, events []eventlog.Event) error {
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return err
		}
		if d, ok := data.(eventlog.Redacted); ok {
			return &Error{
				Err:  fmt.Errorf("%s cannot be replayed: its body was deleted by %s: %s (%s)", id, e.Actor, d.Reason, words.Clock(e.RecordedAt)),
				Hint: "`durhack-deployer deploy SLUG --ref COMMIT` runs its commit, which `durhack-deployer why " + id + "` names",
			}
		}
	}
	return &Error{
		Err:  fmt.Errorf("%s cannot be replayed: its body is not stored any more, and no event says that it was redacted (it may have been imported without bodies)", id),
		Hint: "`durhack-deployer verify` shows more; `durhack-deployer deploy SLUG --ref COMMIT` runs its commit",
	}
}

// StoredDelivery puts a delivery together again from its received event and
// the stored body.
func StoredDelivery(ctx context.Context, log *eventlog.Log, events []eventlog.Event) (delivery.Delivery, error) {
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return delivery.Delivery{}, err
		}
		r, ok := data.(eventlog.Received)
		if !ok {
			continue
		}
		payload, err := log.Payload(ctx, r.PayloadDigest)
		if errors.Is(err, eventlog.ErrNoPayload) {
			return delivery.Delivery{}, &missingBodyError{missingBody(e.DeliveryID, events)}
		}
		if err != nil {
			return delivery.Delivery{}, fmt.Errorf("read the stored body of %s: %w", e.DeliveryID, err)
		}
		named, _ := eventlog.BodyOf(&e)
		if err := named.Check(&payload); err != nil {
			return delivery.Delivery{}, &Error{
				Err:  fmt.Errorf("%s cannot be replayed, because what is stored is not what came: %w", e.DeliveryID, err),
				Hint: "`durhack-deployer verify` says what else was changed",
			}
		}
		d := delivery.Delivery{
			ID: e.DeliveryID, Event: r.Event, HookID: r.HookID, ContentType: r.ContentType, ReceivedAt: r.ReceivedAt,
			Source: string(r.Source), Salt: payload.Salt, Body: payload.Body,
		}
		if r.Source == eventlog.SourceCLI {
			d.Actor = e.Actor
			var own manualDeploy
			if err := json.Unmarshal(payload.Body, &own); err != nil {
				return delivery.Delivery{}, fmt.Errorf("read the stored body of %s: %w", e.DeliveryID, err)
			}
			d.Deployment, d.Forced = own.Deployment, own.RequestedRef != ""
		}
		return d, nil
	}
	return delivery.Delivery{}, fmt.Errorf("delivery %s has no received event; run `durhack-deployer verify`", events[0].DeliveryID)
}
