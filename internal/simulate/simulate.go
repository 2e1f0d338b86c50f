// Package simulate decides stored deliveries again under other rules, without
// any effect, and says which decisions would have been different.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

// Log is what a simulation reads; it has no way to write.
type Log interface {
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
}

// Restore puts a delivery together again from its events and its stored body;
// eventlog.ErrNoPayload where that body is gone.
type Restore func(ctx context.Context, events []eventlog.Event) (delivery.Delivery, error)

// Outcome is what a simulation found of one delivery. It is only reported where
// the decision changes or nothing can be said.
type Outcome struct {
	DeliveryID string
	ReceivedAt time.Time
	Actor      string
	Repository string
	Ref        string
	Commit     string
	Was, Now   router.Verdict
	// Unknown is why nothing can be said, or "".
	Unknown string
}

// Result counts the deliveries.
type Result struct {
	// Decided were decided again; of them Changed came out differently. Of the
	// Unknown ones nothing can be said.
	Decided, Changed, Unknown int
}

// page is how many deliveries' events are read at a time. Their bodies are read
// one by one: memory is that of one body.
const page = 500

// Run decides again the deliveries that the filter chooses (by Instance, Since,
// Until, DeliveryIDs), in order of arrival, and calls report with each outcome
// that is worth a word. The old decision is read from the log, and not made
// again under old rules.
func Run(ctx context.Context, log Log, restore Restore, f eventlog.Filter, rules []router.Rule, report func(Outcome) error) (Result, error) {
	var result Result
	f.Types, f.Limit = []eventlog.Type{eventlog.TypeReceived}, page
	for {
		var ids []string
		for e, err := range log.Find(ctx, f) {
			if err != nil {
				return result, fmt.Errorf("read deliveries: %w", err)
			}
			ids = append(ids, e.DeliveryID)
			f.After = e.Position
		}
		if len(ids) == 0 {
			return result, nil
		}
		events := map[string][]eventlog.Event{}
		for e, err := range log.Find(ctx, eventlog.Filter{Instance: f.Instance, DeliveryIDs: ids}) {
			if err != nil {
				return result, fmt.Errorf("read the events of %d deliveries: %w", len(ids), err)
			}
			events[e.DeliveryID] = append(events[e.DeliveryID], e)
		}
		for _, id := range ids {
			if err := result.decide(ctx, restore, events[id], rules, report); err != nil {
				return result, fmt.Errorf("decide delivery %s again: %w", id, err)
			}
		}
		if len(ids) < page {
			return result, nil
		}
	}
}

func (r *Result) decide(ctx context.Context, restore Restore, events []eventlog.Event, rules []router.Rule, report func(Outcome) error) error {
	state, err := router.Fold(events)
	if err != nil {
		return err
	}
	o := Outcome{DeliveryID: events[0].DeliveryID, Actor: state.Actor}
	if d := state.Received; d != nil {
		o.ReceivedAt, o.Repository, o.Ref, o.Commit = d.ReceivedAt, d.Repository, d.Ref, d.Commit
	}
	was, decided, err := router.Recorded(events)
	if err != nil {
		return err
	}
	d, err := restore(ctx, events)
	switch {
	case errors.Is(err, eventlog.ErrNoPayload):
		o.Unknown = "its body is not stored any more: it was redacted, or imported without bodies"
	case err != nil:
		return err
	case !decided:
		o.Unknown = "the log does not say what was decided of it"
	}
	if o.Unknown != "" {
		r.Unknown++
		return report(o)
	}
	r.Decided++
	o.Was, o.Now = was, router.Decide(d, rules).Verdict()
	// A duplicate stays one: what would become of the push, its first delivery says.
	duplicate := o.Was.Void != nil && o.Was.Void.Reason == eventlog.ReasonDuplicate && o.Now.Void == nil
	if duplicate || o.Was.Same(o.Now) {
		return nil
	}
	r.Changed++
	return report(o)
}
