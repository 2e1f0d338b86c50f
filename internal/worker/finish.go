package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// maxText bounds, in bytes, the text of an error in an event.
const maxText = 4 << 10

// finish appends the end of a run and only then lets go of the queue entry.
func (w *Worker) finish(ctx context.Context, e queue.Entry, r run, end []eventlog.Data) error {
	if err := saveResult(r.started.RunLog, end); err != nil {
		// The append below is what counts; without the file a crash before it
		// makes the run interrupted instead of ended.
		w.o.Logger.Warn("keep the result beside the run log", "error", err)
	}
	// The result must be recorded though the lock is lost or the daemon stops.
	ctx, cancel := lingering(context.WithoutCancel(ctx), ctx, w.resultGrace)
	defer cancel()
	outage := w.outage("record the result of " + r.deliveryID)
	for {
		err := w.appendEnd(ctx, r, end)
		switch {
		case err == nil:
			outage.Over()
			if !endsAssignment(end) {
				return nil // retried; the entry waits for it
			}
			return w.done(e)
		case errors.Is(err, errTakenOver):
			return nil // the entry is dealt with again, on what the other has recorded
		case ctx.Err() != nil:
			w.o.Logger.Warn("the result will be recorded at the next start", "delivery", r.deliveryID, "error", err)
			return nil
		case eventlog.Refused(err):
			w.o.Logger.Error("the log refused the result; recording it without its text", "delivery", r.deliveryID, "error", err)
			end = withoutText(end, err)
		}
		retry.Sleep(ctx, outage.Failed(err))
	}
}

// appendEnd appends the events that end run r. errTakenOver: a successor has
// recorded the interruption in its own name, and this end is dropped.
func (w *Worker) appendEnd(ctx context.Context, r run, end []eventlog.Data) error {
	group := eventlog.Group{Fence: w.fence(r.position)}
	for _, d := range end {
		group.Transitions = append(group.Transitions, w.transition(r.deliveryID, r.attempt, r.actor, d))
	}
	events, err := w.o.Log.Append(ctx, group)
	var conflict *eventlog.ConflictError
	switch {
	case errors.Is(err, eventlog.ErrFenced), errors.As(err, &conflict):
		w.o.Logger.Error("the end of a run is not recorded: another worker has ended it", "delivery", r.deliveryID, "attempt", r.attempt, "error", err)
		removeResult(r.started.RunLog)
		return fmt.Errorf("%w: %w", errTakenOver, err)
	case err != nil:
		return fmt.Errorf("append the end of %s attempt %d: %w", r.deliveryID, r.attempt, err)
	}
	removeResult(r.started.RunLog)
	for i, e := range events {
		if err := w.seen.apply(e); err != nil {
			return err
		}
		w.tell(r, end[i])
	}
	return nil
}

// tell logs an end of a run; a failed one is a warning that says where to look.
func (w *Worker) tell(r run, end eventlog.Data) {
	log := w.o.Logger.With("delivery", r.deliveryID, "attempt", r.attempt, "commit", r.started.Commit)
	failed, ok := end.(eventlog.Failed)
	if !ok {
		log.Info(string(end.EventType()))
		return
	}
	how := []any{"step", failed.Step, "error", failed.Error, "run_log", failed.RunLog}
	if failed.ExitCode != nil {
		how = append(how, "exit_code", *failed.ExitCode)
	}
	if failed.Signal != "" {
		how = append(how, "signal", failed.Signal)
	}
	log.Warn("failed", how...)
}

func (w *Worker) fence(position int64) *eventlog.Fence {
	return &eventlog.Fence{Instance: w.o.Instance, Deployment: w.o.Deployment.Slug, Position: position}
}

// endsAssignment says whether the end of a run ends what was assigned too: an
// interruption that is retried does not.
func endsAssignment(end []eventlog.Data) bool {
	for _, d := range end {
		if i, ok := d.(eventlog.Interrupted); ok && i.Then == thenRetry {
			return false
		}
	}
	return true
}

// withoutText leaves out what a database could object to.
func withoutText(end []eventlog.Data, why error) []eventlog.Data {
	out := make([]eventlog.Data, len(end))
	for i, d := range end {
		switch d := d.(type) {
		case eventlog.Deployed:
			d.Steps, d.RunLog = []eventlog.Step{}, ""
			out[i] = d
		case eventlog.Failed:
			d.Steps, d.RunLog, d.OutputTail = []eventlog.Step{}, "", ""
			d.Error = bounded("the log refused the error's own text: " + why.Error())
			out[i] = d
		default:
			out[i] = d
		}
	}
	return out
}

// bounded is text that fits into an event: valid UTF-8 without NUL, cut in the
// middle, because both ends of an error say something.
func bounded(text string) string {
	const mark = " [...] "
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= maxText {
		return text
	}
	head, tail := maxText/2-len(mark), len(text)-maxText/2
	for !utf8.RuneStart(text[head]) {
		head--
	}
	for !utf8.RuneStart(text[tail]) {
		tail++
	}
	return text[:head] + mark + text[tail:]
}
