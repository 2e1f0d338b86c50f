package router

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// work is one entry of a batch.
type work struct {
	entry    queue.Entry
	delivery delivery.Delivery
	// decision is what would be decided if the log knew nothing of the delivery.
	decision Decision
	// known are the delivery's events, and same the newest pushes to its commit.
	known, same []eventlog.Event
}

// route does one batch. Each entry ends in one of four ways: its file is gone
// because the log holds it, it is in quarantine, it rests, or it is still
// pending. An error says that some are pending for a reason that needs a pause.
func (r *Router) route(ctx context.Context, entries []queue.Entry) error {
	rules := r.o.Rules()
	return r.commit(ctx, r.load(entries, rules), rules)
}

// commit appends what is decided of a batch.
func (r *Router) commit(ctx context.Context, batch []work, rules []Rule) error {
	if len(batch) == 0 {
		return nil
	}
	if err := r.ask(ctx, batch); err != nil {
		return err
	}
	var groups []eventlog.Group
	var appended []work
	var pushes []pushKey
	for _, w := range batch {
		state, err := Fold(w.known)
		if err != nil {
			// Written by a newer binary: nothing is known to be wrong with the entry.
			r.rest(w.entry, fmt.Errorf("read the events of delivery %s: %w", w.delivery.ID, err))
			continue
		}
		if state.Handled(w.entry.ID.String()) {
			r.done(w.entry)
			continue
		}
		decision := w.decision
		key, ok := decision.key()
		if ok && state.Received == nil {
			if slices.ContainsFunc(pushes, key.mayBe) {
				continue // decided on what the other one of this batch leads to
			}
			twins, err := r.twins(ctx, w, key)
			if err != nil {
				return err
			}
			if len(twins) > 0 && slices.ContainsFunc(pushes, key.sameBranch) {
				continue // so is one that may have moved the branch back
			}
			decision = decision.withoutDuplicates(twins)
		}
		pushes = append(pushes, key)
		group, err := r.group(ctx, w, state, decision, rules)
		if err != nil {
			return err
		}
		groups, appended = append(groups, group), append(appended, w)
	}
	if len(groups) == 0 {
		return nil
	}
	results, err := r.o.Log.AppendAll(ctx, groups)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	return r.clear(groups, appended, results)
}

// load reads entries in order, up to the batch's bytes, and one of each
// delivery: the next of the same ID is decided on what this one leads to. It decides
// each by itself, and holds those that are to wait for a large one.
func (r *Router) load(entries []queue.Entry, rules []Rule) []work {
	var batch []work
	size := 0
	taken := map[string]bool{}
	for _, e := range entries {
		if taken[e.DeliveryID] {
			continue
		}
		if repository, large := r.peek(e); large && r.holds(e, repository, true) {
			continue
		}
		w, ok := r.read(e, rules)
		if !ok || r.holds(e, lowerASCII(w.decision.push.repository), false) {
			continue
		}
		batch = append(batch, w)
		taken[e.DeliveryID] = true
		if size += len(w.delivery.Body); size >= r.o.BatchBytes {
			break
		}
	}
	return batch
}

// read reads an entry and decides it by itself. It is false for one that is dealt
// with: gone, in quarantine, or resting.
func (r *Router) read(e queue.Entry, rules []Rule) (work, bool) {
	raw, err := r.o.Queue.Read(e)
	switch {
	case errors.Is(err, queue.ErrGone):
		r.done(e)
		return work{}, false
	case err != nil && !errors.Is(err, queue.ErrUnreadable):
		r.rest(e, err)
		return work{}, false
	}
	var d delivery.Delivery
	if err == nil {
		d, err = delivery.Decode(raw)
	}
	if err == nil && d.ID != e.DeliveryID {
		err = fmt.Errorf("the file is named for delivery %s but holds %s", e.DeliveryID, d.ID)
	}
	if err != nil {
		r.quarantine(e, err)
		return work{}, false
	}
	if r.o.Asked != nil && d.Source == string(eventlog.SourceGitHub) && d.HookID != "" && r.o.Asked(d.ID) {
		d.Source = string(eventlog.SourceRecovery)
	}
	return work{entry: e, delivery: d, decision: Decide(d, rules)}, true
}

// ask reads in one round trip what the log says of the deliveries, and of other
// pushes to the same commits.
func (r *Router) ask(ctx context.Context, batch []work) error {
	ids := make([]string, len(batch))
	filters := make([]eventlog.Filter, 1, 1+len(batch))
	var pushes []*work
	for i := range batch {
		w := &batch[i]
		ids[i] = w.delivery.ID
		if key, ok := w.decision.key(); ok {
			filters, pushes = append(filters, r.pushesTo(key.after, 0)), append(pushes, w)
		}
	}
	filters[0] = r.ofDeliveries(ids)
	found, err := r.o.Log.FindEach(ctx, filters)
	if err != nil {
		return fmt.Errorf("read what is known of %d deliveries: %w", len(ids), err)
	}
	known := byDelivery(found[0])
	for i := range batch {
		batch[i].known = known[batch[i].delivery.ID]
	}
	for i, w := range pushes {
		w.same = found[1+i]
	}
	return nil
}

func (r *Router) ofDeliveries(ids []string) eventlog.Filter {
	return eventlog.Filter{Instance: r.o.Instance, DeliveryIDs: ids}
}

func byDelivery(events []eventlog.Event) map[string][]eventlog.Event {
	known := map[string][]eventlog.Event{}
	for _, e := range events {
		known[e.DeliveryID] = append(known[e.DeliveryID], e)
	}
	return known
}

// group is what to append for one entry, all or nothing.
func (r *Router) group(ctx context.Context, w work, state DeliveryState, decision Decision, rules []Rule) (eventlog.Group, error) {
	d := w.delivery
	entry := w.entry.ID.String()
	actor := decision.Actor
	transition := func(deployment string, attempt int, data eventlog.Data) eventlog.Transition {
		return eventlog.Transition{
			Instance: r.o.Instance, DeliveryID: d.ID, Deployment: deployment,
			Attempt: attempt, Actor: actor, Data: data,
		}
	}
	payload := &eventlog.Payload{
		Digest: decision.Received.PayloadDigest, Salt: d.Salt, Body: d.Body, ContentType: d.ContentType,
	}
	if state.Received != nil {
		again := Redeliver(state, d, rules)
		again.Entry = entry
		differs, err := r.differs(ctx, state, d)
		if err != nil {
			return eventlog.Group{}, err
		}
		if differs {
			again.Detail += fmt.Sprintf(" (its body differs from the first one and is stored as payload %s)", payload.Digest)
			again.PayloadDigest, again.PayloadSize, again.ContentType = payload.Digest, int64(len(d.Body)), d.ContentType
		} else {
			payload = nil
		}
		return eventlog.Group{
			Transitions: []eventlog.Transition{transition("", state.Redelivered+1, again)},
			Payload:     payload,
			// A replay at the same moment would order the same attempt.
			Fence: &eventlog.Fence{Instance: r.o.Instance, DeliveryID: d.ID, Position: state.Position},
		}, nil
	}
	decision.Received.Entry = entry
	transitions := []eventlog.Transition{transition("", 1, decision.Received)}
	if decision.Void != nil {
		transitions = append(transitions, transition("", 1, *decision.Void))
	}
	for _, a := range decision.Forwards {
		transitions = append(transitions, transition(a.Deployment, a.Attempt, eventlog.Forwarded{Order: a.Order}))
	}
	return eventlog.Group{Transitions: transitions, Payload: payload}, nil
}

// differs says whether d's body is another than the one that came first, and so
// is to be stored. The listener salts each digest itself, so the first one's salt
// has to be read. No body of a delivery that was redacted counts: it must not
// come back this way, be it in another encoding.
func (r *Router) differs(ctx context.Context, known DeliveryState, d delivery.Delivery) (bool, error) {
	if known.Redacted != nil {
		return false, nil
	}
	first := *known.Received
	if int64(len(d.Body)) != first.PayloadSize {
		return true, nil
	}
	stored, err := r.o.Log.Payload(ctx, first.PayloadDigest)
	if errors.Is(err, eventlog.ErrNoPayload) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the first payload of delivery %s: %w", d.ID, err)
	}
	d.Salt = stored.Salt
	return d.Digest() != first.PayloadDigest, nil
}
