package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// deploymentView is the page of one deployment.
type deploymentView struct {
	state
	// Headline is Marked and Rest.
	Headline     string
	Marked, Rest string
	Chart        chart
	Usual        time.Duration
	History      []historyLine
	// Older and Newest are pages of the history.
	Older, Newest string
	Newer         []newer
	// Elsewhere counts the pushes to other branches that came since.
	Elsewhere     int
	ElsewhereLast string
	Changes       *changes
	ActionView    actionView
	Commands      []string
	Deployed      int
	FailedRuns    int
	Voided        int
	Others        []string
}

// actionView is what the block "actions" takes.
type actionView struct{ Actions []Action }

type historyLine struct {
	At             time.Time
	Delivery       string
	ID             string
	Attempt        int
	By             string
	Commit         commit
	Previous       string
	Waited, Took   string
	Outcome, Class string
	Result         string
	How            string
}

// newer is something that came after what is live, and why it is not live.
type newer struct {
	At       time.Time
	Delivery string
	Commit   commit
	By       string
	Outcome  string
	Why      string
}

// changes are the files that differ between what is live and what was before.
type changes struct {
	git.Changes
	From    commit
	More    int
	Link    string
	Unknown string
}

const (
	// MaxChanges is how many of the files that changed are shown.
	MaxChanges  = 40
	historyPage = 20
	chartRuns   = 60
	newerShown  = 20
	// changesWithin bounds how long git is asked.
	changesWithin = 700 * time.Millisecond
)

func deploymentPage(ctx context.Context, r *request) (view, error) {
	slug := r.PathValue("slug")
	if !names.Slug(slug) {
		return view{}, badRequest("That is no name of a deployment", "The deployments are listed on the first page.")
	}
	instance, err := r.instance()
	if err != nil {
		return view{}, err
	}
	before, err := place(r.URL.Query().Get("before"))
	if err != nil {
		return view{}, err
	}
	known, err := r.models.Deployments(ctx, instance, answer.Keys(r.h.o.Config)...)
	if err != nil {
		return view{}, err
	}
	i := slices.IndexFunc(known, func(d projections.Deployment) bool { return d.Instance == instance && d.Slug == slug })
	if i < 0 {
		return view{}, r.noDeployment(slug, "Neither the configuration nor the log of instance "+plain(instance, 80)+" has one of that name. ")
	}
	d := known[i]
	key := projections.Key{Instance: instance, Slug: slug}
	runs, err := r.models.Runs(ctx, []projections.Key{key}, chartRuns)
	if err != nil {
		return view{}, err
	}
	v := deploymentView{state: r.state(d, runs[key]), Deployed: d.Deployed, FailedRuns: d.Failed, Voided: d.Voided}
	drawn := r.drawn(runs[key])
	v.Usual = usual(drawn)
	if n := len(runs[key]); n > 0 {
		v.Chart = newChart(drawn, runs[key][n-1].StartedAt, runs[key][0].StartedAt)
	}
	if err := r.complete(ctx, []*state{&v.state}, runs); err != nil {
		return view{}, err
	}
	if err := v.history(ctx, r, key, before); err != nil {
		return view{}, err
	}
	if before.Position == 0 {
		if err := v.newer(ctx, r); err != nil {
			return view{}, err
		}
		v.changed(ctx, r)
	}
	v.Headline = v.headline()
	marked, _, _ := strings.Cut(v.Headline, "; ")
	v.Marked, v.Rest = marked, v.Headline[len(marked):]
	about := v.subject()
	if about.Pinned && d.Live != nil { // perhaps by a rollback
		if about.Before, err = act.Before(ctx, r.source.Log, r.models, instance, slug, *d.Live); err != nil {
			return view{}, err
		}
	}
	if d.Running != nil {
		about.DeliveryID, about.Attempt, about.Running = d.Running.DeliveryID, d.Running.Attempt, true
	}
	if v.Configured && !v.Disabled {
		v.ActionView.Actions = r.actions(instance, about)
	}
	v.Commands = []string{"durhack-deployer why --deployment " + slug, "durhack-deployer history " + slug, "durhack-deployer logs " + slug + " --follow", "durhack-deployer deploy " + slug}
	if !v.Configured && r.own(instance) {
		v.Commands = v.Commands[1:3] // the others are refused
	}
	return view{
		name: "deployment", Title: slug + ": " + v.Headline, Skip: "what is live", Current: "deployments", Watch: "deployment=" + slug, Data: v,
	}, nil
}

func (v *deploymentView) subject() Subject {
	s := Subject{Deployment: v.Slug, Failed: v.Failed != nil, Pinned: v.Pinned != nil, Frozen: v.Frozen != nil}
	if v.Live != nil {
		s.Live, s.Before = v.Live.Hash, v.Live.Previous.Hash
	}
	return s
}

// actions are what the viewer may do, where this instance can do it.
func (r *request) actions(instance string, about Subject) []Action {
	if r.h.o.Actions == nil || !r.own(instance) {
		return nil
	}
	return r.h.o.Actions(r.Request, about)
}

func (v *deploymentView) headline() string {
	live := ""
	if v.Live != nil {
		live = short(v.Live.Hash)
	}
	switch {
	case v.Disabled && live == "":
		return "disabled, and nothing was ever live"
	case v.Disabled:
		return live + " is live; the deployment is disabled"
	case v.Running != nil && v.Running.Canceled != "":
		return short(v.Running.Hash) + " was canceled, and is being ended"
	case v.Running != nil:
		return short(v.Running.Hash) + " is going live"
	case v.Failed != nil:
		how, is := "failed", "nothing was ever live"
		if v.Failed.Canceled != "" {
			how = "was canceled"
		}
		if live != "" {
			is = "live is " + live
		}
		return fmt.Sprintf("%s %s; %s", orWord(short(v.Failed.Hash), "the newest run"), how, is)
	case live != "" && v.Pending > 0:
		return fmt.Sprintf("%s is live, and %s", live, words.Counted(v.Pending, "push waits", "pushes wait"))
	case live != "":
		return live + " is live"
	case v.Pending > 0:
		return "the first push waits"
	}
	return "never deployed"
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// instance is the one that the request names, or this one.
func (r *request) instance() (string, error) {
	name := r.URL.Query().Get("instance")
	if name == "" {
		return r.h.o.Config.Instance, nil
	}
	if !names.Plain(name) {
		return "", badRequest("That is no name of an instance", "Leave out instance, or choose one that the first page names.")
	}
	return name, nil
}

// place reads where a page of the history begins, "" for its newest.
func place(text string) (projections.Place, error) {
	if text == "" {
		return projections.Place{}, nil
	}
	p, err := projections.ParsePlace(text)
	if err != nil {
		return p, badRequest("That is no page of the history", "Leave out before to see the newest.")
	}
	return p, nil
}

func (v *deploymentView) history(ctx context.Context, r *request, key projections.Key, before projections.Place) error {
	attempts, err := r.models.Attempts(ctx, projections.AttemptFilter{Instance: key.Instance, Deployment: key.Slug, Before: before, Limit: historyPage + 1})
	if err != nil {
		return err
	}
	if len(attempts) > historyPage {
		attempts = attempts[:historyPage]
		last := attempts[historyPage-1]
		v.Older = r.page("before", projections.Place{Position: last.AssignedPosition, Attempt: last.Attempt}.String())
	}
	if before.Position > 0 {
		v.Newest = r.page("before", "")
	}
	var hashes []wanted
	for _, a := range attempts {
		hashes = append(hashes, wanted{a.Commit, r.configured(key.Instance, key.Slug)})
	}
	if err := r.h.commits.name(ctx, r.source, hashes); err != nil {
		return err
	}
	for _, a := range attempts {
		v.History = append(v.History, r.historyLine(a, v.Site))
	}
	return nil
}

// page is the address of this page with another value in its query.
func (r *request) page(key, value string) string {
	q := r.URL.Query()
	q.Set(key, value)
	if value == "" {
		q.Del(key)
	}
	u := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	return u.String()
}

func (r *request) historyLine(a projections.Attempt, site string) historyLine {
	l := historyLine{
		At: a.AssignedAt, Delivery: r.deliveryHref(a.Instance, a.DeliveryID), ID: short(a.DeliveryID), Attempt: a.Attempt, By: plain(a.Actor, maxPerson),
		Commit: r.h.commits.of(site, a.Commit), Previous: short(a.PreviousCommit), Outcome: string(a.Outcome), Class: string(a.Outcome), How: how(a.Cause),
	}
	if a.StartedPosition > 0 {
		l.Waited = took(max(0, a.StartedAt.Sub(a.AssignedAt)))
		if a.EndedPosition > 0 {
			l.Took = took(max(0, a.EndedAt.Sub(a.StartedAt)))
		}
	}
	switch a.Outcome {
	case projections.OutcomeFailed:
		l.Result = strings.TrimSpace(answer.AtStep(plain(a.Step, 80)))
		if e := exit(a.ExitCode, a.Signal); e != "" {
			l.Result += ", " + e
		}
		if canceled := answer.Canceled(a); canceled != "" {
			l.Result = plain(canceled, 400)
		}
	case projections.OutcomeVoided:
		l.Result = a.Reason
	}
	return l
}

func (v *deploymentView) changed(ctx context.Context, r *request) {
	d := r.configured(v.Instance, v.Slug)
	if v.Live == nil || v.Live.Previous.Hash == "" || v.Live.Previous.Hash == v.Live.Hash || d == nil || r.h.o.Changes == nil {
		return
	}
	from, to := v.Live.Previous, v.Live.Hash
	c := changes{From: from}
	if v.Site != "" {
		c.Link = v.Site + "/compare/" + from.Hash + "..." + to
	}
	key := v.Slug + "\x00" + from.Hash + "\x00" + to
	known, ok := r.h.changes.get(key)
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, changesWithin)
		defer cancel()
		var err error
		known, err = r.h.o.Changes(ctx, d, from.Hash, to)
		switch {
		case errors.Is(err, git.ErrNoCommit):
			c.Unknown = "The clone on this host does not have both commits."
		case ctx.Err() != nil:
			c.Unknown = "Comparing them takes git too long to show it here."
		case err != nil:
			c.Unknown = plain("git cannot compare them: "+err.Error(), 300)
		default:
			r.h.changes.put(key, known)
		}
	}
	c.Changes = known
	c.Files = known.Files[:min(MaxChanges, len(known.Files))]
	c.More = known.Count - len(c.Files)
	v.Changes = &c
}

// newer says what came after what is live, the newest first, and why it is not live.
func (v *deploymentView) newer(ctx context.Context, r *request) error {
	if !v.Configured {
		return nil
	}
	story, err := r.source.WhyDeployment(ctx, v.Slug)
	if err != nil {
		return err
	}
	var hashes []wanted
	for _, row := range story.Newer {
		hashes = append(hashes, wanted{row.Commit, r.configured(v.Instance, v.Slug)})
	}
	if err := r.h.commits.name(ctx, r.source, hashes); err != nil {
		return err
	}
	for _, row := range slices.Backward(story.Newer) {
		if len(v.Newer) == newerShown {
			break
		}
		v.Newer = append(v.Newer, newer{
			At: row.At, Delivery: r.deliveryHref(v.Instance, row.DeliveryID), Commit: r.h.commits.of(v.Site, row.Commit),
			By: plain(row.Actor, maxPerson), Outcome: row.Outcome, Why: plain(row.Why, 400),
		})
	}
	if v.Elsewhere = len(story.Elsewhere); v.Elsewhere > 0 {
		v.ElsewhereLast = plain(strings.TrimPrefix(story.Elsewhere[v.Elsewhere-1].Ref, "refs/heads/"), 100)
	}
	return nil
}
