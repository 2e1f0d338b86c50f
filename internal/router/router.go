package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Queue is what the router needs of the main queue; see Watch.
type Queue interface {
	// Next blocks until there is an entry and returns the first ones in order.
	// They stay pending until Done or Quarantine.
	Next(ctx context.Context, max int) ([]queue.Entry, error)
	Read(e queue.Entry) ([]byte, error)
	Done(e queue.Entry) error
	Quarantine(e queue.Entry, reason error) error
}

// Log is what the router needs of the event log.
type Log interface {
	AppendAll(ctx context.Context, groups []eventlog.Group) ([]eventlog.Result, error)
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
	Payload(ctx context.Context, digest string) (eventlog.Payload, error)
}

// Watched is a queue and a watcher of it: a Queue.
type Watched struct {
	*queue.Watcher
	files *queue.Queue
}

// Watch starts to watch q. The caller closes the result after Run has returned.
func Watch(q *queue.Queue) (*Watched, error) {
	w, err := q.Watch()
	if err != nil {
		return nil, fmt.Errorf("watch the main queue: %w", err)
	}
	return &Watched{Watcher: w, files: q}, nil
}

// Read implements Queue.
func (w *Watched) Read(e queue.Entry) ([]byte, error) { return w.files.Read(e) }

// Options configure a Router. All but BatchSize, BatchBytes and Logger are required.
type Options struct {
	Instance string
	Queue    Queue
	Log      Log
	// Rules is asked once for each batch, so that it may follow a reload.
	Rules  func() []Rule
	Logger *slog.Logger
	// BatchSize bounds the deliveries that are appended in one commit (default 64).
	BatchSize int
	// BatchBytes bounds what their entries hold together, and so the memory of
	// a backlog (default 4 MiB); a larger single entry is a batch of its own.
	BatchBytes int
}

// Router moves deliveries from the main queue into the log. Create it with New.
type Router struct {
	o Options
	// conflicts and failures count, by entry, what kept it from being appended.
	// Only Run's goroutine uses them.
	conflicts, failures map[ulid.ULID]int
	// pause is the first one after an error; it doubles up to lastPause.
	pause time.Duration
}

const (
	defaultBatchSize  = 64
	defaultBatchBytes = 4 << 20

	// maxConflicts is how often an entry may meet a log that says otherwise: once
	// when two routers race, more only when something is wrong with it.
	maxConflicts = 3
	// maxFailures is how often an entry may fail alone, while others of the same
	// commit succeed, for a reason that is not known to be its own.
	maxFailures = 10

	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// New returns a Router that has not started.
func New(o Options) *Router {
	if o.BatchSize <= 0 {
		o.BatchSize = defaultBatchSize
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = defaultBatchBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Router{o: o, conflicts: map[ulid.ULID]int{}, failures: map[ulid.ULID]int{}, pause: firstPause}
}

// Run routes until ctx ends, and then returns nil. What was not routed stays in
// the queue. Errors of the log and of the disk are retried with a growing
// pause; Run returns early only when the queue can be watched no longer.
//
// Run twice at once on one queue is safe for the log (the loser of each race
// reads again), but has no use.
func (r *Router) Run(ctx context.Context) error {
	pause := r.pause
	for {
		entries, err := r.o.Queue.Next(ctx, r.o.BatchSize)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the main queue: %w", err)
		}
		err = r.route(ctx, entries)
		if err == nil {
			pause = r.pause
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		r.o.Logger.Warn("routing paused; the deliveries wait in the queue", "error", err, "retry_in", pause)
		if !sleep(ctx, pause) {
			return nil
		}
		pause = min(2*pause, lastPause)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// work is one entry of a batch.
type work struct {
	entry    queue.Entry
	delivery delivery.Delivery
}

// route does one batch. Each entry ends in one of three ways: its file is gone
// because the log holds it, it is in quarantine, or it is still pending. An
// error says that some are pending for a reason that needs a pause.
func (r *Router) route(ctx context.Context, entries []queue.Entry) error {
	batch, err := r.load(entries)
	if err != nil || len(batch) == 0 {
		return err
	}
	known, err := r.known(ctx, batch)
	if err != nil {
		return err
	}
	rules := r.o.Rules()
	var groups []eventlog.Group
	var appended []work
	for _, w := range batch {
		state, err := Fold(known[w.delivery.ID])
		if err != nil {
			// Written by a newer binary: nothing is known to be wrong with the entry.
			return fmt.Errorf("read the events of delivery %s: %w", w.delivery.ID, err)
		}
		if state.Handled(w.entry.ID.String()) {
			if err := r.done(w.entry); err != nil {
				return err
			}
			continue
		}
		group, err := r.group(ctx, w, state, rules)
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
	return r.settle(groups, appended, results)
}

// load reads entries in order, up to the batch's bytes, and one of each
// delivery: the next of the same ID is decided on what this one leads to.
func (r *Router) load(entries []queue.Entry) ([]work, error) {
	var batch []work
	size := 0
	taken := map[string]bool{}
	for _, e := range entries {
		if taken[e.DeliveryID] {
			continue
		}
		raw, err := r.o.Queue.Read(e)
		switch {
		case errors.Is(err, queue.ErrGone):
			if err := r.done(e); err != nil {
				return nil, err
			}
			continue
		case exhausted(err):
			return nil, fmt.Errorf("read entry %s: %w", e.Name, err)
		}
		var d delivery.Delivery
		if err == nil {
			d, err = delivery.Decode(raw)
		}
		if err == nil && d.ID != e.DeliveryID {
			err = fmt.Errorf("the file is named for delivery %s but holds %s", e.DeliveryID, d.ID)
		}
		if err != nil {
			if err := r.quarantine(e, err); err != nil {
				return nil, err
			}
			continue
		}
		batch = append(batch, work{entry: e, delivery: d})
		taken[e.DeliveryID] = true
		if size += len(raw); size >= r.o.BatchBytes {
			break
		}
	}
	return batch, nil
}

// known reads what the log says of the batch's deliveries.
func (r *Router) known(ctx context.Context, batch []work) (map[string][]eventlog.Event, error) {
	ids := make([]string, len(batch))
	for i, w := range batch {
		ids[i] = w.delivery.ID
	}
	known := map[string][]eventlog.Event{}
	for e, err := range r.o.Log.Find(ctx, eventlog.Filter{Instance: r.o.Instance, DeliveryIDs: ids}) {
		if err != nil {
			return nil, fmt.Errorf("read what is known of %d deliveries: %w", len(ids), err)
		}
		known[e.DeliveryID] = append(known[e.DeliveryID], e)
	}
	return known, nil
}

// group is what to append for one entry, all or nothing.
func (r *Router) group(ctx context.Context, w work, state DeliveryState, rules []Rule) (eventlog.Group, error) {
	d := w.delivery
	entry := w.entry.ID.String()
	decision := Decide(d, rules)
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
		differs, err := r.differs(ctx, *state.Received, d)
		if err != nil {
			return eventlog.Group{}, err
		}
		if differs {
			again.Detail += fmt.Sprintf(" (its body differs from the first one and is stored as payload %s)", payload.Digest)
		} else {
			payload = nil
		}
		return eventlog.Group{
			Transitions: []eventlog.Transition{transition("", state.Redelivered+1, again)},
			Payload:     payload,
		}, nil
	}
	decision.Received.Entry = entry
	transitions := []eventlog.Transition{transition("", 1, decision.Received)}
	if decision.Void != nil {
		transitions = append(transitions, transition("", 1, *decision.Void))
	}
	for _, a := range decision.Forwards {
		transitions = append(transitions, transition(a.Deployment, a.Attempt, eventlog.Forwarded{
			V: eventlog.CurrentVersion, Branch: a.Branch, Commit: a.Commit, Rule: a.Rule,
			ConfigDigest: a.ConfigDigest, Forced: a.Forced,
		}))
	}
	return eventlog.Group{Transitions: transitions, Payload: payload}, nil
}

// differs says whether d's body is another than the one that came first. The
// listener salts each digest anew, so the first one's salt has to be read. A
// body that was redacted counts as the same: it must not come back this way.
func (r *Router) differs(ctx context.Context, first eventlog.Received, d delivery.Delivery) (bool, error) {
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

// settle removes the files of what was committed, and deals with what was refused.
func (r *Router) settle(groups []eventlog.Group, batch []work, results []eventlog.Result) error {
	if len(results) != len(batch) {
		return fmt.Errorf("append: %d results for %d groups", len(results), len(batch))
	}
	succeeded := 0
	for _, result := range results {
		if result.Err == nil {
			succeeded++
		}
	}
	var pause error
	for i, w := range batch {
		err := results[i].Err
		var conflict *eventlog.ConflictError
		switch {
		case err == nil:
			r.log(groups[i], w)
			err = r.done(w.entry)
		case errors.As(err, &conflict):
			// Another router was faster. The next batch reads what it appended.
			if r.conflicts[w.entry.ID]++; r.conflicts[w.entry.ID] < maxConflicts {
				err = nil
				break
			}
			err = r.quarantine(w.entry, fmt.Errorf("the log refused it %d times: %w", maxConflicts, err))
		case poisoned(err):
			err = r.quarantine(w.entry, err)
		case succeeded > 0:
			if r.failures[w.entry.ID]++; r.failures[w.entry.ID] >= maxFailures {
				err = r.quarantine(w.entry, fmt.Errorf("the log refused it %d times while it took others: %w", maxFailures, err))
			}
		}
		if err != nil && pause == nil {
			pause = err
		}
	}
	return pause
}

func (r *Router) log(g eventlog.Group, w work) {
	last := g.Transitions[len(g.Transitions)-1]
	attrs := []any{"delivery", w.delivery.ID, "event", bounded(w.delivery.Event), "actor", last.Actor}
	switch data := last.Data.(type) {
	case eventlog.Voided:
		r.o.Logger.Info("voided", append(attrs, "reason", string(data.Reason), "detail", data.Detail)...)
	case eventlog.Redelivered:
		r.o.Logger.Info("redelivered", append(attrs, "action", data.Action, "detail", data.Detail)...)
	default:
		var to []string
		for _, t := range g.Transitions[1:] {
			to = append(to, t.Deployment)
		}
		r.o.Logger.Info("forwarded", append(attrs, "deployments", to)...)
	}
}

func (r *Router) done(e queue.Entry) error {
	if err := r.o.Queue.Done(e); err != nil {
		return fmt.Errorf("remove entry %s, which the log holds: %w", e.Name, err)
	}
	r.forget(e)
	return nil
}

func (r *Router) quarantine(e queue.Entry, reason error) error {
	r.o.Logger.Error("entry moved to quarantine", "entry", e.Name, "reason", reason)
	if err := r.o.Queue.Quarantine(e, reason); err != nil {
		return fmt.Errorf("quarantine entry %s (%v): %w", e.Name, reason, err)
	}
	r.forget(e)
	return nil
}

func (r *Router) forget(e queue.Entry) {
	delete(r.conflicts, e.ID)
	delete(r.failures, e.ID)
}
