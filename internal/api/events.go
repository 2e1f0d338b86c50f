package api

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
)

// maxEvents bounds a page of events, which has someEvents where nobody says how many.
const (
	maxEvents  = 1000
	someEvents = 100
)

// eventsAnswer is a page of events, in order.
type eventsAnswer struct {
	Events []eventlog.Event `json:"events"`
	// Head is the position up to which the page has everything that was asked for, unless
	// there is a Next: what comes later is after it.
	Head int64 `json:"head"`
	// Next is the page behind this one, if there is more.
	Next string `json:"next,omitempty"`
}

func (h *Handler) events(w http.ResponseWriter, r *http.Request) (any, error) {
	if wantsStream(r) {
		return nil, h.stream(w, r)
	}
	given, err := parameters(r, "after", "type", "deployment", "delivery", "limit")
	if err != nil {
		return nil, err
	}
	limit, err := number(given, "limit", someEvents, 1, maxEvents)
	if err != nil {
		return nil, err
	}
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err != nil {
		return nil, err
	}
	filter, err := filterOf(ctx, source, given)
	if err != nil {
		return nil, err
	}
	filter.Newest = given["after"] == ""
	a, more, err := page(ctx, source, filter, int(limit))
	if err != nil {
		return nil, err
	}
	if more && !filter.Newest {
		a.Next = next("events", given, "after", strconv.FormatInt(a.Events[len(a.Events)-1].Position, 10))
	}
	return a, nil
}

// filterOf reads the parameters that choose events.
func filterOf(ctx context.Context, source answer.Source, given map[string]string) (eventlog.Filter, error) {
	f := eventlog.Filter{Deployment: given["deployment"]}
	var err error
	if f.After, err = number(given, "after", 0, 0, math.MaxInt64); err != nil {
		return f, err
	}
	if types := given["type"]; types != "" {
		for t := range strings.SplitSeq(types, ",") {
			if !eventlog.Known(eventlog.Type(t)) {
				return f, wrongf("type: unknown event type %q; one or several, separated by commas, of: %s", t, eventlog.TypeNames())
			}
			f.Types = append(f.Types, eventlog.Type(t))
		}
	}
	if f.Deployment != "" {
		if err := source.DeploymentInLog(ctx, f.Deployment); err != nil {
			return f, err
		}
	}
	if id := given["delivery"]; id != "" {
		instances, err := source.Log.Instances(ctx)
		if err != nil {
			return f, err
		}
		if f.DeliveryID, err = source.DeliveryOf(ctx, instances, id); err != nil {
			return f, err
		}
	}
	return f, nil
}

// page reads the next events that the filter chooses, or the newest, and says whether
// there are more.
func page(ctx context.Context, source answer.Source, f eventlog.Filter, limit int) (a eventsAnswer, more bool, err error) {
	// Before the events, so that none comes between.
	if a.Head, err = source.Log.Head(ctx); err != nil {
		return a, false, err
	}
	f.Limit = limit + 1
	a.Events = make([]eventlog.Event, 0, f.Limit)
	for e, err := range source.Log.Find(ctx, f) {
		if err != nil {
			return a, false, err
		}
		a.Events = append(a.Events, e)
	}
	if more = len(a.Events) > limit; more && f.Newest {
		a.Events = a.Events[1:]
	} else if more {
		a.Events = a.Events[:limit]
	}
	if n := len(a.Events); n > 0 {
		a.Head = max(a.Head, a.Events[n-1].Position)
	}
	return a, more, nil
}
