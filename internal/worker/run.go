package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/materializer"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// errShutdown is the cause by which a run is cut short when the daemon stops.
var errShutdown = errors.New("the daemon was stopped")

// resultGrace bounds the wait for the database at shutdown: the result is in a
// file by then, and the next start appends it.
const resultGrace = 10 * time.Second

// run executes the plan between `started` and its end. checkErr, if not nil,
// fails the attempt without a step being run.
func (w *Worker) run(ctx, held context.Context, e queue.Entry, job materializer.Entry, attempt int, checkErr error) error {
	w.running.Store(true)
	defer w.running.Store(false)
	if ctx.Err() != nil {
		return ctx.Err() // nothing begins once the daemon is stopping
	}
	what := handlers.Job{
		Deployment: job.Deployment, DeliveryID: job.DeliveryID, Attempt: attempt, Repository: w.o.Deployment.Repository,
		Branch: job.Branch, Commit: job.Commit, PreviousCommit: w.seen.live, Path: w.o.Deployment.Path, Actor: job.Actor,
	}
	plan, planErr := w.o.Handler.Plan(held, what)
	started := eventlog.Started{
		V: eventlog.CurrentVersion, Commit: job.Commit, PreviousCommit: w.seen.live, Host: w.o.Host, PID: os.Getpid(),
		Plan: plan.Names(), RunLog: w.logPath(job.DeliveryID, attempt),
	}
	events, err := w.o.Log.Append(held, eventlog.Group{
		Transitions: []eventlog.Transition{w.transition(job.DeliveryID, attempt, job.Actor, started)},
		// Refused when another worker has started since our history was read.
		Fence: &eventlog.Fence{Instance: w.o.Instance, Deployment: job.Deployment, Position: w.seen.lastStarted},
	})
	if err != nil {
		return fmt.Errorf("append started: %w", err)
	}
	if err := w.seen.apply(events[0]); err != nil {
		return err
	}
	w.o.Logger.Info("started", "delivery", job.DeliveryID, "attempt", attempt, "commit", job.Commit)

	var end []eventlog.Data
	if err := errors.Join(checkErr, planErr); err != nil {
		end = []eventlog.Data{eventlog.Failed{
			V: eventlog.CurrentVersion, Commit: job.Commit, PreviousCommit: started.PreviousCommit,
			Step: "plan", Error: err.Error(), Steps: []eventlog.Step{},
		}}
	} else {
		end = w.execute(ctx, held, what, plan, *w.seen.open)
	}
	return w.finish(ctx, e, *w.seen.open, end)
}

// execute runs the steps and says which events end the run.
func (w *Worker) execute(ctx, held context.Context, job handlers.Job, plan handlers.Plan, r run) []eventlog.Data {
	runCtx, cancel := w.runContext(ctx, held)
	defer cancel()
	begin := time.Now()
	log, err := handlers.OpenRunLog(r.started.RunLog, w.o.Secrets, handlers.RunLogOptions{Log: w.o.Logger})
	if err != nil { // a full disk must not fail a deploy: the output's tail is kept all the same
		w.o.Logger.Warn("no run log is kept", "path", r.started.RunLog, "error", err)
	}
	result := handlers.Execute(runCtx, plan, handlers.Env{
		Out: log, Vars: handlers.Environment(job, w.o.SearchPaths), SearchPaths: w.o.SearchPaths,
		Grace: w.o.StepGrace, ProcessFile: processFile(r.started.RunLog),
	}, log)
	if err := log.Close(); err != nil {
		w.o.Logger.Warn("the run log is incomplete", "path", r.started.RunLog, "error", err)
	}
	took := time.Since(begin).Milliseconds()
	steps := make([]eventlog.Step, 0, len(result.Steps))
	for _, s := range result.Steps {
		steps = append(steps, eventlog.Step{Name: s.Name, DurationMS: s.Duration.Milliseconds(), Result: string(s.Outcome)})
	}
	if result.Err == nil {
		return []eventlog.Data{eventlog.Deployed{
			V: eventlog.CurrentVersion, Commit: r.started.Commit, PreviousCommit: r.started.PreviousCommit,
			Steps: steps, DurationMS: took, RunLog: r.started.RunLog, RunLogDigest: log.Digest(),
		}}
	}
	failed := eventlog.Failed{
		V: eventlog.CurrentVersion, Commit: r.started.Commit, PreviousCommit: r.started.PreviousCommit,
		Step: result.FailedStep, ExitCode: result.ExitCode, Signal: result.Signal, Error: log.Mask(result.Err.Error()),
		OutputTail: log.Tail(), Steps: steps, DurationMS: took, RunLog: r.started.RunLog, RunLogDigest: log.Digest(),
	}
	switch cause := context.Cause(runCtx); {
	case cause == nil:
	case errors.Is(cause, errShutdown):
		return w.interrupted(r, "the daemon was stopped during step "+result.FailedStep, result.FailedStep, &failed)
	case errors.Is(cause, errTimeout):
		failed.Error = fmt.Sprintf("the deploy took longer than its timeout of %s: %s", w.o.Deployment.Timeout, failed.Error)
	default:
		failed.Error = fmt.Sprintf("the deployment's lock was lost (%v): %s", cause, failed.Error)
	}
	return []eventlog.Data{failed}
}

var errTimeout = errors.New("the deploy's timeout passed")

// runContext ends with held (the lock), with the deployment's timeout, and
// DrainGrace after ctx.
func (w *Worker) runContext(ctx, held context.Context) (context.Context, context.CancelFunc) {
	runCtx, cancel := context.WithCancelCause(held)
	stop := context.AfterFunc(ctx, func() {
		w.o.Logger.Info("stopping: the running deploy may finish", "within", w.o.DrainGrace.String())
		select {
		case <-runCtx.Done():
		case <-time.After(w.o.DrainGrace):
			cancel(errShutdown)
		}
	})
	timer := func() bool { return true }
	if w.o.Deployment.Timeout > 0 {
		timer = time.AfterFunc(w.o.Deployment.Timeout, func() { cancel(errTimeout) }).Stop
	}
	return runCtx, func() {
		cancel(nil)
		stop()
		timer()
	}
}

// finish appends the end of a run and only then lets go of the queue entry.
func (w *Worker) finish(ctx context.Context, e queue.Entry, r run, end []eventlog.Data) error {
	if err := saveResult(r.started.RunLog, end); err != nil {
		// The append below is what counts; without the file a crash before it
		// makes the run interrupted instead of ended.
		w.o.Logger.Warn("keep the result beside the run log", "error", err)
	}
	// The result must be recorded though the lock is lost or the daemon stops.
	ctx, cancel := lingering(ctx, resultGrace)
	defer cancel()
	var ended bool
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		var err error
		if ended, err = w.appendEnd(ctx, r, end); err == nil {
			break
		}
		if ctx.Err() != nil {
			w.o.Logger.Warn("the result will be recorded at the next start", "delivery", r.deliveryID, "error", err)
			return nil
		}
		w.o.Logger.Warn("record the result, will try again", "delivery", r.deliveryID, "in", pause.String(), "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	if !ended {
		return nil
	}
	return w.o.Queue.Done(e)
}

// appendEnd appends the events that end run r, and says whether they end the
// assignment too (a retry does not). A fenced end is dropped: a successor has
// recorded the interruption in its own name.
func (w *Worker) appendEnd(ctx context.Context, r run, end []eventlog.Data) (ended bool, err error) {
	group := eventlog.Group{Fence: &eventlog.Fence{Instance: w.o.Instance, Deployment: w.o.Deployment.Slug, Position: r.position}}
	ended = true
	for _, d := range end {
		group.Transitions = append(group.Transitions, w.transition(r.deliveryID, r.attempt, r.actor, d))
		if i, ok := d.(eventlog.Interrupted); ok && i.Then == thenRetry {
			ended = false
		}
	}
	events, err := w.o.Log.Append(ctx, group)
	var conflict *eventlog.ConflictError
	switch {
	case errors.Is(err, eventlog.ErrFenced), errors.As(err, &conflict):
		w.o.Logger.Error("result not recorded: another worker took over", "delivery", r.deliveryID, "attempt", r.attempt, "error", err)
		removeResult(r.started.RunLog)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("append the end of %s attempt %d: %w", r.deliveryID, r.attempt, err)
	}
	removeResult(r.started.RunLog)
	for _, e := range events {
		if err := w.seen.apply(e); err != nil {
			return false, err
		}
		w.o.Logger.Info(string(e.Type), "delivery", r.deliveryID, "attempt", r.attempt, "commit", r.started.Commit)
	}
	return ended, nil
}

// lingering is a context that ends `grace` after ctx does.
func lingering(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-out.Done():
		case <-time.After(grace):
			cancel()
		}
	})
	return out, func() {
		cancel()
		stop()
	}
}
