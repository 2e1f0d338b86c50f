package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// overview is the first page: each deployment of every instance that shares the log.
type overview struct {
	Headline, Lead string
	Groups         []group
	Unrouted       int
	NotRouted      string
	// Webhook is where pushes are to be sent, for a log that has none yet.
	Webhook string
	// ActionView are what can be done to all of them.
	ActionView actionView
}

type group struct {
	Instance string
	Items    []item
}

// item is a deployment in the list.
type item struct {
	state
	Spark       spark
	Took, Usual time.Duration
}

// state is what is to know of a deployment at first sight.
type state struct {
	Slug, Instance, Href string
	// Status is the word of its mark, and Class the stylesheet's.
	Status, Class string
	Repository    string
	Branch        string
	// Site is where the repository is looked at, URL the live site.
	Site, URL      string
	Live           *shown
	Running        *shown
	Progress       *progress
	Failed         *failure
	Pinned, Frozen *projections.Hold
	PinnedTo       commit
	Pending        int
	WaitsFor       string
	Disabled       bool
	Configured     bool
	// Held says what the path holds, where that is not what was deployed last.
	Held   string
	record projections.Deployment
}

// shown is a commit that is or goes live, and how it came there.
type shown struct {
	commit
	By    string
	Since time.Time
	// How says how it came, where that was not by a push.
	How      string
	Delivery string
	Attempt  int
	// Ended says that it stays for a while and does not run.
	Previous commit
	// Canceled says by whom it was ended, or is being ended, and why.
	Canceled string
}

// failure is the newest run, where it failed.
type failure struct {
	shown
	Step, Exit, Error string
}

// progress is how far a run is.
type progress struct {
	*answer.Progress
	Started time.Time
	// Usual is how long the whole run usually takes; 0 where nobody knows.
	Usual, Elapsed, StepFor, StepUsual time.Duration
}

// Max and Value are those of the bar, which the script moves on. Where nobody knows how
// long the run takes, it counts the steps that have ended.
func (p progress) Max() int {
	if p.Usual == 0 {
		return p.Of
	}
	return int(max(p.Usual, p.Elapsed).Milliseconds())
}

// Value is how much of the bar is full.
func (p progress) Value() int {
	if p.Usual == 0 {
		return p.Number - 1
	}
	return int(p.Elapsed.Milliseconds())
}

// urgency is the order in which the states are listed: what asks for somebody first.
var urgency = map[string]int{"failed": 0, "running": 1, "waiting": 2, "held": 3, "live": 4, "never": 5, "disabled": 6}

func overviewPage(ctx context.Context, r *request) (view, error) {
	cfg := r.h.o.Config
	known, err := r.models.Deployments(ctx, "", answer.Keys(cfg)...)
	if err != nil {
		return view{}, err
	}
	var keys []projections.Key
	for _, d := range known {
		keys = append(keys, projections.Key{Instance: d.Instance, Slug: d.Slug})
	}
	runs, err := r.models.Runs(ctx, keys, sparkRuns)
	if err != nil {
		return view{}, err
	}
	items := make([]item, len(known))
	for i, d := range known {
		newest := runs[keys[i]]
		drawn := r.drawn(newest)
		items[i] = item{state: r.state(d, newest), Spark: newSpark(drawn), Usual: usual(drawn), Took: lastTook(newest)}
	}
	states := make([]*state, len(items))
	for i := range items {
		states[i] = &items[i].state
	}
	if err := r.complete(ctx, states, runs); err != nil {
		return view{}, err
	}
	o := overview{Webhook: cfg.Origin + "/github-webhook"}
	o.Headline, o.Lead = headline(items), r.lead(keys, runs)
	if rows, err := answer.QueueEntries(cfg, "main"); err == nil {
		for _, row := range rows {
			if row.Reason == "" {
				o.Unrouted++
			}
		}
	}
	if r.h.o.Actor != nil && r.h.o.Actor(r.Request) != "" {
		all, _, err := r.models.Freezes(ctx, cfg.Instance, "")
		if err != nil {
			return view{}, err
		}
		o.ActionView.Actions = r.actions(cfg.Instance, Subject{Frozen: all.Active(r.now)})
	}
	if o.Unrouted > 0 {
		o.NotRouted = r.source.Obstacle(ctx, "")
	}
	for _, it := range items {
		i := slices.IndexFunc(o.Groups, func(g group) bool { return g.Instance == it.Instance })
		if i < 0 {
			i = len(o.Groups)
			o.Groups = append(o.Groups, group{Instance: it.Instance})
		}
		o.Groups[i].Items = append(o.Groups[i].Items, it)
	}
	slices.SortFunc(o.Groups, func(a, b group) int {
		return cmp.Or(-cmp.Compare(btoi(r.own(a.Instance)), btoi(r.own(b.Instance))), strings.Compare(a.Instance, b.Instance))
	})
	for _, g := range o.Groups {
		slices.SortStableFunc(g.Items, func(a, b item) int {
			return cmp.Or(cmp.Compare(urgency[a.Class], urgency[b.Class]), strings.Compare(a.Slug, b.Slug))
		})
	}
	return view{name: "overview", Title: o.Headline, Skip: "the deployments", Current: "deployments", Watch: "*", Data: o}, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// state is what the log and the configuration say of a deployment; complete adds the rest.
func (r *request) state(d projections.Deployment, runs []projections.Attempt) state {
	s := state{record: d, Slug: d.Slug, Instance: d.Instance, Href: r.deploymentHref(d.Instance, d.Slug), Pending: d.Pending, Status: string(d.Status), Class: string(d.Status)}
	if c := r.configured(d.Instance, d.Slug); c != nil {
		s.Configured, s.Disabled = true, !c.Enabled
		s.Repository, s.Branch, s.Site, s.URL = c.Repository, c.Branch, siteOf(c), c.SiteURL
	}
	run := func(m *projections.Mark) projections.Attempt {
		for _, a := range runs {
			if a.DeliveryID == m.DeliveryID && a.Attempt == m.Attempt {
				return a
			}
		}
		return projections.Attempt{}
	}
	mark := func(m *projections.Mark) *shown {
		if m == nil {
			return nil
		}
		a := run(m)
		return &shown{commit: commit{Hash: m.Commit}, By: plain(m.Actor, maxPerson), Since: m.Since, How: how(a.Cause), Delivery: r.deliveryHref(d.Instance, m.DeliveryID),
			Attempt: m.Attempt, Previous: commit{Hash: a.PreviousCommit}, Canceled: plain(answer.Canceled(a), 400)}
	}
	s.Live, s.Running = mark(d.Live), mark(d.Running)
	if d.Failure != nil {
		s.Failed = &failure{Step: d.Failure.Step, Exit: exit(d.Failure.ExitCode, d.Failure.Signal), Error: plain(d.Failure.Error, 400)}
		for _, a := range runs {
			if a.Outcome == projections.OutcomeFailed {
				s.Failed.shown = shown{commit: commit{Hash: a.Commit}, By: plain(a.Actor, maxPerson), Since: a.EndedAt, Delivery: r.deliveryHref(d.Instance, a.DeliveryID), Attempt: a.Attempt, Canceled: plain(answer.Canceled(a), 400)}
				break
			}
		}
	}
	if d.Pinned.Active(r.now) {
		s.Pinned, s.PinnedTo = d.Pinned, commit{Hash: d.Pinned.Commit}
	}
	if d.Frozen.Active(r.now) {
		s.Frozen = d.Frozen
	}
	switch {
	case s.Disabled:
		s.Status, s.Class = "disabled", "disabled"
	case d.Status == projections.StatusNever || d.Status == "":
		s.Status, s.Class = "never deployed", "never"
	case d.Status == projections.StatusPending:
		s.Status, s.Class = "waiting", "waiting"
	case s.Pinned != nil || s.Frozen != nil:
		if d.Status == projections.StatusLive {
			s.Class = "held"
		}
	}
	return s
}

// complete adds what others than the read models know: subjects and authors, the
// repositories of what is not configured here, how far runs are, why nothing begins.
func (r *request) complete(ctx context.Context, states []*state, runs map[projections.Key][]projections.Attempt) error {
	var hashes []wanted
	each := func(s *state, do func(*commit)) {
		do(&s.PinnedTo)
		for _, one := range []*shown{s.Live, s.Running} {
			if one != nil {
				do(&one.commit)
				do(&one.Previous)
			}
		}
		if s.Failed != nil {
			do(&s.Failed.commit)
		}
	}
	for _, s := range states {
		each(s, func(c *commit) { hashes = append(hashes, wanted{c.Hash, r.configured(s.Instance, s.Slug)}) })
	}
	if err := r.h.commits.name(ctx, r.source, hashes); err != nil {
		return err
	}
	var running []int64
	for _, s := range states {
		each(s, func(c *commit) { *c = r.h.commits.of(s.Site, c.Hash) })
		if s.Running == nil || !r.own(s.Instance) {
			continue
		}
		for _, a := range runs[projections.Key{Instance: s.Instance, Slug: s.Slug}] {
			if a.Outcome == projections.OutcomeRunning {
				running = append(running, a.StartedPosition)
			}
		}
	}
	if err := r.progress(ctx, states, runs, running); err != nil {
		return err
	}
	for _, s := range states {
		if c := r.configured(s.Instance, s.Slug); c != nil {
			if held := r.source.HeldElse(ctx, c, s.record); held != nil {
				s.Held = plain(held.String(), 300)
			}
		}
		if s.Pending > 0 && s.Running == nil && r.own(s.Instance) {
			s.WaitsFor = r.source.Obstacle(ctx, s.Slug)
		}
	}
	return nil
}

// progress reads how far the runs are that started at these positions.
func (r *request) progress(ctx context.Context, states []*state, runs map[projections.Key][]projections.Attempt, positions []int64) error {
	if len(positions) == 0 {
		return nil
	}
	var started []eventlog.Event
	for e, err := range r.source.Log.Find(ctx, eventlog.Filter{Positions: positions}) {
		if err != nil {
			return err
		}
		started = append(started, e)
	}
	for _, e := range started {
		i := slices.IndexFunc(states, func(s *state) bool { return s.Instance == e.Instance && s.Slug == e.DeploymentSlug() })
		if i < 0 {
			continue
		}
		durations, err := r.source.Durations(ctx, e.DeploymentSlug())
		if err != nil {
			return err
		}
		states[i].Progress = r.newProgress(durations.At(r.h.o.Config, e), e.RecordedAt, usual(r.drawn(runs[projections.Key{Instance: e.Instance, Slug: e.DeploymentSlug()}])))
	}
	return nil
}

func (r *request) newProgress(p *answer.Progress, started time.Time, usual time.Duration) *progress {
	if p == nil {
		return nil
	}
	return &progress{
		Progress: p, Started: started, Usual: usual, Elapsed: max(0, r.now.Sub(started)),
		StepFor: max(0, r.now.Sub(p.Since)), StepUsual: time.Duration(p.UsualMS) * time.Millisecond,
	}
}

// drawn are runs as drawings show them, the oldest first.
func (r *request) drawn(attempts []projections.Attempt) []run {
	var runs []run
	for _, a := range slices.Backward(attempts) {
		one := run{Took: a.EndedAt.Sub(a.StartedAt)}
		switch a.Outcome {
		case projections.OutcomeDeployed:
			one.Class = "ok"
		case projections.OutcomeFailed:
			one.Class = "bad"
		case projections.OutcomeRunning:
			one.Class, one.Took = "now", r.now.Sub(a.StartedAt)
		default:
			one.Class = "cut"
		}
		one.Took = max(0, one.Took)
		one.Title = fmt.Sprintf("%s %s in %s, %s", short(a.Commit), a.Outcome, took(one.Took), a.StartedAt.UTC().Format("2 Jan 2006 15:04 UTC"))
		runs = append(runs, one)
	}
	return runs
}

// lastTook is how long the newest run took that ended.
func lastTook(attempts []projections.Attempt) time.Duration {
	for _, a := range attempts {
		if a.Outcome == projections.OutcomeDeployed || a.Outcome == projections.OutcomeFailed {
			return max(0, a.EndedAt.Sub(a.StartedAt))
		}
	}
	return 0
}

// how says how something came to be ordered that was not pushed.
func how(cause eventlog.Type) string {
	switch cause {
	case eventlog.TypeReplayed:
		return "a replay"
	case eventlog.TypeRedelivered:
		return "sent again"
	}
	return ""
}

func exit(code *int, signal string) string {
	switch {
	case code != nil:
		return fmt.Sprintf("exit %d", *code)
	case signal != "":
		return "ended by " + signal
	}
	return ""
}

// headline answers what anyone who looks wants to know first.
func headline(items []item) string {
	n := map[string]int{}
	for _, it := range items {
		n[it.Class]++
	}
	active := len(items) - n["disabled"]
	var parts []string
	part := func(class, one, more string) {
		if n[class] > 0 {
			verb := more
			if n[class] == 1 {
				verb = one
			}
			parts = append(parts, fmt.Sprintf("%d %s", n[class], verb))
		}
	}
	part("failed", "has failed", "have failed")
	part("running", "is running", "are running")
	part("waiting", "waits", "wait")
	all := words.Counted(active, "deployment", "deployments")
	live := n["live"] + n["held"]
	switch {
	case len(items) == 0:
		return "No deployments yet"
	case active == 0:
		return "All deployments are disabled"
	case len(parts) > 0:
		return fmt.Sprintf("Of %s, %s", all, joined(parts))
	case live == active && active == 1:
		return "The one deployment is live"
	case live == active:
		return fmt.Sprintf("All %s are live", all)
	case live == 0:
		return fmt.Sprintf("%s, and nothing deployed yet", all)
	}
	return fmt.Sprintf("%d of %s are live, %d never deployed", live, all, n["never"])
}

// joined is "a, b and c".
func joined(parts []string) string {
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}

// leadDays is the time that the sentence below the headline is about.
const leadDays = 7

// lead counts the runs of the last days among those that were read, and says where there were more.
func (r *request) lead(keys []projections.Key, runs map[projections.Key][]projections.Attempt) string {
	since := r.now.AddDate(0, 0, -leadDays)
	var deployed, failed int
	more := ""
	var leads []time.Duration
	for _, key := range keys {
		newest := runs[key]
		for _, a := range newest {
			if a.EndedAt.Before(since) {
				continue
			}
			switch a.Outcome {
			case projections.OutcomeDeployed:
				deployed++
				if a.Cause == eventlog.TypeForwarded {
					leads = append(leads, a.EndedAt.Sub(a.AssignedAt))
				}
			case projections.OutcomeFailed:
				failed++
			}
		}
		if len(newest) == sparkRuns && newest[sparkRuns-1].EndedAt.After(since) {
			more = "at least "
		}
	}
	if deployed+failed == 0 {
		return fmt.Sprintf("Nothing was deployed in the last %d days.", leadDays)
	}
	text := fmt.Sprintf("%s%s in the last %d days", more, words.Counted(deployed+failed, "deploy", "deploys"), leadDays)
	if failed > 0 {
		text += fmt.Sprintf(", %s%d failed", more, failed)
	} else {
		text += ", none failed"
	}
	if len(leads) > 0 {
		text += "; from push to live " + took(median(leads)) + " (median)"
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

func (r *request) configured(instance, slug string) *config.Deployment {
	if !r.own(instance) {
		return nil
	}
	return r.h.o.Config.Deployments[slug]
}

func (r *request) deploymentHref(instance, slug string) string {
	return r.href("/deployments/", slug, instance)
}

func (r *request) deliveryHref(instance, id string) string {
	return r.href("/deliveries/", id, instance)
}
