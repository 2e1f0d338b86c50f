package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// Outcome is how a step ended. The strings are stored in the log.
type Outcome string

// The outcomes of a step.
const (
	OK       Outcome = "ok"
	Failed   Outcome = "failed"
	TimedOut Outcome = "timeout"
	Canceled Outcome = "canceled"
)

// TimeoutError says that a step took longer than it may.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string { return fmt.Sprintf("timed out after %v", e.After) }

// StepResult is one finished step.
type StepResult struct {
	Name     string
	Duration time.Duration
	Outcome  Outcome
	// Err is nil where Outcome is OK.
	Err error
}

// Result is a finished plan.
type Result struct {
	// Steps are those that were started, in order.
	Steps []StepResult
	// Err is nil where every step succeeded. Where the run was cancelled it wraps
	// the cause of the context.
	Err error
	// FailedStep is the step that Err is about; where the context ended between
	// two steps, the one that was not started.
	FailedStep string
	// ExitCode is set where the failed step's program exited by itself.
	ExitCode *int
	// Signal is the name of the signal that ended the program, as in "SIGKILL".
	Signal string
	// Canceled says that the context ended, rather than that a step failed.
	Canceled bool
	// HandedOver says that the run has no end yet: see ErrHandedOver.
	HandedOver bool
}

// Reporter is told about each step as it happens, from the goroutine of Execute.
type Reporter interface {
	StepStarted(name string)
	StepEnded(r StepResult)
}

// undoWithin bounds Plan.Undo.
const undoWithin = 2 * time.Minute

// Execute runs the steps of a plan in order and stops at the first that does
// not succeed; then what must not stay is undone. It returns once everything that it
// started has ended; rep may be nil.
func Execute(ctx context.Context, plan Plan, env Env, rep Reporter) Result {
	if plan.Finally != nil {
		defer plan.Finally()
	}
	result := execute(ctx, plan, env, rep)
	if result.Err != nil && plan.Undo != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		var stands string
		_ = env.entered(func() error { stands = plan.Undo(ctx, env); return nil })
		if stands != "" {
			env.Say("%s", stands)
			result.Err = fmt.Errorf("%w; %s", result.Err, stands)
		}
	}
	return result
}

// entered calls f with the rights of e.As.
func (e Env) entered(f func() error) error {
	defer e.As.Enter()()
	return f()
}

func execute(ctx context.Context, plan Plan, env Env, rep Reporter) Result {
	var result Result
	for _, step := range plan.Steps {
		if ctx.Err() != nil {
			result.fail(step.Name, Canceled, context.Cause(ctx))
			return result
		}
		if rep != nil {
			rep.StepStarted(step.Name)
		}
		done := runStep(ctx, step, env)
		if errors.Is(done.Err, ErrHandedOver) {
			done.Outcome, done.Err, result.HandedOver = OK, nil, true
		}
		if rep != nil {
			rep.StepEnded(done)
		}
		result.Steps = append(result.Steps, done)
		if done.Err != nil {
			result.fail(step.Name, done.Outcome, done.Err)
		}
		if done.Err != nil || result.HandedOver {
			return result
		}
	}
	return result
}

func (r *Result) fail(step string, outcome Outcome, err error) {
	r.FailedStep, r.Canceled = step, outcome == Canceled
	r.Err = fmt.Errorf("step %q: %w", step, err)
	if exit, ok := errors.AsType[*process.ExitError](err); ok {
		r.Signal = exit.Signal
		if exit.Signal == "" {
			r.ExitCode = &exit.Code
		}
	} else if stopped, ok := errors.AsType[*process.StoppedError](err); ok {
		r.Signal = stopped.Signal
	}
}

func runStep(ctx context.Context, step Step, env Env) StepResult {
	stepCtx := ctx
	if step.Timeout > 0 {
		var cancel context.CancelFunc
		stepCtx, cancel = context.WithTimeoutCause(ctx, step.Timeout, &TimeoutError{After: step.Timeout})
		defer cancel()
	}
	begin := time.Now()
	err := env.entered(func() error { return step.Run(stepCtx, env) })
	if env.Limits != nil {
		if exceeded := env.Limits.Exceeded(); err != nil && exceeded != "" {
			err = fmt.Errorf("%w; %s", err, exceeded)
		}
	}
	r := StepResult{Name: step.Name, Duration: time.Since(begin), Outcome: OK, Err: err}
	if err == nil {
		// A finished step is finished, also if the context ended meanwhile.
		return r
	}
	r.Outcome = Failed
	if _, byItself := errors.AsType[*process.ExitError](err); byItself || stepCtx.Err() == nil {
		return r
	}
	// The first of step timeout and ctx decides what the cause is.
	cause := context.Cause(stepCtx)
	if !errors.Is(err, cause) {
		r.Err = fmt.Errorf("%w (%w)", cause, err)
	}
	r.Outcome = Canceled
	if isTimeout(cause) {
		r.Outcome = TimedOut
	}
	return r
}

// isTimeout also holds for a deadline of the whole deployment.
func isTimeout(cause error) bool {
	if _, ok := errors.AsType[*TimeoutError](cause); ok {
		return true
	}
	return errors.Is(cause, context.DeadlineExceeded)
}
