package dashboard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// logView is the page of events.
type logView struct {
	Headline, Lead string
	Lines          []logLine
	Form           logForm
	// Older and Newer are the pages before and after.
	Older, Newer string
	Many         bool
}

type logLine struct {
	Position int64
	At       time.Time
	Type     string
	Instance string
	Where    string
	WhereRef string
	Text     string
	Delivery string
	ID       string
	Attempt  int
}

// logForm is what was asked for.
type logForm struct {
	Instances  []choice
	Types      []choice
	Deployment string
	Slugs      []string
	Delivery   string
	Since      string
	Until      string
}

type choice struct {
	Value string
	On    bool
}

const logShown = 50

func logPage(ctx context.Context, r *request) (view, error) {
	q := r.URL.Query()
	instances, err := r.source.Log.Instances(ctx)
	if err != nil {
		return view{}, err
	}
	f, form, err := r.logFilter(q, instances)
	if err != nil {
		return view{}, err
	}
	// A page before a position, after one, or else the newest.
	before, beforeErr := number(q.Get("before"))
	after, afterErr := number(q.Get("after"))
	if beforeErr != nil || afterErr != nil {
		return view{}, badRequest("That is no position", "Positions are numbers from 1 on. Leave out before and after to see the newest events.")
	}
	f.Limit, f.Newest = logShown+1, after == 0
	f.After = after
	if before > 0 {
		f.Through = before - 1
	}
	var events []eventlog.Event
	if before != 1 {
		for e, err := range r.source.Log.Find(ctx, f) {
			if err != nil {
				return view{}, err
			}
			events = append(events, e)
		}
	}
	more := len(events) > logShown
	if more && f.Newest {
		events = events[1:]
	} else if more {
		events = events[:logShown]
	}
	v := logView{Form: form, Many: len(instances) > 1}
	turn := func(key string, position int64) string {
		q := r.URL.Query()
		q.Del("before")
		q.Del("after")
		if key != "" {
			q.Set(key, strconv.FormatInt(position, 10))
		}
		return (&url.URL{Path: "/log", RawQuery: q.Encode()}).String()
	}
	if n := len(events); n > 0 {
		if more && f.Newest || after > 0 {
			v.Older = turn("before", events[0].Position)
		}
		if before > 0 || more && after > 0 {
			v.Newer = turn("after", events[n-1].Position)
		}
	} else if before > 0 || after > 0 {
		v.Newer = turn("", 0)
	}
	for _, e := range slices.Backward(events) {
		v.Lines = append(v.Lines, r.logLine(e))
	}
	filtered := form.Deployment+form.Delivery+form.Since+form.Until != "" || len(f.Types) > 0 || f.Instance != ""
	switch {
	case len(events) == 0 && !filtered && before+after == 0:
		v.Headline, v.Lead = "The log is empty", "The first push that GitHub sends is its first event. durhack-deployer doctor says what is still to be done."
	case len(events) == 0:
		v.Headline, v.Lead = "No event matches", "Ask for less, or look at another page."
		if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
			v.Lead = "The time from which events are asked for is not before that until which they are."
		}
	default:
		v.Headline = fmt.Sprintf("Events %s to %s", thin(events[0].Position), thin(events[len(events)-1].Position))
		if filtered {
			v.Headline = words.Counted(len(events), "event", "events") + " " + map[bool]string{true: "that match, and there are more", false: "that match"}[more]
		}
		v.Lead = fmt.Sprintf("The newest first, from %s to %s.", events[0].RecordedAt.Format("2006-01-02 15:04:05 UTC"), events[len(events)-1].RecordedAt.Format("2006-01-02 15:04:05 UTC"))
	}
	view := view{name: "log", Title: v.Headline, Skip: "the events", Current: "log", Data: v}
	if before == 0 && after == 0 && form.Until == "" {
		view.Watch = "*"
	}
	return view, nil
}

func number(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 1 {
		err = strconv.ErrRange
	}
	return n, err
}

// logFilter reads what is asked for. Names that are none are no question to the database.
func (r *request) logFilter(q url.Values, instances []string) (f eventlog.Filter, form logForm, err error) {
	form = logForm{
		Deployment: strings.TrimSpace(q.Get("deployment")), Delivery: strings.TrimSpace(q.Get("delivery")),
		Since: strings.TrimSpace(q.Get("since")), Until: strings.TrimSpace(q.Get("until")), Slugs: r.h.o.Config.Slugs(),
	}
	for _, t := range q["type"] {
		if t == "" {
			continue
		}
		if !eventlog.Known(eventlog.Type(t)) {
			return f, form, badRequest("There is no such type of event", "The types are: "+listed(eventlog.Types())+".")
		}
		f.Types = append(f.Types, eventlog.Type(t))
	}
	for _, t := range eventlog.Types() {
		form.Types = append(form.Types, choice{string(t), slices.Contains(f.Types, t)})
	}
	if f.Instance = q.Get("instance"); f.Instance != "" && !names.Plain(f.Instance) {
		return f, form, badRequest("That is no name of an instance", "Choose one that the page offers.")
	}
	if f.Instance != "" && !r.own(f.Instance) && !slices.Contains(instances, f.Instance) {
		return f, form, notFound("The log has no instance "+plain(f.Instance, 80), "Its instances are: "+listed(instances)+".")
	}
	for _, name := range instances {
		form.Instances = append(form.Instances, choice{name, name == f.Instance})
	}
	if f.Deployment = form.Deployment; f.Deployment != "" && !names.Slug(f.Deployment) {
		return f, form, badRequest("That is no name of a deployment", "Leave it out, or take one of the first page.")
	}
	if f.Deployment != "" {
		err := r.source.DeploymentInLog(r.Context(), f.Deployment)
		if unknown, ok := errors.AsType[*answer.Error](err); ok && unknown.Kind == answer.UnknownDeployment {
			return f, form, r.noDeployment(f.Deployment, "")
		}
		if err != nil {
			return f, form, err
		}
	}
	if form.Delivery != "" && !names.DeliveryID(form.Delivery) {
		return f, form, badRequest("That is no ID of a delivery", "It has letters, digits and dashes.")
	}
	if f.DeliveryID = form.Delivery; f.DeliveryID != "" {
		of := instances
		if f.Instance != "" || len(of) == 0 {
			of = []string{cmp.Or(f.Instance, r.h.o.Config.Instance)}
		}
		if f.DeliveryID, err = r.source.DeliveryOf(r.Context(), of, form.Delivery); err != nil {
			return f, form, r.noDelivery(r.Context(), form.Delivery, err)
		}
	}
	for _, one := range []struct {
		text *string
		into *time.Time
	}{{&form.Since, &f.Since}, {&form.Until, &f.Until}} {
		if *one.text == "" {
			continue
		}
		if *one.into, err = r.moments(*one.text); err != nil {
			return f, form, err
		}
		*one.text = one.into.Format(time.DateTime) // "2d" would mean another time on the next page
	}
	return f, form, nil
}

// noDeployment is the page for a slug that is none, with those that there are.
func (r *request) noDeployment(slug, why string) error {
	p := &problem{Code: http.StatusNotFound, Headline: "There is no deployment " + slug, Next: why + "The configuration has none."}
	for _, known := range r.h.o.Config.Slugs() {
		p.Next, p.Links = why+"The deployments are:", append(p.Links, other{known, r.deploymentHref(r.h.o.Config.Instance, known)})
	}
	return p
}

func listed[T ~string](names []T) string {
	var all []string
	for _, name := range names {
		all = append(all, string(name))
	}
	return strings.Join(all, ", ")
}

// moments reads a time as forms, links and people have it; without a zone it is of UTC.
func (r *request) moments(text string) (time.Time, error) {
	t, err := words.ParseTime(text, r.now.UTC())
	if err != nil {
		return t, badRequest("That is no time", "Write "+words.TimeForms+"; in UTC.")
	}
	return t.UTC(), nil
}

func (r *request) logLine(e eventlog.Event) logLine {
	l := logLine{
		Position: e.Position, At: e.RecordedAt, Type: string(e.Type), Instance: e.Instance, Where: e.DeploymentSlug(), Text: plain(answer.Summary(e), answer.MaxSummary),
		Delivery: r.deliveryHref(e.Instance, e.DeliveryID), ID: short(e.DeliveryID), Attempt: e.Attempt,
	}
	if l.Where != "" {
		l.WhereRef = r.deploymentHref(e.Instance, l.Where)
	}
	return l
}
