package projections

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// epochOfTests is when the first event of a test was recorded.
var epochOfTests = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// commitOf is a commit that n tells apart from others.
func commitOf(n int) string { return fmt.Sprintf("%040x", n) }

// recorder builds a log as the appenders would.
type recorder struct {
	events []eventlog.Event
	seen   map[string]bool
	// after is the position before the first event.
	after int64
}

// add appends the event, unless its identity is there already.
func (r *recorder) add(instance, delivery, slug string, attempt int, actor string, data eventlog.Data) bool {
	identity := fmt.Sprint(instance, "/", delivery, "/", data.EventType(), "/", slug, "/", attempt)
	if r.seen[identity] {
		return false
	}
	if r.seen == nil {
		r.seen = make(map[string]bool)
	}
	r.seen[identity] = true
	b, err := eventlog.Encode(data)
	if err != nil {
		panic(err)
	}
	position := r.after + int64(len(r.events)) + 1
	e := eventlog.Event{
		Position: position, ID: fmt.Sprintf("01J%023d", position), Instance: instance, DeliveryID: delivery,
		Type: data.EventType(), Attempt: attempt, Actor: actor,
		RecordedAt: epochOfTests.Add(time.Duration(position) * 1500 * time.Millisecond), Data: b,
	}
	if slug != "" {
		e.Deployment = &slug
	}
	r.events = append(r.events, e)
	return true
}

func (r *recorder) received(instance, delivery string, n int) {
	r.add(instance, delivery, "", 1, "octocat", eventlog.Received{
		Event: "push", Ref: "refs/heads/main", Repository: "octo/app", Commit: commitOf(n),
		ReceivedAt: epochOfTests.Add(time.Duration(n) * 1234567 * time.Nanosecond), PayloadDigest: "d", Source: eventlog.SourceGitHub,
	})
}

func forwarded(n int) eventlog.Forwarded {
	return eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commitOf(n), Rule: "octo/app refs/heads/main"}}
}

// run is a part of a delivery, as an independent model of the rules has it.
type run struct {
	instance, delivery, slug string
	attempt, commit          int
	state                    string // waiting, running, retry, done
	end                      string // deployed, failed, voided
}

// world makes valid histories and knows what a fold of them must say.
type world struct {
	recorder
	prefix     string
	deliveries []string // "instance/id"
	voided     map[string]bool
	runs       []*run
	live       map[string]int
	lastEnd    map[string]string
	redelivery int
}

func newWorld(prefix string, after int64) *world {
	return &world{
		recorder: recorder{after: after}, prefix: prefix,
		voided: map[string]bool{}, live: map[string]int{}, lastEnd: map[string]string{},
	}
}

var slugs = []string{"api", "docs", "web"}

func split(key string) (instance, id string) {
	var rest string
	if _, err := fmt.Sscanf(key, "%s %s", &instance, &rest); err != nil {
		panic(err)
	}
	return instance, rest
}

// highest is the highest attempt of the delivery so far.
func (w *world) highest(instance, delivery string) int {
	n := 0
	for _, r := range w.runs {
		if r.instance == instance && r.delivery == delivery {
			n = max(n, r.attempt)
		}
	}
	return n
}

func (w *world) inState(states ...string) []*run {
	var list []*run
	for _, r := range w.runs {
		if slices.Contains(states, r.state) {
			list = append(list, r)
		}
	}
	return list
}

func (w *world) running(instance, slug string) bool {
	return slices.ContainsFunc(w.runs, func(r *run) bool {
		return r.instance == instance && r.slug == slug && r.state == "running"
	})
}

// step appends one valid group of events.
func (w *world) step(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0, 1, 2:
		w.arrive(t)
	case 3:
		w.again(t)
	case 4, 5, 6:
		w.start(t)
	default:
		w.end(t)
	}
}

func (w *world) arrive(t *rapid.T) {
	n := len(w.deliveries) + 1
	instance := w.prefix + rapid.SampledFrom([]string{"prod", "stage"}).Draw(t, "instance")
	id := fmt.Sprintf("%sd%d", w.prefix, n)
	w.deliveries = append(w.deliveries, instance+" "+id)
	w.received(instance, id, n)
	parts := rapid.SliceOfDistinct(rapid.SampledFrom(slugs), rapid.ID[string]).Draw(t, "parts")
	if len(parts) == 0 {
		w.voided[instance+" "+id] = true
		w.add(instance, id, "", 1, "octocat", eventlog.Voided{Reason: eventlog.ReasonNoDeployment, Detail: "none"})
		return
	}
	for _, slug := range parts {
		w.add(instance, id, slug, 1, "octocat", forwarded(n))
		w.runs = append(w.runs, &run{instance: instance, delivery: id, slug: slug, attempt: 1, commit: n, state: "waiting"})
	}
}

// again redelivers or replays what is known, also where a run of it is still
// open: no program of ours orders that any more, but older logs hold it.
func (w *world) again(t *rapid.T) {
	if len(w.deliveries) == 0 {
		return
	}
	key := rapid.SampledFrom(w.deliveries).Draw(t, "delivery")
	instance, id := split(key)
	w.redelivery++
	var list []eventlog.Assignment
	for _, slug := range rapid.SliceOfDistinct(rapid.SampledFrom(slugs), rapid.ID[string]).Draw(t, "parts") {
		list = append(list, eventlog.Assignment{
			Deployment: slug, Attempt: w.highest(instance, id) + 1, Order: eventlog.Order{Branch: "main", Commit: commitOf(w.redelivery)},
		})
	}
	if len(list) == 0 || rapid.Bool().Draw(t, "ignored") {
		w.add(instance, id, "", w.redelivery, "octocat", eventlog.Redelivered{Action: eventlog.ActionIgnored, Detail: "known"})
		return
	}
	if rapid.Bool().Draw(t, "replayed") {
		w.add(instance, id, "", w.redelivery, "ada", eventlog.Replayed{Reason: "again", Deployments: list})
	} else {
		w.add(instance, id, "", w.redelivery, "octocat", eventlog.Redelivered{Action: eventlog.ActionRetried, Deployments: list})
	}
	delete(w.voided, key)
	for _, a := range list {
		w.runs = append(w.runs, &run{instance: instance, delivery: id, slug: a.Deployment, attempt: a.Attempt, commit: w.redelivery, state: "waiting"})
	}
}

// takeOver ends the interrupted runs that r, a later attempt of the same
// delivery at the same deployment, is the continuation of.
func (w *world) takeOver(r *run) {
	for _, o := range w.runs {
		if o != r && o.instance == r.instance && o.delivery == r.delivery && o.slug == r.slug && o.state == "retry" && o.attempt < r.attempt {
			o.state, o.end = "done", "interrupted"
		}
	}
}

func (w *world) start(t *rapid.T) {
	list := w.inState("waiting", "retry")
	if len(list) == 0 {
		return
	}
	r := rapid.SampledFrom(list).Draw(t, "run")
	if w.running(r.instance, r.slug) {
		return
	}
	if r.state == "retry" {
		r.attempt = w.highest(r.instance, r.delivery) + 1
	}
	r.state = "running"
	w.takeOver(r)
	w.add(r.instance, r.delivery, r.slug, r.attempt, "worker", eventlog.Started{
		Commit: commitOf(r.commit), PreviousCommit: commitOf(w.live[r.instance+r.slug]), Host: "h", Plan: []string{"fetch"},
	})
}

func (w *world) end(t *rapid.T) {
	list := w.inState("waiting", "running", "retry")
	if len(list) == 0 {
		return
	}
	r := rapid.SampledFrom(list).Draw(t, "run")
	finish := func(end string, data eventlog.Data) {
		r.state, r.end = "done", end
		w.add(r.instance, r.delivery, r.slug, r.attempt, "worker", data)
		if end != "voided" {
			w.lastEnd[r.instance+r.slug] = end
		}
	}
	if r.state != "running" {
		if r.state == "retry" {
			r.attempt = w.highest(r.instance, r.delivery) + 1
		}
		w.takeOver(r)
		finish("voided", eventlog.Voided{Reason: eventlog.ReasonSuperseded, Detail: "newer", SupersededBy: "other"})
		return
	}
	code := 3
	failed := eventlog.Failed{Commit: commitOf(r.commit), Step: "build", ExitCode: &code, Error: "exit 3", DurationMS: 12}
	switch rapid.IntRange(0, 4).Draw(t, "end") {
	case 0:
		finish("failed", failed)
	case 1:
		r.state = "retry"
		w.add(r.instance, r.delivery, r.slug, r.attempt, "worker", eventlog.Interrupted{Detail: "killed", Then: "retry", Step: "build"})
	case 2:
		w.add(r.instance, r.delivery, r.slug, r.attempt, "worker", eventlog.Interrupted{Detail: "killed", Then: "fail"})
		finish("failed", failed)
	default:
		finish("deployed", eventlog.Deployed{Commit: commitOf(r.commit), Steps: []eventlog.Step{{Name: "fetch", DurationMS: 2, Result: "ok"}}, DurationMS: 99})
		w.live[r.instance+r.slug] = r.commit
	}
}

// check compares what the fold says with what the world knows.
func (w *world) check(t *rapid.T, s *State) {
	want := map[string]*Accounting{}
	for _, key := range w.deliveries {
		instance, id := split(key)
		a, ok := want[instance]
		if !ok {
			a = &Accounting{}
			want[instance] = a
		}
		a.Received++
		switch {
		case w.voided[key]:
			a.Voided++
		case slices.ContainsFunc(w.runs, func(r *run) bool {
			return r.instance == instance && r.delivery == id && r.state != "done"
		}):
			a.Pending++
		default:
			a.Finished++
		}
	}
	for instance, a := range want {
		got := s.Accounting(instance)
		if got.Received != a.Received || got.Voided != a.Voided || got.Finished != a.Finished || got.Pending != a.Pending ||
			got.Undecided != 0 || len(got.Breaches) != 0 {
			t.Fatalf("accounting of %s is %+v, want %+v", instance, got, *a)
		}
		for _, d := range s.Deployments(instance) {
			w.checkDeployment(t, d)
		}
	}
	for _, r := range w.runs {
		if !slices.ContainsFunc(s.Attempts(r.instance), func(a Attempt) bool {
			return a.DeliveryID == r.delivery && a.Deployment == r.slug && a.Attempt == r.attempt &&
				(r.state != "done" || string(a.Outcome) == r.end) && a.Cause != ""
		}) {
			t.Fatalf("no attempt is like %+v", *r)
		}
	}
}

func (w *world) checkDeployment(t *rapid.T, d Deployment) {
	pending := 0
	running := false
	for _, r := range w.runs {
		if r.instance != d.Instance || r.slug != d.Slug {
			continue
		}
		switch r.state {
		case "waiting", "retry":
			pending++
		case "running":
			running = true
		}
	}
	key := d.Instance + d.Slug
	want := StatusNever
	switch {
	case running:
		want = StatusRunning
	case pending > 0:
		want = StatusPending
	case w.lastEnd[key] == "failed":
		want = StatusFailed
	case w.live[key] != 0:
		want = StatusLive
	}
	if d.Status != want || d.Pending != pending || (d.Running != nil) != running {
		t.Fatalf("%s is %s with %d pending, want %s with %d", key, d.Status, d.Pending, want, pending)
	}
	if (d.Live != nil) != (w.live[key] != 0) || d.Live != nil && d.Live.Commit != commitOf(w.live[key]) {
		t.Fatalf("%s: live is %+v, want commit %d", key, d.Live, w.live[key])
	}
	if (d.Failure != nil) != (w.lastEnd[key] == "failed") {
		t.Fatalf("%s: failure is %+v after %q", key, d.Failure, w.lastEnd[key])
	}
}

// chaos appends any event at all: the fold must bear it, and bear it alike
// however it is applied.
func (w *world) chaos(t *rapid.T) {
	instance := w.prefix + "prod"
	id := fmt.Sprintf("%sd%d", w.prefix, rapid.IntRange(1, len(w.deliveries)+3).Draw(t, "id"))
	slug := rapid.SampledFrom(slugs).Draw(t, "slug")
	n := rapid.IntRange(0, 4).Draw(t, "attempt")
	code := 1
	hostile := rapid.SampledFrom([]string{"", "a\x00b", "<script>\n\"\\\u2028", "\xff", "'; drop table"}).Draw(t, "text")
	w.add(instance, id, slug, n, "x", rapid.SampledFrom([]eventlog.Data{
		forwarded(n),
		eventlog.Started{Commit: commitOf(n), Host: hostile},
		eventlog.Deployed{Commit: commitOf(n)},
		eventlog.Failed{Step: hostile, ExitCode: &code, Error: hostile},
		eventlog.Interrupted{Then: "retry", Detail: hostile},
		eventlog.Voided{Reason: eventlog.ReasonStale, Detail: hostile},
	}).Draw(t, "part"))
	w.add(instance, id, "", n, "x", rapid.SampledFrom([]eventlog.Data{
		eventlog.Received{Event: hostile},
		eventlog.Voided{Reason: eventlog.ReasonPing, Detail: hostile},
		eventlog.Redelivered{Action: eventlog.ActionRetried, Deployments: []eventlog.Assignment{{Deployment: slug, Attempt: n, Order: eventlog.Order{Branch: hostile}}}},
		eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: hostile, Attempt: n}, {Deployment: slug, Attempt: n + 1}}},
	}).Draw(t, "whole"))
}

// foldAll folds events in memory.
func foldAll(t testing.TB, events []eventlog.Event) *State {
	t.Helper()
	s, err := FoldAt(func(yield func(eventlog.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatalf("fold: %v", err)
	}
	return s
}

func TestFold_AgreesWithAnIndependentModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld("", 0)
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			w.step(rt)
		}
		w.check(rt, foldAll(t, w.events))
	})
}
