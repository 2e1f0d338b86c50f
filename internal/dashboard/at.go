package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// atView is the page that says what was live at a moment.
type atView struct {
	Headline string
	At       time.Time
	Text     string // for the form
	Position int64
	Event    *logLine
	Items    []then
	Many     bool
	// ToCome says that another moment was asked for, which is still to come.
	ToCome bool
	// The slider goes over the last month, in minutes since From.
	From         time.Time
	Minutes, Now int
}

// then is a deployment as it was.
type then struct {
	Instance, Slug, Href string
	Class, Status        string
	Live                 *shown
	Running              *shown
	Holds                []string
	// Same says that it is still live.
	Same bool
}

// monthMinutes is how far back the slider goes.
const monthMinutes = 31 * 24 * 60

func atPage(ctx context.Context, r *request) (view, error) {
	v := atView{At: r.now, From: r.now.Add(-monthMinutes * time.Minute).Truncate(time.Minute), Minutes: monthMinutes}
	q := r.URL.Query()
	text := strings.TrimSpace(q.Get("time"))
	if text == "" && q.Get("minutes") != "" {
		from, err := number(cmp.Or(q.Get("from"), strconv.FormatInt(v.From.UnixMilli(), 10)))
		minutes, minutesErr := strconv.Atoi(q.Get("minutes"))
		if err != nil || minutesErr != nil || minutes < 0 || minutes > monthMinutes {
			return view{}, badRequest("That is no moment of the last month", "Move the slider, or write a time.")
		}
		text = time.UnixMilli(from).Add(time.Duration(minutes) * time.Minute).UTC().Format(time.RFC3339)
	}
	if text != "" {
		at, err := r.moments(text)
		if err != nil {
			return view{}, err
		}
		if v.ToCome = at.After(r.now); !v.ToCome {
			v.At = at
		}
	}
	v.Text = v.At.Format("2006-01-02T15:04")
	v.Now = min(monthMinutes, max(0, int(v.At.Sub(v.From).Minutes())))
	var err error
	if v.Position, err = r.source.Log.Before(ctx, v.At); err != nil {
		return view{}, err
	}
	if err := v.fold(ctx, r); err != nil {
		return view{}, err
	}
	live := 0
	for _, t := range v.Items {
		if t.Live != nil {
			live++
		}
	}
	when := v.At.Format("2 January 2006, 15:04 UTC")
	switch {
	case v.Position == 0:
		v.Headline = "Nothing was recorded yet on " + when
	case live == 0:
		v.Headline = "Nothing was live on " + when
	default:
		v.Headline = fmt.Sprintf("%s on %s", map[bool]string{true: "1 deployment was live", false: fmt.Sprintf("%d deployments were live", live)}[live == 1], when)
	}
	return view{name: "at", Title: v.Headline, Skip: "what was live", Current: "at", Data: v}, nil
}

var (
	runTypes  = []eventlog.Type{eventlog.TypeStarted, eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeInterrupted}
	holdTypes = []eventlog.Type{eventlog.TypePinned, eventlog.TypeUnpinned, eventlog.TypeFrozen, eventlog.TypeThawed}
)

// fold finds, of each deployment, the newest events up to the position that say how it was:
// of all of them in one round trip, each by an index.
func (v *atView) fold(ctx context.Context, r *request) error {
	known, err := r.models.Deployments(ctx, "")
	if err != nil || v.Position == 0 {
		return err
	}
	const each = 2
	var filters []eventlog.Filter
	for _, d := range known {
		newest := func(types ...eventlog.Type) {
			filters = append(filters, eventlog.Filter{Instance: d.Instance, Deployment: d.Slug, Types: types, Through: v.Position, Newest: true, Limit: 1})
		}
		newest(eventlog.TypeDeployed)
		newest(runTypes...)
	}
	filters = append(filters, eventlog.Filter{Positions: []int64{v.Position}})
	found, err := r.source.Log.FindEach(ctx, filters)
	if err != nil {
		return err
	}
	if last := found[len(found)-1]; len(last) == 1 {
		line := r.logLine(last[0])
		v.Event = &line
	}
	held, err := v.held(ctx, r)
	if err != nil {
		return err
	}
	var hashes []wanted
	for i, d := range known {
		one := found[each*i : each*i+each]
		t := then{Instance: d.Instance, Slug: d.Slug, Href: r.deploymentHref(d.Instance, d.Slug), Class: "never", Status: "never deployed"}
		if len(one[0]) == 1 {
			t.Live = r.then(one[0][0])
			t.Class, t.Status, t.Same = "live", "live", d.Live != nil && d.Live.Position == one[0][0].Position
		}
		if len(one[1]) == 1 {
			switch one[1][0].Type {
			case eventlog.TypeStarted:
				t.Running = r.then(one[1][0])
				t.Class, t.Status = "running", "running"
			case eventlog.TypeFailed:
				t.Class, t.Status = "failed", "failed"
			}
		}
		t.Holds = v.holds(held, d)
		for _, s := range []*shown{t.Live, t.Running} {
			if s != nil {
				hashes = append(hashes, wanted{s.Hash, r.configured(t.Instance, t.Slug)})
			}
		}
		v.Items = append(v.Items, t)
	}
	if err := r.h.commits.name(ctx, r.source, hashes); err != nil {
		return err
	}
	instances := map[string]bool{}
	for i := range v.Items {
		t := &v.Items[i]
		instances[t.Instance] = true
		for _, s := range []*shown{t.Live, t.Running} {
			if s != nil {
				s.commit = r.h.commits.of(r.site(t.Instance, t.Slug), s.Hash)
			}
		}
	}
	v.Many = len(instances) > 1
	slices.SortStableFunc(v.Items, func(a, b then) int {
		return cmp.Or(-cmp.Compare(btoi(r.own(a.Instance)), btoi(r.own(b.Instance))), strings.Compare(a.Instance, b.Instance), strings.Compare(a.Slug, b.Slug))
	})
	return nil
}

// hold is what pins or freezes a deployment, or with projections.All freezes an instance.
type hold struct {
	instance, slug string
	pin            bool
}

// held finds the newest event that pinned, unpinned, froze or thawed each of them. All that
// there were are read: people append them, and there is an index of them.
func (v *atView) held(ctx context.Context, r *request) (map[hold]eventlog.Event, error) {
	held := map[hold]eventlog.Event{}
	for e, err := range r.source.Log.Find(ctx, eventlog.Filter{Types: holdTypes, Through: v.Position}) {
		if err != nil {
			return nil, err
		}
		held[hold{e.Instance, cmp.Or(e.DeploymentSlug(), projections.All), e.Type == eventlog.TypePinned || e.Type == eventlog.TypeUnpinned}] = e
	}
	return held, nil
}

func (r *request) then(e eventlog.Event) *shown {
	s := &shown{By: plain(e.Actor, maxPerson), Since: e.RecordedAt, Delivery: r.deliveryHref(e.Instance, e.DeliveryID), Attempt: e.Attempt}
	switch d := decoded(e).(type) {
	case eventlog.Deployed:
		s.Hash = d.Commit
	case eventlog.Started:
		s.Hash = d.Commit
	}
	return s
}

// holds says what held a deployment then. Of two freezes, that of it and that of all, the
// newest one is told.
func (v *atView) holds(held map[hold]eventlog.Event, d projections.Deployment) (holds []string) {
	pin := held[hold{d.Instance, d.Slug, true}]
	if p, ok := decoded(pin).(eventlog.Pinned); ok {
		holds = append(holds, plain(fmt.Sprintf("pinned to %s by %s: %s", short(p.Commit), pin.Actor, p.Reason), 300))
	}
	freezes := []eventlog.Event{held[hold{d.Instance, d.Slug, false}], held[hold{d.Instance, projections.All, false}]}
	slices.SortFunc(freezes, func(a, b eventlog.Event) int { return cmp.Compare(b.Position, a.Position) })
	for _, e := range freezes {
		if f, ok := decoded(e).(eventlog.Frozen); ok && (f.Until.IsZero() || f.Until.After(v.At)) {
			return append(holds, plain(fmt.Sprintf("frozen by %s: %s", e.Actor, f.Reason), 300))
		}
	}
	return holds
}
