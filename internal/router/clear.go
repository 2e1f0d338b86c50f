package router

import (
	"errors"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// clear removes the files of what was committed, and deals with what was refused.
func (r *Router) clear(groups []eventlog.Group, batch []work, results []eventlog.Result) error {
	if len(results) != len(batch) {
		return fmt.Errorf("append: %d results for %d groups", len(results), len(batch))
	}
	succeeded := 0
	for _, result := range results {
		if result.Err == nil {
			succeeded++
		}
	}
	var pause error
	for i, w := range batch {
		err := results[i].Err
		var conflict *eventlog.ConflictError
		switch {
		case err == nil:
			r.log(groups[i], w)
			r.done(w.entry)
		case errors.Is(err, eventlog.ErrFenced): // decided again in the next batch
			err = nil
		case errors.As(err, &conflict), errors.Is(err, eventlog.ErrRedacted):
			// Another router was faster, or the redaction of this delivery. The next
			// batch reads what was appended.
			if r.conflict(w.entry) < maxConflicts {
				err = nil
				break
			}
			r.quarantine(w.entry, fmt.Errorf("the log refused it %d times: %w", maxConflicts, err))
			err = nil
		case eventlog.Refused(err):
			r.quarantine(w.entry, err)
			err = nil
		case succeeded > 0: // its own fault perhaps, but not known to be so for good
			r.rest(w.entry, err)
			err = nil
		}
		if err != nil && pause == nil {
			pause = err
		}
	}
	return pause
}

func (r *Router) log(g eventlog.Group, w work) {
	last := g.Transitions[len(g.Transitions)-1]
	attrs := []any{"delivery", w.delivery.ID, "event", bounded(w.delivery.Event), "actor", last.Actor}
	switch data := last.Data.(type) {
	case eventlog.Voided:
		r.o.Logger.Info("voided", append(attrs, "reason", string(data.Reason), "detail", data.Detail)...)
	case eventlog.Redelivered:
		r.o.Logger.Info("redelivered", append(attrs, "action", data.Action, "detail", data.Detail)...)
	default:
		var to []string
		for _, t := range g.Transitions[1:] {
			to = append(to, t.Deployment)
		}
		r.o.Logger.Info("forwarded", append(attrs, "deployments", to)...)
	}
}

func (r *Router) done(e queue.Entry) {
	if err := r.o.Queue.Done(e); err != nil {
		r.rest(e, fmt.Errorf("remove entry %s, which the log holds: %w", e.Name, err))
		return
	}
	r.forget(e)
}

// quarantine is for what can never be routed; see rest.
func (r *Router) quarantine(e queue.Entry, reason error) {
	r.o.Logger.Error("entry moved to quarantine", "entry", e.Name, "reason", reason)
	if err := r.o.Queue.Quarantine(e, reason); err != nil {
		r.rest(e, fmt.Errorf("quarantine entry %s (%w): %w", e.Name, reason, err))
		return
	}
	r.forget(e)
}

// rest leaves an acknowledged entry where it is, because what keeps it from being
// routed may pass, and goes on with the others.
func (r *Router) rest(e queue.Entry, why error) {
	if pause, again := r.o.Queue.Rest(e); !again {
		r.o.Logger.Warn("cannot route an entry for now; it is tried again with growing pauses, and the others go on",
			"entry", e.Name, "retry_in", pause, "error", why)
	}
}

func (r *Router) conflict(e queue.Entry) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conflicts[e.ID]++
	return r.conflicts[e.ID]
}

func (r *Router) forget(e queue.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conflicts, e.ID)
}
