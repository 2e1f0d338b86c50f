package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// errNotOrdered is about a queue entry that the log does not know: nothing runs
// that was not recorded first.
var errNotOrdered = errors.New("the log has no such assignment")

// decide voids an assignment that no longer makes sense, and runs the others. Where
// waits does not know the order, the log is asked.
func (w *Worker) decide(ctx, held context.Context, e queue.Entry, job mirror.Entry, waits func(mirror.Entry, int64) bool) error {
	order := order{known: true, next: job.Attempt, newest: projections.Attempt{Outcome: projections.OutcomeWaiting}}
	if waits == nil || !waits(job, max(w.seen.position, w.voided)) {
		var err error
		if order, err = w.order(held, job); err != nil {
			return err
		}
	}
	if order.other != "" {
		return w.rest(e, fmt.Errorf("it is left alone: it is of instance %q, and this is %q", order.other, w.o.Instance))
	}
	if !order.known {
		return w.quarantine(e, errNotOrdered)
	}
	if !order.newest.Open() { // ended before a crash, or written again by a rebuild
		removeResult(w.logPath(job.DeliveryID, order.newest.Attempt))
		return w.done(e)
	}
	attempt := order.next
	// Questions to a remote that has gone silent count, too.
	limited, cancel := w.limit(held)
	defer cancel()
	var check checked
	void, err := w.void(limited, e, job, &check.said)
	if held.Err() != nil {
		return context.Cause(held)
	}
	if void == nil {
		check.err = err
		return w.run(ctx, held, limited, e, job, attempt, check)
	}
	void.Commit = job.Commit
	events, err := w.o.Log.Append(held, eventlog.Group{
		Transitions: []eventlog.Transition{w.transition(job.DeliveryID, attempt, job.Actor, *void)},
		// Another worker may be running it, if we have lost the lock.
		Fence: w.fence(w.seen.position),
	})
	if err != nil {
		return fmt.Errorf("append voided: %w", err)
	}
	w.voided = events[0].Position
	w.o.Logger.Info("voided", "delivery", job.DeliveryID, "reason", string(void.Reason))
	return w.done(e)
}

// checked is what came of the questions before a run.
type checked struct {
	said bytes.Buffer // for the run log
	err  error        // fails the run before its first step
}

// void says why the assignment must not run, or nil. An error means that the
// question could not be answered; the run is then failed, because running on a
// guess could take the deployment backwards.
func (w *Worker) void(ctx context.Context, e queue.Entry, job mirror.Entry, out io.Writer) (*eventlog.Voided, error) {
	if !w.o.Deployment.Enabled {
		return &eventlog.Voided{
			Reason: eventlog.ReasonDeploymentDisabled,
			Detail: fmt.Sprintf("deployment %q was disabled after the delivery was forwarded; set enabled = true and replay it", job.Deployment),
		}, nil
	}
	if void := w.pinned(job); void != nil {
		return void, nil
	}
	if latest, why := w.latestOnly(job); latest {
		if newer := w.newer(ctx, e, job, out); newer != nil {
			return &eventlog.Voided{
				Reason: eventlog.ReasonSuperseded, SupersededBy: newer.DeliveryID,
				Detail: fmt.Sprintf("delivery %s (commit %s) came later and %s", newer.DeliveryID, short(newer.Commit), why),
			}, nil
		}
	}
	if live := w.seen.live; job.Restores && live != job.Commit {
		return &eventlog.Voided{
			Reason: eventlog.ReasonSuperseded, SupersededBy: w.seen.liveDelivery,
			Detail: fmt.Sprintf("commit %s, which was to be put back, is not what was live any more: commit %s went live meanwhile", short(job.Commit), short(live)),
		}, nil
	}
	return w.stale(ctx, job, out)
}

// newer finds the newest waiting assignment that takes the place of job. One
// whose commit is an ancestor of job's does not: then the deliveries came out
// of order, and dropping job would leave the older commit live. Nor does one
// that cannot be compared.
func (w *Worker) newer(ctx context.Context, e queue.Entry, job mirror.Entry, out io.Writer) *mirror.Entry {
	pending := w.o.Queue.Pending()
	for i := len(pending) - 1; i >= 0 && pending[i].Name > e.Name; i-- {
		raw, err := w.o.Files.Read(pending[i])
		if err != nil {
			continue // gone or unreadable: it will be dealt with in its turn
		}
		newer, err := mirror.Decode(raw)
		if err != nil || newer.Deployment != job.Deployment || newer.Name() != pending[i].Name {
			continue
		}
		if newer.Commit == job.Commit || newer.Forced {
			return &newer // it will run, wherever it lies
		}
		older, err := w.isAncestor(ctx, newer, job, out)
		if err != nil {
			w.o.Logger.Warn("not superseded: the commits cannot be compared", "delivery", job.DeliveryID, "newer", newer.DeliveryID, "error", err)
			return nil
		}
		if !older {
			return &newer
		}
	}
	return nil
}

// isAncestor says whether a's commit is an ancestor of b's, both made known first.
func (w *Worker) isAncestor(ctx context.Context, a, b mirror.Entry, out io.Writer) (bool, error) {
	for _, j := range []mirror.Entry{a, b} {
		if err := w.o.Repository.FetchHistory(ctx, j.Branch, j.Commit, out); err != nil {
			return false, err
		}
	}
	return w.o.Repository.IsAncestor(ctx, a.Commit, b.Commit)
}

// stale voids a commit that is behind what is live, unless the branch was moved
// back to it on purpose (it is the tip), or a person named it. What is live is
// what the log says, whatever there is in the working tree.
func (w *Worker) stale(ctx context.Context, job mirror.Entry, out io.Writer) (*eventlog.Voided, error) {
	live := w.seen.live
	if job.Forced || live == "" || live == job.Commit {
		return nil, nil
	}
	if live == job.Before {
		return nil, nil // it was pushed on top of what is live: the common case needs no git
	}
	known, compareErr := w.o.Repository.Knows(ctx, live)
	behind := false
	if known {
		behind, compareErr = w.o.Repository.IsAncestor(ctx, job.Commit, live)
		if compareErr == nil && !behind {
			return nil, nil
		}
	}
	tip, err := w.o.Repository.TipAfter(ctx, job.Branch, job.ForcedFrom, out)
	if err == nil && tip == job.Commit {
		return nil, nil
	}
	if !known && compareErr == nil {
		if compareErr = w.o.Repository.FetchHistory(ctx, job.Branch, live, out); compareErr == nil {
			behind, compareErr = w.o.Repository.IsAncestor(ctx, job.Commit, live)
		}
		if compareErr == nil && !behind {
			return nil, nil
		}
	}
	switch {
	case compareErr != nil:
		return nil, fmt.Errorf("tell whether commit %s is behind what is live (%s): %w; to put it live whether it is or not: durhack-deployer deploy %s --ref %s",
			short(job.Commit), short(live), compareErr, job.Deployment, job.Commit)
	case err != nil:
		return nil, fmt.Errorf("commit %s is behind what is live (%s); ask the remote whether the branch was moved back to it: %w",
			short(job.Commit), short(live), err)
	}
	at := fmt.Sprintf("not the tip of %q (%s)", job.Branch, short(tip))
	if tip == "" {
		at = fmt.Sprintf("its branch %q is gone", job.Branch)
	}
	return &eventlog.Voided{
		Reason: eventlog.ReasonStale,
		Detail: fmt.Sprintf("commit %s is an ancestor of what is live (%s) and %s; to go back on purpose: durhack-deployer deploy %s --ref %s",
			short(job.Commit), short(live), at, job.Deployment, job.Commit),
	}, nil
}

func short(commit string) string {
	return commit[:min(12, len(commit))]
}
