package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

const (
	thenRetry = "retry"
	thenFail  = "fail"
	// maxInterruptions in a row, then the delivery fails: what takes the daemon
	// down each time must not be retried for ever.
	maxInterruptions = 3
)

// endOpenRun ends a run that was left open. The caller holds the lock, so
// nobody is running it any more, except perhaps its orphaned processes. It
// leaves the history as it is when it fails, so that the next call tries again.
func (w *Worker) endOpenRun(ctx context.Context) error {
	r := *w.seen.open
	if err := w.killOrphan(r); err != nil {
		return err
	}
	end, err := loadResult(resultFile(r.started.RunLog))
	if err != nil {
		w.o.Logger.Warn("unreadable result of an earlier run", "delivery", r.deliveryID, "error", err)
	}
	if end == nil && w.o.Resumer != nil {
		if end, err = w.resume(ctx, r); err != nil {
			return err
		}
	}
	if end == nil {
		canceled, err := w.wasCanceled(ctx, r)
		if err != nil {
			return err
		}
		if canceled != nil {
			failed := cutShort(r)
			failed.Error = bounded(canceled.Error())
			end = []eventlog.Data{*failed}
		}
	}
	if end == nil {
		detail := fmt.Sprintf("process %d on %s ended without recording a result", r.started.PID, r.started.Host)
		end = w.interrupted(r, detail, "", cutShort(r))
	}
	_, err = w.record(ctx, r, end)
	return err
}

// resume is the end of a run that was handed over to this process; nil where it was not.
func (w *Worker) resume(ctx context.Context, r run) ([]eventlog.Data, error) {
	handedOver, failure := w.o.Resumer.Resume(ctx, r.deliveryID, r.attempt, func() error { return w.canceledBy(r) })
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !handedOver {
		return nil, nil
	}
	deployed := eventlog.Deployed{
		Commit: r.started.Commit, PreviousCommit: r.started.PreviousCommit, Steps: []eventlog.Step{}, RunLog: r.started.RunLog,
	}
	end, err := loadResult(handedOverFile(r.started.RunLog))
	if err != nil {
		w.o.Logger.Warn("unreadable result of an earlier run", "delivery", r.deliveryID, "error", err)
	}
	if len(end) == 1 { // else the process was killed before it had kept it
		if kept, ok := end[0].(eventlog.Deployed); ok {
			deployed = kept
		}
	}
	if failure == nil {
		return []eventlog.Data{deployed}, nil
	}
	failed := cutShort(r)
	failed.Error, failed.Steps, failed.DurationMS, failed.RunLogDigest = bounded(failure.Error()), deployed.Steps, deployed.DurationMS, deployed.RunLogDigest
	if n := len(r.started.Plan); n > 0 {
		failed.Step = r.started.Plan[n-1]
	}
	return []eventlog.Data{*failed}, nil
}

// cutShort is the failure of a run that did not come to an end by itself.
func cutShort(r run) *eventlog.Failed {
	return &eventlog.Failed{
		Commit: r.started.Commit, PreviousCommit: r.started.PreviousCommit,
		Steps: []eventlog.Step{}, RunLog: r.started.RunLog,
	}
}

// killOrphan ends what an earlier run left running. Process numbers mean
// nothing on another host, which looks after its own when it starts again.
func (w *Worker) killOrphan(r run) error {
	if r.started.Host != w.o.Host || r.started.RunLog == "" {
		return nil
	}
	killed, err := handlers.KillOrphan(processFile(r.started.RunLog), w.o.StepGrace)
	if err != nil {
		return fmt.Errorf("end the processes that an earlier run left: %w", err)
	}
	if killed {
		w.o.Logger.Warn("ended the processes that an earlier run left", "delivery", r.deliveryID)
	}
	return nil
}

// interrupted is the end of a run that was cut short: retried by policy, else
// failed as well, by the given event.
func (w *Worker) interrupted(r run, detail, step string, failed *eventlog.Failed) []eventlog.Data {
	i := eventlog.Interrupted{Detail: detail, Then: thenRetry, Step: step}
	again := 0
	if w.seen.interrupted == r.deliveryID {
		again = w.seen.interruptions
	}
	switch {
	case w.o.Resumer != nil: // what ends the deployer each time would be retried for ever
		failed.Error = bounded("interrupted, and a deploy of the deployer itself is never retried: " + detail)
	case !w.o.Deployment.RetryInterrupted:
		failed.Error = bounded("interrupted, and on_interrupt = \"fail\": " + detail)
	case again+1 >= maxInterruptions:
		failed.Error = bounded(fmt.Sprintf("interrupted %d times in a row: %s", again+1, detail))
	default:
		return []eventlog.Data{i}
	}
	i.Then = thenFail
	return []eventlog.Data{i, *failed}
}

// A result stands beside its run log from the end of the run until it is
// appended, so that a crash in between loses nothing.

type storedResult struct {
	Type eventlog.Type   `json:"type"`
	Data json.RawMessage `json:"data"`
}

// resultSuffix ends the names of results.
const resultSuffix = ".result.json"

func resultFile(runLog string) string  { return strings.TrimSuffix(runLog, ".log") + resultSuffix }
func processFile(runLog string) string { return strings.TrimSuffix(runLog, ".log") + ".process" }

// handedOverFile keeps how a run ends if the process that it was handed over to comes up.
func handedOverFile(runLog string) string {
	return strings.TrimSuffix(runLog, ".log") + ".handed-over.json"
}

func saveResult(file string, end []eventlog.Data) error {
	var stored []storedResult
	for _, d := range end {
		raw, err := eventlog.Encode(d)
		if err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
		stored = append(stored, storedResult{d.EventType(), raw})
	}
	raw, err := json.Marshal(stored)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	return durable.WriteFile(file, raw, 0o640)
}

// loadResult returns nil when there is none.
func loadResult(file string) ([]eventlog.Data, error) {
	var stored []storedResult
	if _, err := durable.ReadJSON(file, &stored); err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	var end []eventlog.Data
	for _, s := range stored {
		d, err := eventlog.Event{Type: s.Type, Data: s.Data}.Decode()
		if err != nil {
			return nil, err
		}
		end = append(end, d)
	}
	return end, nil
}

// sweepResults removes those that the log has: a crash came between the commit of an end
// and the removal. One that the log does not have, since another worker ended the run, is
// kept.
func (w *Worker) sweepResults(ctx context.Context) error {
	files, err := os.ReadDir(w.runs)
	if err != nil {
		return fmt.Errorf("list the results of runs: %w", err)
	}
	for _, f := range files {
		run, is := strings.CutSuffix(f.Name(), resultSuffix)
		if !is {
			continue
		}
		file, cut := filepath.Join(w.runs, f.Name()), strings.LastIndexByte(run, '-')
		attempt, err := strconv.Atoi(run[cut+1:])
		end, loadErr := loadResult(file)
		if err != nil || cut < 0 || loadErr != nil {
			continue // it is nothing of ours, or only for people to read
		}
		var recorded []eventlog.Data
		for e, err := range w.o.Log.Find(ctx, eventlog.Filter{Instance: w.o.Instance, DeliveryID: run[:cut], Deployment: w.o.Deployment.Slug, Types: eventlog.RunTypes()}) {
			if err != nil {
				return fmt.Errorf("look whether the log has the result of %s: %w", run, err)
			}
			if e.Attempt != attempt {
				continue
			}
			data, err := e.Decode()
			if err != nil {
				return err
			}
			recorded = append(recorded, data)
		}
		if len(end) > 0 && !slices.ContainsFunc(end, func(d eventlog.Data) bool {
			return !slices.ContainsFunc(recorded, func(r eventlog.Data) bool { return reflect.DeepEqual(d, r) })
		}) {
			_ = os.Remove(file)
		}
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

func removeResult(runLog string) {
	// A result that stays is appended again at the next start, which the log
	// recognises as the same event.
	_ = os.Remove(resultFile(runLog))
	_ = os.Remove(handedOverFile(runLog))
}
