package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// errShutdown is the cause by which a run is cut short when the daemon stops.
var errShutdown = errors.New("the daemon was stopped")

// startGrace is how long a start that is being recorded may take once the
// daemon is stopping.
const startGrace = 2 * time.Second

// stepPlan names what fails before the first step.
const stepPlan = "plan"

// run executes the plan between `started` and its end; limited is held with the
// deployment's timeout.
func (w *Worker) run(ctx, held, limited context.Context, e queue.Entry, job mirror.Entry, attempt int, check checked) error {
	w.running.Store(true)
	defer w.running.Store(false)
	w.ran = true
	if ctx.Err() != nil {
		return ctx.Err() // nothing begins once the daemon is stopping
	}
	what := handlers.Job{
		Deployment: job.Deployment, DeliveryID: job.DeliveryID, Attempt: attempt, Repository: w.o.Deployment.Repository,
		Branch: job.Branch, Commit: job.Commit, PreviousCommit: w.seen.live, Path: w.o.Deployment.Path, Actor: job.Actor,
	}
	plan, planErr := w.o.Handler.Plan(limited, what)
	started := eventlog.Started{
		Commit: job.Commit, PreviousCommit: w.seen.live, Host: w.o.Host, PID: os.Getpid(),
		Plan: plan.Names(), RunLog: w.logPath(job.DeliveryID, attempt),
	}
	// A result of that name can only be of another log's run, as before a restore.
	removeResult(started.RunLog)
	begin, cancel := lingering(held, ctx, startGrace)
	defer cancel()
	events, err := w.o.Log.Append(begin, eventlog.Group{
		Transitions: []eventlog.Transition{w.transition(job.DeliveryID, attempt, job.Actor, started)},
		// Refused when another worker has run something since our history was read.
		Fence: w.fence(w.seen.position),
	})
	if err != nil {
		return fmt.Errorf("append started: %w", err)
	}
	if err := w.seen.apply(events[0]); err != nil {
		return err
	}
	w.o.Logger.Info("started", "delivery", job.DeliveryID, "attempt", attempt, "commit", job.Commit)
	r := *w.seen.open
	check.err = errors.Join(check.err, planErr)
	end, handedOver := w.execute(ctx, limited, what, plan, check, r)
	if handedOver {
		if err := saveResult(handedOverFile(r.started.RunLog), end); err != nil {
			w.o.Logger.Warn("keep the result beside the run log", "error", err)
		}
		return nil
	}
	return w.finish(ctx, e, r, end)
}

// execute runs the steps and says which events end the run, or would end it if what it
// is handed over to comes up.
func (w *Worker) execute(ctx, limited context.Context, job handlers.Job, plan handlers.Plan, check checked, r run) (end []eventlog.Data, handedOver bool) {
	runCtx, cancel := w.runContext(ctx, limited, r)
	defer cancel()
	begin := time.Now()
	vars := handlers.EnvironmentAs(w.o.As, job, w.o.Vars, w.o.SearchPaths)
	secrets := slices.Concat(w.o.Secrets, handlers.Passwords(vars))
	log, err := handlers.OpenRunLog(r.started.RunLog, secrets, handlers.RunLogOptions{Log: w.o.Logger})
	if err != nil { // a full disk must not fail a deploy: the output's tail is still kept
		w.o.Logger.Warn("no run log is kept", "path", r.started.RunLog, "error", err)
	}
	if check.said.Len() > 0 {
		log.Note("before the first step: compare with what is live")
		_, _ = check.said.WriteTo(log)
	}
	var limits handlers.Limits
	if w.o.Limit != nil {
		if limits, err = w.o.Limit(); err != nil {
			log.Note("memory_max and tasks_max do nothing in this run: %v", err)
		}
	}
	result := handlers.Result{Err: check.err, FailedStep: stepPlan}
	if check.err == nil {
		result = handlers.Execute(runCtx, plan, handlers.Env{
			Out: log, Mask: log.Mask, Vars: vars, SearchPaths: w.o.SearchPaths, Leftovers: &w.left,
			Grace: w.o.StepGrace, Nice: w.o.Deployment.Nice, As: w.o.As, Limits: limits, ProcessFile: processFile(r.started.RunLog),
			Root: w.o.Root, Job: job,
		}, log)
	} else {
		log.Note("%s: %v", stepPlan, check.err)
	}
	if limits != nil {
		if left := limits.Close(); left != "" {
			log.Note("%s", left)
		}
	}
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
			Commit: r.started.Commit, PreviousCommit: r.started.PreviousCommit,
			Steps: steps, DurationMS: took, RunLog: r.started.RunLog, RunLogDigest: log.Digest(),
		}}, result.HandedOver
	}
	failed := eventlog.Failed{
		Commit: r.started.Commit, PreviousCommit: r.started.PreviousCommit,
		Step: result.FailedStep, ExitCode: result.ExitCode, Signal: result.Signal, Error: log.Mask(result.Err.Error()),
		OutputTail: log.Tail(), Steps: steps, DurationMS: took, RunLog: r.started.RunLog, RunLogDigest: log.Digest(),
	}
	var timeout *runTimeout
	var canceled *canceledError
	switch cause := context.Cause(runCtx); {
	case cause == nil || !errors.Is(result.Err, cause): // the step failed by itself, whatever has ended since
	case errors.Is(cause, errShutdown):
		return w.interrupted(r, "the daemon was stopped during step "+result.FailedStep, result.FailedStep, &failed), false
	case errors.As(cause, &canceled):
		failed.Error = log.Mask(canceled.Error())
	case errors.As(cause, &timeout):
		failed.Error = "the deploy took longer than its timeout allows: " + failed.Error
	default:
		failed.Error = "the deployment's lock was lost: " + failed.Error
	}
	failed.Error = bounded(failed.Error)
	return []eventlog.Data{failed}, false
}

// runTimeout is the end of a whole deploy by the deployment's timeout; to the
// step that it ends it is a timeout too.
type runTimeout struct{ handlers.TimeoutError }

func (e *runTimeout) Unwrap() error { return &e.TimeoutError }

// limit is held with the deployment's timeout.
func (w *Worker) limit(held context.Context) (context.Context, context.CancelFunc) {
	timeout := w.o.Deployment.Timeout
	if timeout <= 0 {
		return held, func() {}
	}
	return context.WithTimeoutCause(held, timeout, &runTimeout{handlers.TimeoutError{After: timeout}})
}

// runContext ends with limited, when the run is canceled, and DrainGrace after ctx.
func (w *Worker) runContext(ctx, limited context.Context, r run) (context.Context, context.CancelFunc) {
	runCtx, cancel := context.WithCancelCause(limited)
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(runCtx, cancel, r) })
	stop := context.AfterFunc(ctx, func() {
		w.o.Logger.Info("stopping: the running deploy may finish", "within", w.o.DrainGrace.String())
		if !retry.Sleep(runCtx, w.o.DrainGrace) {
			return
		}
		cancel(errShutdown)
	})
	return runCtx, func() {
		cancel(nil)
		stop()
		watching.Wait()
	}
}

// lingering is derived from parent, and also ends `grace` after ctx does.
func lingering(parent, ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(parent)
	stop := context.AfterFunc(ctx, func() {
		if retry.Sleep(out, grace) {
			cancel()
		}
	})
	return out, func() {
		cancel()
		stop()
	}
}
