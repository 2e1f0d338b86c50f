package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// lookEach is how often a worker looks whether it may go on, or must stop.
const lookEach = 200 * time.Millisecond

// restorer is the actor of what on_failure = "rollback" orders.
const restorer = "durhack-deployer"

func (w *Worker) holds() (frozen, pinned *projections.Hold, known bool) {
	if w.o.Control == nil {
		return nil, nil, true
	}
	return w.o.Control.Holds(w.o.Deployment.Slug)
}

// thawed waits while the deployment is frozen, and returns the entry to go on with:
// e, or one that runs all the same.
func (w *Worker) thawed(ctx context.Context, e queue.Entry) (queue.Entry, error) {
	told := false
	for {
		if err := w.o.Queue.Err(); err != nil { // what overrides would come elsewhere
			return e, err
		}
		frozen, _, known := w.holds()
		if known && !frozen.Active(time.Now()) {
			if told { // what has come meanwhile may be first
				w.o.Logger.Info("thawed: going on")
				entries, err := w.o.Queue.Next(ctx, 1)
				if err != nil {
					return e, err
				}
				e = entries[0]
			}
			return e, nil
		}
		if known {
			for _, waiting := range w.o.Queue.Pending() {
				if job, err := w.read(waiting); err == nil && job.PassesHolds() {
					if waiting.Name == w.overriding && !retry.Sleep(ctx, lookEach) { // it rests
						return e, ctx.Err()
					}
					w.overriding = waiting.Name
					return waiting, nil
				}
			}
			if !told {
				w.o.Logger.Info("frozen: what comes waits", "by", frozen.Actor, "reason", frozen.Reason)
			}
			told = true
		}
		if !retry.Sleep(ctx, lookEach) {
			return e, ctx.Err()
		}
	}
}

func (w *Worker) read(e queue.Entry) (mirror.Entry, error) {
	raw, err := w.o.Files.Read(e)
	if err != nil {
		return mirror.Entry{}, err
	}
	return mirror.Decode(raw)
}

// latestOnly says that job gives way to a newer one, and why: by configuration, or
// because it has waited for a thaw.
func (w *Worker) latestOnly(job mirror.Entry) (bool, string) {
	if w.o.Deployment.LatestOnly {
		return true, `pending = "latest"; with pending = "every" this one would have run`
	}
	frozen, _, _ := w.holds()
	if frozen == nil || job.PassesHolds() {
		return false, ""
	}
	waited := job.Position < frozen.Ended
	if frozen.Ended == 0 && !frozen.Until.IsZero() {
		ordered, err := ulid.ParseStrict(job.EventID)
		waited = err == nil && ordered.Timestamp().Before(frozen.Until)
	}
	return waited, "the deployment was frozen until after that; without the freeze this one would have run"
}

// pinned voids what would take a pinned deployment elsewhere.
func (w *Worker) pinned(job mirror.Entry) *eventlog.Voided {
	_, pin, _ := w.holds()
	if pin == nil || pin.Ended != 0 || job.PassesHolds() || job.Commit == pin.Commit {
		return nil
	}
	return &eventlog.Voided{
		Reason: eventlog.ReasonPinned,
		Detail: fmt.Sprintf("deployment %q is pinned to commit %s by %s: %s; to go on: durhack-deployer unpin %s --deploy --reason TEXT, or for this commit alone: durhack-deployer deploy %s --ref %s --override --reason TEXT",
			job.Deployment, words.ShortCommit(pin.Commit), pin.Actor, pin.Reason, job.Deployment, job.Deployment, job.Commit),
	}
}

// canceledError ends a run that somebody has canceled.
type canceledError struct{ by, reason string }

func (e *canceledError) Error() string {
	if e.reason == "" {
		return "canceled by " + e.by
	}
	return fmt.Sprintf("canceled by %s: %s", e.by, e.reason)
}

// watch cancels the run when somebody has canceled it, until ctx ends.
func (w *Worker) watch(ctx context.Context, cancel context.CancelCauseFunc, r run) {
	for w.o.Control != nil && retry.Sleep(ctx, lookEach) {
		if err := w.canceledBy(r); err != nil {
			w.o.Logger.Info("ending a run that was canceled", "delivery", r.deliveryID, "why", err)
			cancel(err)
			return
		}
	}
}

// canceledBy is the end of a run that somebody has canceled, and nil until then.
func (w *Worker) canceledBy(r run) error {
	if w.o.Control == nil {
		return nil
	}
	if a, ok := w.o.Control.Attempt(r.deliveryID, w.o.Deployment.Slug, r.attempt); ok && a.CanceledBy != "" {
		return &canceledError{a.CanceledBy, a.CanceledReason}
	}
	return nil
}

// wasCanceled asks the log whether an open run was canceled.
func (w *Worker) wasCanceled(ctx context.Context, r run) (*canceledError, error) {
	for e, err := range w.o.Log.Find(ctx, eventlog.Filter{Instance: w.o.Instance, DeliveryID: r.deliveryID, Types: []eventlog.Type{eventlog.TypeCanceled}}) {
		if err != nil {
			return nil, fmt.Errorf("look whether delivery %s was canceled: %w", r.deliveryID, err)
		}
		data, err := e.Decode()
		if err != nil {
			return nil, err
		}
		if c, ok := data.(eventlog.Canceled); ok && e.Attempt == r.attempt && e.DeploymentSlug() == w.o.Deployment.Slug {
			return &canceledError{e.Actor, c.Reason}, nil
		}
	}
	return nil, nil
}

// restore orders a run of what was live when run r failed, as a replay of the delivery
// that had put it there. It is nil where nothing else was live, and where the run came
// to nothing before it touched the working tree.
func (w *Worker) restore(ctx context.Context, r run, end []eventlog.Data) (*eventlog.Transition, error) {
	failed := slices.ContainsFunc(end, func(d eventlog.Data) bool {
		f, ok := d.(eventlog.Failed)
		return ok && f.Step != stepPlan && f.Step != names.StepFetch
	})
	if !w.o.Deployment.Restore || !failed || w.seen.live == "" || w.seen.live == r.started.Commit {
		return nil, nil
	}
	live := w.seen.liveDelivery
	reason := fmt.Sprintf(`on_failure = "rollback": commit %s failed, delivery %s, attempt %d`, words.ShortCommit(r.started.Commit), r.deliveryID, r.attempt)
	state, order, n := projections.NewState(), eventlog.Order{}, 0
	for e, err := range w.o.Log.Find(ctx, eventlog.Filter{Instance: w.o.Instance, DeliveryID: live}) {
		if err != nil {
			return nil, fmt.Errorf("read the events of delivery %s: %w", live, err)
		}
		err = state.Apply(&e)
		assignments, aerr := e.Assignments()
		if err = errors.Join(err, aerr); err != nil {
			return nil, err
		}
		if e.Type == eventlog.TypeReplayed {
			data, err := e.Decode()
			if err != nil {
				return nil, err
			}
			if replayed := data.(eventlog.Replayed); replayed.Reason == reason && e.Actor == restorer { // by an append whose answer was lost
				return &eventlog.Transition{Instance: w.o.Instance, DeliveryID: live, Attempt: e.Attempt, Actor: restorer, Data: replayed}, nil
			}
			n = max(n, e.Attempt)
		}
		for _, a := range assignments {
			if a.Deployment == w.o.Deployment.Slug {
				order = a.Order
			}
		}
	}
	for _, a := range state.Attempts(w.o.Instance) {
		n = max(n, a.Attempt)
	}
	restored := eventlog.Assignment{Deployment: w.o.Deployment.Slug, Attempt: n + 1, Order: eventlog.Order{
		Branch: order.Branch, Commit: w.seen.live, Rule: `on_failure = "rollback"`, ConfigDigest: order.ConfigDigest, Restores: true,
	}}
	return &eventlog.Transition{
		Instance: w.o.Instance, DeliveryID: live, Attempt: n + 1, Actor: restorer,
		Data: eventlog.Replayed{Reason: reason, Deployments: []eventlog.Assignment{restored}},
	}, nil
}
