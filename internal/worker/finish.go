package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// maxText bounds, in bytes, the text of an error in an event.
const maxText = 4 << 10

// finish appends the end of a run and only then lets go of the queue entry.
func (w *Worker) finish(ctx context.Context, e queue.Entry, r run, end []eventlog.Data) error {
	if err := saveResult(resultFile(r.started.RunLog), end); err != nil {
		// The append below is what counts; without the file a crash before it
		// makes the run interrupted instead of ended.
		w.o.Logger.Warn("keep the result beside the run log", "error", err)
	}
	// The result must be recorded though the lock is lost or the daemon stops.
	ctx, cancel := lingering(context.WithoutCancel(ctx), ctx, w.resultGrace)
	defer cancel()
	var recorded []eventlog.Data
	var over error // which trying again at once does not change
	if !w.outage("record the result of "+r.deliveryID).Until(ctx, func() (err error) {
		recorded, err = w.record(ctx, r, end)
		if errors.Is(err, errTakenOver) || errors.Is(err, errRefused) {
			over, err = err, nil
		}
		return err
	}) {
		w.o.Logger.Warn("the result will be recorded at the next start", "delivery", r.deliveryID)
		return nil
	}
	switch {
	case errors.Is(over, errTakenOver):
		w.current = false
		return nil // the entry is dealt with again, on what the other has recorded
	case over != nil:
		return over
	case !endsAssignment(recorded):
		return nil // retried; the entry waits for it
	}
	return w.done(e)
}

// errRefused says that the log refuses whatever could end a run, which stays open.
var errRefused = errors.New("the log refuses the end of the run that is open; nothing runs before it is recorded")

// record appends the end of run r. One that the log refuses is recorded without its
// text, and where that is refused, too, as interrupted: then the result is kept. It
// returns what was recorded.
func (w *Worker) record(ctx context.Context, r run, end []eventlog.Data) ([]eventlog.Data, error) {
	log := w.o.Logger.With("delivery", r.deliveryID, "attempt", r.attempt)
	err := w.appendEnd(ctx, r, end, false)
	if !eventlog.Refused(err) {
		return end, err
	}
	log.Error("the log refused the result; recording it without its text", "error", err)
	bare := withoutText(end, err)
	if err = w.appendEnd(ctx, r, bare, false); !eventlog.Refused(err) {
		return bare, err
	}
	kept := resultFile(r.started.RunLog)
	log.Error("the log refused the result also without its text; it is kept, and the run counts as interrupted", "result", kept, "error", err)
	cut := w.interrupted(r, "the log refused the result, which is kept in "+kept, "", cutShort(r))
	if err = w.appendEnd(ctx, r, cut, true); eventlog.Refused(err) {
		err = fmt.Errorf("%w: %w", errRefused, err)
	}
	return cut, err
}

// appendEnd appends the events that end run r, and removes its result unless that is
// to be kept. errTakenOver: a successor has recorded the interruption in its own name,
// and this end is not recorded.
func (w *Worker) appendEnd(ctx context.Context, r run, end []eventlog.Data, keep bool) error {
	group := eventlog.Group{Fence: w.fence(r.position)}
	for _, d := range end {
		group.Transitions = append(group.Transitions, w.transition(r.deliveryID, r.attempt, r.actor, d))
	}
	restore, err := w.restore(ctx, r, end)
	if err != nil {
		return err
	}
	if restore != nil { // in the same commit, so that no crash comes between
		group.Transitions = append(group.Transitions, *restore)
	}
	events, err := w.o.Log.Append(ctx, group)
	var conflict *eventlog.ConflictError
	if errors.As(err, &conflict) && conflict.Stored.Type == eventlog.TypeReplayed {
		return fmt.Errorf("put back what was live: somebody replayed it at the same moment: %s", err.Error()) // tried again, behind that
	}
	switch {
	case errors.Is(err, eventlog.ErrFenced), errors.As(err, &conflict):
		log := w.o.Logger.With("delivery", r.deliveryID, "attempt", r.attempt)
		if kept := resultFile(r.started.RunLog); exists(kept) {
			log = log.With("result", kept)
		}
		log.Error("the end of a run is not recorded: another worker has ended it", "error", err)
		return fmt.Errorf("%w: %w", errTakenOver, err)
	case err != nil:
		return fmt.Errorf("append the end of %s attempt %d: %w", r.deliveryID, r.attempt, err)
	}
	if !keep {
		removeResult(r.started.RunLog)
	}
	for i, e := range events[:len(end)] {
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
