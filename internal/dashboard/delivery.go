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
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// deliveryView is the page of one delivery.
type deliveryView struct {
	ID, Instance string
	// Class, Status and Rest are the headline: the mark with its word, and what follows.
	Class, Status, Rest string
	Commit              commit
	Lead                string
	Parts               []part
	Road                []roadLine
	Facts               []fact
	Commands            []string
	Others              []other
	// Log is the run that is looked at.
	Log        *runLog
	ActionView actionView
	Next       string
	Cut        int
}

// part is what became of the delivery at one deployment.
type part struct {
	Deployment, Href string
	Class, Status    string
	Text             string
	Progress         *progress
	Live             *commit
	// now is the deployment as it is.
	now        projections.Deployment
	StepsTitle string
	Steps      []stepBar
	Plan       string
	Attempts   []attemptLink
	attempt    projections.Attempt
}

type attemptLink struct {
	Attempt int
	Class   string
	Outcome string
	Href    string
	Here    bool
}

type roadLine struct {
	At       time.Time
	After    string
	Type     string
	Position int64
	Text     string
	Where    string
	WhereRef string
	Attempt  int
}

type fact struct {
	Name, Value string
	Link        string
	At          time.Time
	Mono        bool
}

type other struct{ Text, Href string }

// roadShown bounds the events of a delivery that are shown.
const roadShown = 200

func deliveryPage(ctx context.Context, r *request) (view, error) {
	id := r.PathValue("id")
	if !names.DeliveryID(id) {
		return view{}, badRequest("That is no ID of a delivery", "It is on GitHub's “Recent deliveries” page, and in the log.")
	}
	events, others, err := r.delivery(ctx, id)
	if err != nil {
		return view{}, err
	}
	if len(events) == 0 {
		return r.elsewhere(ctx, id)
	}
	v := deliveryView{ID: id, Instance: events[0].Instance, Others: others}
	if err := v.parts(ctx, r); err != nil {
		return view{}, err
	}
	v.road(r, events)
	v.verdict(r)
	if err := v.log(ctx, r, events); err != nil {
		return view{}, err
	}
	v.facts(r, events)
	v.ActionView.Actions = v.actions(r)
	v.Commands = []string{"durhack-deployer why " + id, "durhack-deployer logs " + id, "durhack-deployer replay " + id + ` --reason "…"`}
	return view{name: "delivery", Title: strings.TrimSpace(v.Status + " " + v.Rest), Skip: "the story", Current: "deployments", Watch: "delivery=" + id, Data: v}, nil
}

// delivery reads the events of a delivery of the instance that is asked for, else of this one,
// else of the first that has one, and names the others.
func (r *request) delivery(ctx context.Context, id string) ([]eventlog.Event, []other, error) {
	asked, err := r.instance()
	if err != nil {
		return nil, nil, err
	}
	of := map[string][]eventlog.Event{}
	var instances []string
	for e, err := range r.source.Log.Find(ctx, eventlog.Filter{DeliveryID: id, Newest: true, Limit: 5 * roadShown}) {
		if err != nil {
			return nil, nil, err
		}
		if of[e.Instance] == nil {
			instances = append(instances, e.Instance)
		}
		of[e.Instance] = append(of[e.Instance], e)
	}
	if of[asked] == nil && len(instances) > 0 && r.URL.Query().Get("instance") == "" {
		asked = instances[0]
	}
	var others []other
	for _, name := range instances {
		if name != asked && of[asked] != nil {
			others = append(others, other{"the same delivery at " + plain(name, 80), r.deliveryHref(name, id)})
		}
	}
	return of[asked], others, nil
}

// elsewhere leads to the only delivery whose ID begins so, or says that there is none.
func (r *request) elsewhere(ctx context.Context, id string) (view, error) {
	full, err := r.source.DeliveryID(ctx, id)
	if err == nil && full != id {
		return view{redirect: r.deliveryHref(r.h.o.Config.Instance, full)}, nil
	}
	return view{}, r.noDelivery(ctx, id, err)
}

// noDelivery is the page for an ID, or the beginning of one, that names no delivery, and why.
func (r *request) noDelivery(ctx context.Context, id string, why error) error {
	p := &problem{
		Code: http.StatusNotFound, Headline: "The log has no delivery " + plain(id, 70),
		Next: "The log lists the deliveries; one that never came is on GitHub's “Recent deliveries” page.", Links: []other{{"The deliveries in the log", "/log?type=received"}},
	}
	asked, known := errors.AsType[*answer.Error](why)
	switch {
	case why != nil && !known:
		return why
	case known && asked.Unrouted != nil:
		p.Headline, p.Next = "Delivery "+short(id)+" is not in the log yet", sentenceOf(plain("it "+asked.Unrouted.Why(r.source.NotRouted(ctx)), 400))
	case known && asked.Kind == answer.Ambiguous:
		p.Headline, p.Next, p.Links = "Several deliveries begin with "+plain(id, 70), sentenceOf(asked.Hint)+" They are:", nil
		for _, line := range asked.Candidates {
			full, _, _ := strings.Cut(line, " ")
			p.Links = append(p.Links, other{plain(line, 200), r.deliveryHref(r.h.o.Config.Instance, full)})
		}
	}
	return p
}

// parts are the newest attempts at each deployment, or those that are asked for.
func (v *deliveryView) parts(ctx context.Context, r *request) error {
	attempts, err := r.models.Attempts(ctx, projections.AttemptFilter{Instance: v.Instance, DeliveryID: v.ID})
	if err != nil {
		return err
	}
	slices.SortStableFunc(attempts, func(a, b projections.Attempt) int { return b.Attempt - a.Attempt })
	askedFor, number := r.URL.Query().Get("deployment"), r.URL.Query().Get("attempt")
	for _, a := range attempts {
		i := slices.IndexFunc(v.Parts, func(p part) bool { return p.Deployment == a.Deployment })
		if i < 0 {
			i = len(v.Parts)
			v.Parts = append(v.Parts, part{Deployment: a.Deployment, Href: r.deploymentHref(v.Instance, a.Deployment), attempt: a})
		}
		p := &v.Parts[i]
		if a.Deployment == askedFor && strconv.Itoa(a.Attempt) == number {
			p.attempt = a
		}
		p.Attempts = append(p.Attempts, attemptLink{Attempt: a.Attempt, Class: string(a.Outcome), Outcome: string(a.Outcome), Href: r.runHref(a)})
	}
	slices.SortStableFunc(v.Parts, func(a, b part) int { return strings.Compare(a.Deployment, b.Deployment) })
	for i := range v.Parts {
		p := &v.Parts[i]
		slices.Reverse(p.Attempts)
		for j := range p.Attempts {
			p.Attempts[j].Here = p.Attempts[j].Attempt == p.attempt.Attempt
		}
		p.Class, p.Status = string(p.attempt.Outcome), string(p.attempt.Outcome)
	}
	return r.tellParts(ctx, v)
}

func (r *request) runHref(a projections.Attempt) string {
	q := url.Values{"deployment": {a.Deployment}, "attempt": {strconv.Itoa(a.Attempt)}}
	if !r.own(a.Instance) {
		q.Set("instance", a.Instance)
	}
	return "/deliveries/" + url.PathEscape(a.DeliveryID) + "?" + q.Encode()
}

// tellParts adds to each part what is live there now, and how its run went or goes.
func (r *request) tellParts(ctx context.Context, v *deliveryView) error {
	known, err := r.models.Deployments(ctx, v.Instance)
	if err != nil {
		return err
	}
	var positions []int64
	var hashes []wanted
	for _, p := range v.Parts {
		a := p.attempt
		d := r.configured(v.Instance, p.Deployment)
		hashes = append(hashes, wanted{a.Commit, d}, wanted{a.PreviousCommit, d})
		for _, position := range []int64{a.AssignedPosition, a.StartedPosition, a.EndedPosition} {
			if position > 0 {
				positions = append(positions, position)
			}
		}
	}
	for _, d := range known {
		if d.Live != nil && slices.ContainsFunc(v.Parts, func(p part) bool { return p.Deployment == d.Slug }) {
			hashes = append(hashes, wanted{d.Live.Commit, r.configured(v.Instance, d.Slug)})
		}
	}
	if err := r.h.commits.name(ctx, r.source, hashes); err != nil {
		return err
	}
	events := map[int64]eventlog.Event{}
	if len(positions) > 0 {
		for e, err := range r.source.Log.Find(ctx, eventlog.Filter{Positions: positions}) {
			if err != nil {
				return err
			}
			events[e.Position] = e
		}
	}
	for i := range v.Parts {
		p := &v.Parts[i]
		site := r.site(v.Instance, p.Deployment)
		if j := slices.IndexFunc(known, func(d projections.Deployment) bool { return d.Slug == p.Deployment }); j >= 0 {
			p.now = known[j]
		}
		orders, _ := events[p.attempt.AssignedPosition].Assignments() // what cannot be decoded passes nothing
		for _, o := range orders {
			if o.Deployment == p.Deployment && o.PassesHolds() {
				p.now.Frozen = nil
			}
		}
		if p.now.Live != nil {
			live := r.h.commits.of(site, p.now.Live.Commit)
			p.Live = &live
		}
		p.Text = p.text(ctx, r)
		durations, err := r.of(v.Instance).Durations(ctx, p.Deployment)
		if err != nil {
			return err
		}
		p.steps(r, events, func(step string) time.Duration {
			return time.Duration(durations.Usual(p.Deployment, step)) * time.Millisecond
		})
		if i == 0 {
			v.Commit = r.h.commits.of(site, p.attempt.Commit)
		}
	}
	return nil
}

func (r *request) site(instance, slug string) string {
	if d := r.configured(instance, slug); d != nil {
		return siteOf(d)
	}
	return ""
}

// steps draws those of the run, finished or not.
func (p *part) steps(r *request, events map[int64]eventlog.Event, usual func(step string) time.Duration) {
	a := p.attempt
	var finished []eventlog.Step
	switch d := decoded(events[a.EndedPosition]).(type) {
	case eventlog.Deployed:
		finished = d.Steps
	case eventlog.Failed:
		finished = d.Steps
	}
	var steps []stepTime
	for _, s := range finished {
		steps = append(steps, stepTime{plain(s.Name, 80), s.Result, time.Duration(s.DurationMS) * time.Millisecond, usual(s.Name)})
	}
	started, ok := decoded(events[a.StartedPosition]).(eventlog.Started)
	if ok && a.Outcome == projections.OutcomeRunning {
		steps = r.goingOn(a, started, usual)
		p.Plan = plain(strings.Join(started.Plan, ", "), 600)
		var whole time.Duration
		for _, name := range started.Plan {
			whole += usual(name)
		}
		if n := len(steps); n > 0 {
			s := steps[n-1]
			p.Progress = r.newProgress(&answer.Progress{
				Step: s.Name, Number: n, Of: len(started.Plan), Since: r.now.Add(-s.Took), UsualMS: s.Usual.Milliseconds(),
			}, a.StartedAt, whole)
		}
	}
	p.Steps = newSteps(steps)
}

// goingOn reads from the run log which steps of a run there were until now.
func (r *request) goingOn(a projections.Attempt, started eventlog.Started, usual func(step string) time.Duration) []stepTime {
	if !here(started.Host) {
		return nil
	}
	starts, err := handlers.Starts(r.runFile(a), started.Plan)
	if err != nil {
		return nil // a run log is not owed: the disk may be full
	}
	var steps []stepTime
	for i, at := range starts {
		s := stepTime{Name: plain(started.Plan[i], 80), Result: "ok", Usual: usual(started.Plan[i])}
		if i+1 < len(starts) {
			s.Took = max(0, starts[i+1].Sub(at))
		} else {
			s.Result, s.Took = "running", max(0, r.now.Sub(at))
		}
		steps = append(steps, s)
	}
	return steps
}

func decoded(e eventlog.Event) eventlog.Data {
	data, err := e.Decode()
	if err != nil {
		return nil
	}
	return data
}

// text says in a sentence what became of the delivery at the deployment.
func (p *part) text(ctx context.Context, r *request) string {
	a := p.attempt
	is := ""
	if p.Live != nil && a.Commit != p.Live.Hash {
		is = "Live there is " + short(p.Live.Hash) + "."
	}
	switch a.Outcome {
	case projections.OutcomeDeployed:
		if is == "" {
			return "It is what is live now."
		}
		return "It was live. " + is
	case projections.OutcomeFailed:
		return strings.TrimSpace(sentenceOf(plain(cmp.Or(answer.Canceled(a), a.Error), 400)) + " " + is)
	case projections.OutcomeRunning:
		going := "It is going live."
		if canceled := answer.Canceled(a); canceled != "" {
			going = sentenceOf(plain("it is being ended: "+canceled, 400))
		}
		return strings.TrimSpace(going + " " + is)
	}
	why := plain(answer.WhyNotLive(a, p.now), 500)
	if a.Outcome == projections.OutcomeWaiting && r.own(a.Instance) {
		if ahead := r.source.Ahead(ctx, a.DeliveryID, a.Deployment, p.now); ahead != "" {
			why = plain("it waits for "+a.Deployment+ahead, 500)
		}
	}
	return strings.TrimSpace(sentenceOf(why) + " " + is)
}

func (v *deliveryView) road(r *request, events []eventlog.Event) {
	v.Cut = max(0, len(events)-roadShown)
	for i, e := range events {
		if i > 0 && i <= v.Cut {
			continue
		}
		l := roadLine{At: e.RecordedAt, Type: string(e.Type), Position: e.Position, Text: plain(answer.Summary(e), 1000), Where: e.DeploymentSlug(), Attempt: e.Attempt}
		if i > 0 {
			l.After = "+" + took(e.RecordedAt.Sub(events[0].RecordedAt))
		}
		if l.Where != "" {
			l.WhereRef = r.deploymentHref(e.Instance, l.Where)
		}
		v.Road = append(v.Road, l)
	}
}

// verdict is the headline: the worst that came of it, or else what came of it.
func (v *deliveryView) verdict(r *request) {
	worst := []string{"failed", "running", "waiting", "interrupted", "voided", "deployed"}
	subject := ""
	if v.Commit.Subject != "" {
		subject = ": “" + v.Commit.Subject + "”"
	}
	for _, class := range worst {
		var at []string
		var p *part
		for i := range v.Parts {
			if v.Parts[i].Class == class {
				at, p = append(at, v.Parts[i].Deployment), &v.Parts[i]
			}
		}
		if p == nil {
			continue
		}
		v.Class, v.Status, v.Rest = class, strings.ToUpper(class[:1])+class[1:], "at "+joined(at)+subject
		switch class {
		case "failed":
			v.Rest = "at step " + plain(p.attempt.Step, 80) + " of " + joined(at) + subject
			v.Next = "When it is fixed, push again, or replay this delivery."
			if answer.Canceled(p.attempt) != "" {
				v.Status, v.Next = "Canceled", "Replay this delivery to deploy it all the same."
			}
		case "deployed":
			v.Rest = "to " + joined(at) + subject
		case "voided":
			v.Status, v.Rest = "Not deployed", "to "+joined(at)+subject
		}
		break
	}
	if v.Class != "" {
		if len(v.Parts) == 1 {
			v.Lead = v.Parts[0].Text
		}
		return
	}
	v.Class, v.Status, v.Rest = "waiting", "Received", "and not decided yet"
	for _, l := range slices.Backward(v.Road) {
		if l.Type == string(eventlog.TypeVoided) && l.Where == "" {
			v.Class, v.Status, v.Rest, v.Lead = "voided", "Not deployed", "", l.Text
			return
		}
		if l.Type != string(eventlog.TypeReceived) && l.Type != string(eventlog.TypeRedelivered) {
			v.Class, v.Status, v.Rest = "held", strings.ToUpper(l.Type[:1])+l.Type[1:], ""
			v.Lead = l.Text
			return
		}
	}
	v.Lead = r.source.NotRouted(r.Context())
}

// actions are what the viewer may do about each part of it, or about the whole, where it was
// for none.
func (v *deliveryView) actions(r *request) (actions []Action) {
	if len(v.Parts) == 0 {
		return r.actions(v.Instance, Subject{DeliveryID: v.ID, Delivery: true})
	}
	for _, p := range v.Parts {
		actions = append(actions, r.actions(v.Instance, Subject{
			Deployment: p.Deployment, DeliveryID: v.ID, Attempt: p.attempt.Attempt, Delivery: true,
			Open: p.attempt.Open(), Running: p.attempt.Outcome == projections.OutcomeRunning,
		})...)
	}
	return actions
}

// facts are what the payload and the log say of it.
func (v *deliveryView) facts(r *request, events []eventlog.Event) {
	add := func(name, value string) {
		if value != "" {
			v.Facts = append(v.Facts, fact{Name: name, Value: plain(value, 300)})
		}
	}
	for _, e := range events {
		d, ok := decoded(e).(eventlog.Received)
		if !ok {
			continue
		}
		if v.Commit.Hash == "" && d.Commit != "" {
			v.Commit = r.h.commits.of(githubSite(d.Repository), d.Commit)
		}
		if d.Commit != "" {
			v.Facts = append(v.Facts, fact{Name: "Commit", Value: d.Commit, Link: v.Commit.Link, Mono: true})
		}
		add("Subject", v.Commit.Subject)
		add("Author", v.Commit.Author)
		add("Sender", e.Actor)
		add("Event", d.Event)
		add("Repository", d.Repository)
		add("Ref", d.Ref)
		add("Source", map[eventlog.Source]string{
			eventlog.SourceGitHub: "GitHub", eventlog.SourceCLI: "the command line", eventlog.SourceRecovery: "found by looking: GitHub's delivery never came",
		}[d.Source])
		v.Facts = append(v.Facts, fact{Name: "Received", At: d.ReceivedAt})
		add("Body", fmt.Sprintf("%s %s", size(d.PayloadSize), d.ContentType))
	}
	first, last := events[0].Position, events[len(events)-1].Position
	add("Positions", map[bool]string{true: thin(first), false: thin(first) + " to " + thin(last)}[first == last]+" of the log")
	add("Instance", v.Instance)
	v.Facts = append(v.Facts, fact{Name: "Delivery", Value: v.ID, Mono: true})
}

func size(bytes int64) string {
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
