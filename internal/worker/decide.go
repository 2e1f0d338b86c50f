package worker

import (
	"context"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/materializer"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// decide voids an assignment that no longer makes sense, and runs the others.
func (w *Worker) decide(ctx, held context.Context, e queue.Entry, job materializer.Entry) error {
	known, err := w.attempts(held, job.DeliveryID)
	if err != nil {
		return err
	}
	if known.ended >= job.Attempt {
		return w.o.Queue.Done(e) // ended before a crash, or written again by a rebuild
	}
	attempt := known.next(job.Attempt)
	void, checkErr := w.void(held, e, job)
	if held.Err() != nil {
		return context.Cause(held)
	}
	if void == nil {
		return w.run(ctx, held, e, job, attempt, checkErr)
	}
	void.V, void.Commit = eventlog.CurrentVersion, job.Commit
	_, err = w.o.Log.Append(held, eventlog.Group{
		Transitions: []eventlog.Transition{w.transition(job.DeliveryID, attempt, job.Actor, *void)},
	})
	if err != nil {
		return fmt.Errorf("append voided: %w", err)
	}
	w.o.Logger.Info("voided", "delivery", job.DeliveryID, "reason", string(void.Reason))
	return w.o.Queue.Done(e)
}

// void says why the assignment must not run, or nil. An error means that the
// question could not be answered; the run is then failed, because running on a
// guess could take the deployment backwards.
func (w *Worker) void(ctx context.Context, e queue.Entry, job materializer.Entry) (*eventlog.Voided, error) {
	if !w.o.Deployment.Enabled {
		return &eventlog.Voided{
			Reason: eventlog.ReasonDeploymentDisabled,
			Detail: fmt.Sprintf("deployment %q was disabled after the delivery was forwarded; set enabled = true and replay it", job.Deployment),
		}, nil
	}
	if w.o.Deployment.LatestOnly {
		newer, err := w.newer(ctx, e, job)
		if err != nil {
			return nil, err
		}
		if newer != nil {
			return &eventlog.Voided{
				Reason: eventlog.ReasonSuperseded, SupersededBy: newer.DeliveryID,
				Detail: fmt.Sprintf("delivery %s (commit %s) came later and pending = \"latest\"; with pending = \"every\" this one would have run", newer.DeliveryID, short(newer.Commit)),
			}, nil
		}
	}
	return w.stale(ctx, job)
}

// newer finds the newest waiting assignment that takes the place of job. One
// whose commit is an ancestor of job's does not: then the deliveries came out
// of order, and dropping job would leave the older commit live.
func (w *Worker) newer(ctx context.Context, e queue.Entry, current materializer.Entry) (*materializer.Entry, error) {
	cloned, err := w.cloned(ctx)
	if err != nil {
		return nil, err
	}
	pending := w.o.Queue.Pending()
	for i := len(pending) - 1; i >= 0 && pending[i].Name > e.Name; i-- {
		raw, err := w.o.Files.Read(pending[i])
		if err != nil {
			continue // gone or unreadable: it will be dealt with in its turn
		}
		newer, err := materializer.Decode(raw)
		if err != nil || newer.Deployment != current.Deployment {
			continue
		}
		if newer.Commit == current.Commit || !cloned {
			return &newer, nil
		}
		for _, j := range []materializer.Entry{current, newer} {
			if err := w.o.Repository.FetchCommit(ctx, j.Branch, j.Commit); err != nil {
				return nil, fmt.Errorf("compare %s with the newer %s: %w", short(current.Commit), short(newer.Commit), err)
			}
		}
		older, err := w.o.Repository.IsAncestor(ctx, newer.Commit, current.Commit)
		if err != nil {
			return nil, err
		}
		if !older {
			return &newer, nil
		}
	}
	return nil, nil
}

// stale voids a commit that is behind what is live, unless the branch was moved
// back to it on purpose (it is the tip), or a person named it.
func (w *Worker) stale(ctx context.Context, job materializer.Entry) (*eventlog.Voided, error) {
	live := w.seen.live
	if job.Forced || live == "" || live == job.Commit {
		return nil, nil
	}
	if cloned, err := w.cloned(ctx); err != nil || !cloned {
		return nil, err
	}
	// A clone holds every ancestor of what is live, so a commit that it does not
	// know is none, and nothing needs fetching.
	behind, err := w.o.Repository.IsAncestor(ctx, job.Commit, live)
	if err != nil || !behind {
		return nil, err
	}
	tip, err := w.o.Repository.RemoteTip(ctx, job.Branch)
	if err != nil {
		return nil, fmt.Errorf("commit %s is behind what is live (%s); ask the remote whether the branch was moved back to it: %w",
			short(job.Commit), short(live), err)
	}
	if tip == job.Commit {
		return nil, nil
	}
	return &eventlog.Voided{
		Reason: eventlog.ReasonStale,
		Detail: fmt.Sprintf("commit %s is an ancestor of what is live (%s) and not the tip of %q (%s); to go back on purpose: durhack-deployer deploy %s --ref %s",
			short(job.Commit), short(live), job.Branch, short(tip), job.Deployment, short(job.Commit)),
	}, nil
}

// cloned says whether there is a history to compare with.
func (w *Worker) cloned(ctx context.Context) (bool, error) {
	head, err := w.o.Repository.Head(ctx)
	if err != nil {
		return false, fmt.Errorf("look at the clone in %s: %w", w.o.Deployment.Path, err)
	}
	return head != "", nil
}

func short(commit string) string {
	return commit[:min(12, len(commit))]
}
