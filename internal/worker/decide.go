package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// errNotOrdered is about a queue entry that the log does not know: nothing runs
// that was not recorded first.
var errNotOrdered = errors.New("the log has no such assignment")

// maxVoids bounds how many orders are voided in one commit.
const maxVoids = 500

// decide voids an assignment that no longer makes sense, with those behind it that do
// not either, and runs the others. Where waits does not know an order, the log is asked.
func (w *Worker) decide(ctx, held context.Context, e queue.Entry, job mirror.Entry, waits func(mirror.Entry, int64) bool) error {
	order, err := w.order(held, job, waits)
	if err != nil {
		return err
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
	all := w.backlog(e, job)
	void, err := w.void(limited, all, 0, &check.said)
	if held.Err() != nil {
		return context.Cause(held)
	}
	if void == nil {
		check.err = err
		return w.run(ctx, held, limited, e, job, attempt, check)
	}
	// Another worker may be running it, if we have lost the lock.
	group := eventlog.Group{Fence: w.fence(w.seen.position)}
	for i := 0; void != nil; {
		job = all.orders[i]
		void.Commit = job.Commit
		group.Transitions = append(group.Transitions, w.transition(job.DeliveryID, order.next, job.Actor, *void))
		// Nothing runs before those behind it are decided, so that it may be now. What
		// cannot be is left to its turn.
		all.load()
		frozen, _, known := w.holds()
		if i++; i == len(all.orders) || i == maxVoids || !known || frozen.Active(time.Now()) {
			break
		}
		if order, err = w.order(held, all.orders[i], waits); err != nil || !order.known || !order.newest.Open() {
			break
		}
		if void, err = w.void(limited, all, i, io.Discard); err != nil {
			break
		}
	}
	events, err := w.o.Log.Append(held, group)
	if err != nil {
		return fmt.Errorf("append voided: %w", err)
	}
	for i, event := range events {
		w.voided = event.Position
		void := group.Transitions[i].Data.(eventlog.Voided)
		w.o.Logger.Info("voided", "delivery", event.DeliveryID, "reason", string(void.Reason))
		if err := w.done(all.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// checked is what came of the questions before a run.
type checked struct {
	said bytes.Buffer // for the run log
	err  error        // fails the run before its first step
}

// void says why the order at i must not run, or nil. An error means that the
// question could not be answered; the run is then failed, because running on a
// guess could take the deployment backwards.
func (w *Worker) void(ctx context.Context, all *backlog, i int, out io.Writer) (*eventlog.Voided, error) {
	job := all.orders[i]
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
		if newer := all.newer(ctx, i, out); newer != nil {
			return &eventlog.Voided{
				Reason: eventlog.ReasonSuperseded, SupersededBy: newer.DeliveryID,
				Detail: fmt.Sprintf("delivery %s (commit %s) came later and %s", newer.DeliveryID, words.ShortCommit(newer.Commit), why),
			}, nil
		}
	}
	if live := w.seen.live; job.Restores && live != job.Commit {
		return &eventlog.Voided{
			Reason: eventlog.ReasonSuperseded, SupersededBy: w.seen.liveDelivery,
			Detail: fmt.Sprintf("commit %s, which was to be put back, is not what was live any more: commit %s went live meanwhile", words.ShortCommit(job.Commit), words.ShortCommit(live)),
		}, nil
	}
	return w.stale(ctx, job, out)
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
			words.ShortCommit(job.Commit), words.ShortCommit(live), compareErr, job.Deployment, job.Commit)
	case err != nil:
		return nil, fmt.Errorf("commit %s is behind what is live (%s); ask the remote whether the branch was moved back to it: %w",
			words.ShortCommit(job.Commit), words.ShortCommit(live), err)
	}
	at := fmt.Sprintf("not the tip of %q (%s)", job.Branch, words.ShortCommit(tip))
	if tip == "" {
		at = fmt.Sprintf("its branch %q is gone", job.Branch)
	}
	return &eventlog.Voided{
		Reason: eventlog.ReasonStale,
		Detail: fmt.Sprintf("commit %s is an ancestor of what is live (%s) and %s; to go back on purpose: durhack-deployer deploy %s --ref %s",
			words.ShortCommit(job.Commit), words.ShortCommit(live), at, job.Deployment, job.Commit),
	}, nil
}
