package projections

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

type part struct {
	slug    string
	attempt int
	data    eventlog.Data
}

func started(n int) eventlog.Started   { return eventlog.Started{Commit: commitOf(n)} }
func deployed(n int) eventlog.Deployed { return eventlog.Deployed{Commit: commitOf(n)} }

var (
	failure  = eventlog.Failed{Commit: commitOf(1), Step: "build", Error: "exit 1"}
	again    = eventlog.Interrupted{Then: "retry"}
	stale    = eventlog.Voided{Reason: eventlog.ReasonStale}
	giveUp   = eventlog.Interrupted{Then: "fail"}
	replayed = eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 2, Order: eventlog.Order{Commit: commitOf(1)}}}}
	pinged   = eventlog.Voided{Reason: eventlog.ReasonPing, Detail: "a ping"}
)

// Each case is the history of one delivery, and what the fold says after it.
func TestFoldByHand(t *testing.T) {
	received := eventlog.Received{Event: "push", Source: eventlog.SourceGitHub}
	cases := []struct {
		name     string
		parts    []part
		status   Status
		delivery DeliveryState
		// outcomes of the attempts of web, in order.
		outcomes string
		// breach is part of the only breach, or empty for none.
		breach string
	}{
		{"forwarded waits", []part{{"", 1, received}, {"web", 1, forwarded(1)}}, StatusPending, DeliveryPending, "waiting", ""},
		{"started runs", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}}, StatusRunning, DeliveryPending, "running", ""},
		{"deployed is live", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, deployed(1)}}, StatusLive, DeliveryFinished, "deployed", ""},
		{"failed", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, failure}}, StatusFailed, DeliveryFinished, "failed", ""},
		{"failed, then replayed", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, failure}, {"", 2, replayed}}, StatusPending, DeliveryPending, "failed waiting", ""},
		{"failed, then deployed", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, failure}, {"", 2, replayed}, {"web", 2, started(1)}, {"web", 2, deployed(1)}}, StatusLive, DeliveryFinished, "failed deployed", ""},
		{"a void leaves it failed", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, failure}, {"", 2, replayed}, {"web", 2, stale}}, StatusFailed, DeliveryFinished, "failed voided", ""},
		{"a void leaves it never", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, stale}}, StatusNever, DeliveryFinished, "voided", ""},
		{"interrupted waits", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, again}}, StatusPending, DeliveryPending, "interrupted", ""},
		{"interrupted, retried", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, again}, {"web", 2, started(1)}}, StatusRunning, DeliveryPending, "interrupted running", ""},
		{"interrupted, retried, deployed", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, again}, {"web", 2, started(1)}, {"web", 2, deployed(1)}}, StatusLive, DeliveryFinished, "interrupted deployed", ""},
		{"interrupted, then stale", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, again}, {"web", 2, stale}}, StatusNever, DeliveryFinished, "interrupted voided", ""},
		{"interrupted, failed by policy", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, giveUp}, {"web", 1, failure}}, StatusFailed, DeliveryFinished, "failed", ""},
		{"voided whole", []part{{"", 1, received}, {"", 1, pinged}}, "", DeliveryVoided, "", ""},
		{"voided, then replayed", []part{{"", 1, received}, {"", 1, pinged}, {"", 2, replayed}}, StatusPending, DeliveryPending, "waiting", ""},
		{"undecided", []part{{"", 1, received}}, "", DeliveryPending, "", "neither voided nor forwarded"},

		{"no received", []part{{"", 1, pinged}}, "", DeliveryUnreceived, "", "no received before this voided"},
		{"received twice", []part{{"", 1, received}, {"", 1, pinged}, {"", 2, received}}, "", DeliveryVoided, "", "received again"},
		{"voided and forwarded", []part{{"", 1, received}, {"", 1, pinged}, {"web", 1, forwarded(1)}}, StatusPending, DeliveryPending, "waiting", "was voided"},
		{"forwarded and voided", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"", 1, pinged}}, StatusPending, DeliveryPending, "waiting", "has 1 attempts"},
		{"started, not assigned", []part{{"", 1, received}, {"", 1, pinged}, {"web", 1, started(1)}}, StatusRunning, DeliveryPending, "running", "which nothing assigned"},
		{"deployed, never started", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, deployed(1)}}, StatusLive, DeliveryFinished, "deployed", "never started"},
		{"two ends", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, deployed(1)}, {"web", 1, failure}}, StatusLive, DeliveryFinished, "deployed", "but it is deployed since position 4"},
		{"started after its end", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, stale}, {"web", 1, started(1)}}, StatusNever, DeliveryFinished, "voided", "but it is voided since position 3"},
		{"assigned twice", []part{{"", 1, received}, {"web", 2, forwarded(1)}, {"", 2, replayed}}, StatusPending, DeliveryPending, "waiting", "assigned again"},
		{"overlap", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"", 2, replayed}, {"web", 1, started(1)}, {"web", 2, started(1)}}, StatusRunning, DeliveryPending, "running running", "started at position 4, has not ended"},
		{"interrupted, not running", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, again}}, StatusPending, DeliveryPending, "waiting", "not running"},
		{"end after its continuation", []part{{"", 1, received}, {"web", 1, forwarded(1)}, {"web", 1, started(1)}, {"web", 1, again}, {"web", 2, started(1)}, {"web", 1, deployed(1)}}, StatusRunning, DeliveryPending, "interrupted running", "attempt 2 has continued it"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var r recorder
			for _, p := range c.parts {
				if !r.add("prod", "d1", p.slug, p.attempt, "octocat", p.data) {
					t.Fatal("the log refuses this history")
				}
			}
			s := foldAll(t, r.events)
			var status Status
			for _, d := range s.Deployments("prod") {
				status = d.Status
			}
			if status != c.status {
				t.Errorf("status is %q, want %q", status, c.status)
			}
			if got := s.Deliveries("prod")[0].State; got != c.delivery {
				t.Errorf("delivery is %q, want %q", got, c.delivery)
			}
			var outcomes []string
			for _, a := range s.Attempts("prod") {
				outcomes = append(outcomes, string(a.Outcome))
			}
			if got := strings.Join(outcomes, " "); got != c.outcomes {
				t.Errorf("outcomes are %q, want %q", got, c.outcomes)
			}
			a := s.Accounting("prod")
			if a.Received != a.Voided+a.Finished+a.Pending {
				t.Errorf("accounting has a remainder: %+v", a)
			}
			if c.breach == "" && len(a.Breaches) != 0 || c.breach != "" && (len(a.Breaches) != 1 || !strings.Contains(a.Breaches[0], c.breach)) {
				t.Errorf("breaches are %q, want one with %q", a.Breaches, c.breach)
			}
		})
	}
}

func TestFold_KeepsWhatIsLiveApartFromTheNewestTransition(t *testing.T) {
	var r recorder
	r.received("prod", "d1", 1)
	r.add("prod", "d1", "web", 1, "octocat", forwarded(1))
	r.add("prod", "d1", "web", 1, "worker", started(1))
	r.add("prod", "d1", "web", 1, "worker", deployed(1))
	r.received("prod", "d2", 2)
	r.add("prod", "d2", "web", 1, "ada", forwarded(2))
	r.add("prod", "d2", "web", 1, "worker", started(2))
	s := foldAll(t, r.events)
	before := s.Deployments("prod")[0]
	if before.Live == nil || before.Live.Commit != commitOf(1) || before.Live.Actor != "octocat" || before.Live.Position != 4 {
		t.Errorf("live is %+v", before.Live)
	}
	if before.Running == nil || before.Running.Commit != commitOf(2) || before.Running.Actor != "ada" || before.Running.Position != 7 {
		t.Errorf("running is %+v", before.Running)
	}
	if before.Last.Position != 7 || before.LastType != eventlog.TypeStarted {
		t.Errorf("last is %+v", before.Last)
	}
	// A state that was handed out stays as it was.
	var more recorder
	more.after = 7
	more.add("prod", "d2", "web", 1, "worker", eventlog.Deployed{Commit: commitOf(2)})
	if err := s.Apply(&more.events[0]); err != nil {
		t.Fatal(err)
	}
	if before.Live.Commit != commitOf(1) {
		t.Error("a later event changed a deployment that was handed out")
	}
	if after := s.Deployments("prod")[0]; after.Live.Commit != commitOf(2) || after.Running != nil || after.Status != StatusLive {
		t.Errorf("after deployed: %+v", after)
	}
}

func TestFoldRefusesWhatItDoesNotKnowAndKeepsItsState(t *testing.T) {
	var r recorder
	r.received("prod", "d1", 1)
	for name, spoil := range map[string]func(*eventlog.Event){
		"type":    func(e *eventlog.Event) { e.Type = "boiled" },
		"version": func(e *eventlog.Event) { e.Data = json.RawMessage(`{"v":99,"reason":"ping"}`) },
		"none":    func(e *eventlog.Event) { e.Data = json.RawMessage(`{"reason":"ping"}`) },
	} {
		s := foldAll(t, r.events)
		e := r.events[0]
		e.Position, e.Type, e.Data = 2, eventlog.TypeVoided, json.RawMessage(`{"v":1,"reason":"ping"}`)
		spoil(&e)
		var unknown *eventlog.UnknownEventError
		if err := s.Apply(&e); !errors.As(err, &unknown) || unknown.Position != 2 {
			t.Errorf("%s: error is %v", name, err)
		}
		if !reflect.DeepEqual(s.Deliveries(""), foldAll(t, r.events).Deliveries("")) || s.position != 1 {
			t.Errorf("%s: the state changed", name)
		}
	}
	s := foldAll(t, r.events)
	if err := s.Apply(&r.events[0]); err == nil {
		t.Error("an event was applied twice")
	}
}

// The fold sees what Event.Decode sees, but for NUL, which no table can hold.
func TestFieldsAgreeWithDecode(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\x00", "\\", "\"", "a\\\"b", "\u2028<&>", "\ud7ff"}))
	rapid.Check(t, func(t *rapid.T) {
		want := new(fields)
		code := rapid.IntRange(-1, 300).Draw(t, "code")
		ms := rapid.Int64Min(0).Draw(t, "ms")
		a, b, c := text.Draw(t, "a"), text.Draw(t, "b"), text.Draw(t, "c")
		list := []eventlog.Assignment{{Deployment: a, Attempt: code, Order: eventlog.Order{Branch: b, Commit: c}}}
		data := rapid.SampledFrom([]eventlog.Data{
			eventlog.Received{Event: a, Ref: b, Repository: c, Commit: a, ReceivedAt: epochOfTests, Source: "github", HookID: b},
			eventlog.Forwarded{Order: eventlog.Order{Branch: a, Commit: b, Rule: c}},
			eventlog.Voided{Reason: eventlog.Reason(a), Detail: b, SupersededBy: c},
			eventlog.Started{Commit: a, PreviousCommit: b, Host: c, Plan: []string{a, b}},
			eventlog.Deployed{Commit: a, PreviousCommit: b, Steps: []eventlog.Step{{Name: c}}, DurationMS: ms},
			eventlog.Failed{Commit: a, Step: b, ExitCode: &code, Signal: c, Error: a, OutputTail: "}],\"" + b, Steps: []eventlog.Step{{Name: "]}" + c}}, DurationMS: ms},
			eventlog.Interrupted{Detail: a, Then: b, Step: c},
			eventlog.Redelivered{Detail: a, ReceivedAt: epochOfTests, Deployments: list},
			eventlog.Replayed{Reason: a, Deployments: list},
		}).Draw(t, "data")
		raw, err := eventlog.Encode(data)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "spaced") {
			var spaced bytes.Buffer
			spaced.WriteString(" \n")
			if err := json.Indent(&spaced, raw, "\t", "  "); err != nil {
				t.Fatal(err)
			}
			raw = spaced.Bytes()
		}
		e := eventlog.Event{Type: data.EventType(), Data: raw}
		f, err := fieldsOf(&e)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		decoded, err := e.Decode()
		if err != nil {
			t.Fatal(err)
		}
		u := clean
		switch d := decoded.(type) {
		case eventlog.Received:
			*want = fields{Event: u(d.Event), Ref: u(d.Ref), Repository: u(d.Repository), Commit: u(d.Commit), ReceivedAt: d.ReceivedAt, Source: string(d.Source)}
		case eventlog.Forwarded:
			*want = fields{Branch: u(d.Branch), Commit: u(d.Commit)}
		case eventlog.Voided:
			*want = fields{Reason: u(string(d.Reason)), Detail: u(d.Detail), SupersededBy: u(d.SupersededBy)}
		case eventlog.Started:
			*want = fields{Commit: u(d.Commit), PreviousCommit: u(d.PreviousCommit), Host: u(d.Host)}
		case eventlog.Deployed:
			*want = fields{Commit: u(d.Commit), PreviousCommit: u(d.PreviousCommit), DurationMS: d.DurationMS}
		case eventlog.Failed:
			*want = fields{Commit: u(d.Commit), Step: u(d.Step), ExitCode: d.ExitCode, Signal: u(d.Signal), Error: u(d.Error), DurationMS: d.DurationMS}
		case eventlog.Interrupted:
			*want = fields{Detail: u(d.Detail), Then: u(d.Then), Step: u(d.Step)}
		case eventlog.Redelivered:
			*want = fields{Detail: u(d.Detail), ReceivedAt: d.ReceivedAt, Deployments: cleaned(d.Deployments)}
		case eventlog.Replayed:
			*want = fields{Reason: u(d.Reason), Deployments: cleaned(d.Deployments)}
		}
		if !reflect.DeepEqual(f, *want) {
			t.Fatalf("%s reads as\n%+v, want\n%+v", raw, f, *want)
		}
	})
}

func cleaned(list []eventlog.Assignment) []eventlog.Assignment {
	for i, a := range list {
		list[i].Deployment, list[i].Branch, list[i].Commit = clean(a.Deployment), clean(a.Branch), clean(a.Commit)
	}
	return list
}

// What a fold of what is open holds does not grow with the log.
func TestFoldOpen_StaysSmall(t *testing.T) {
	t.Parallel()
	held := func(pushes int) (deliveries int, list []Deployment) {
		slug := "web"
		s, err := FoldOpen(func(yield func(eventlog.Event, error) bool) {
			position := int64(0)
			for n := range pushes {
				for _, data := range []eventlog.Data{eventlog.Received{Event: "push"}, eventlog.Forwarded{}, started(n), deployed(n)} {
					position++
					b, err := eventlog.Encode(data)
					e := eventlog.Event{Position: position, Instance: "prod", DeliveryID: fmt.Sprint("d", n), Type: data.EventType(), Attempt: 1, Data: b}
					if data.EventType() != eventlog.TypeReceived {
						e.Deployment = &slug
					}
					if n == pushes-1 && data.EventType() == eventlog.TypeStarted || !yield(e, err) {
						return // the last one waits
					}
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.breaches) > 0 {
			t.Errorf("breaches: %v", s.breaches[0])
		}
		return len(s.deliveries), s.Deployments("prod")
	}
	few, _ := held(100)
	many, list := held(10_000)
	if few != 1 || many != few {
		t.Errorf("it holds %d deliveries after 100 pushes, and %d after 10,000", few, many)
	}
	if d := list[0]; d.Live.Commit != commitOf(9_998) || d.Pending != 1 || d.Status != StatusPending {
		t.Errorf("it makes of the deployment %+v", d)
	}
}

func TestHold_IsNewestOfItsKind(t *testing.T) {
	var r recorder
	finished := func(data eventlog.Data, slug string) int64 {
		r.add("prod", fmt.Sprintf("c%d", len(r.events)), slug, 1, "sam", data)
		return r.events[len(r.events)-1].Position
	}
	r.received("prod", "d1", 1)
	r.add("prod", "d1", "web", 1, "octocat", forwarded(1))
	pinned := finished(eventlog.Pinned{Commit: commitOf(1), Reason: "slow"}, "web")
	all := finished(eventlog.Frozen{Reason: "finals"}, "")
	at := r.events[len(r.events)-1].RecordedAt
	s := foldAll(t, r.events)
	d := s.Deployments("prod")
	if len(d) != 1 || d[0].Slug != "web" || !d[0].Pinned.Active(at) || d[0].Pinned.Position != pinned || d[0].Pinned.Commit != commitOf(1) ||
		!d[0].Frozen.Active(at) || d[0].Frozen.Position != all || d[0].Frozen.Actor != "sam" {
		t.Fatalf("deployments are %+v", d)
	}
	if len(s.Deliveries("")) != 1 || len(s.breaches) != 0 {
		t.Errorf("a hold counts as a delivery: %+v, %v", s.Deliveries(""), s.breaches)
	}
	// A deployment's own freeze, which ends by itself, is apart from that of all.
	own := finished(eventlog.Frozen{Reason: "own", Until: at.Add(time.Hour)}, "web")
	frozen, _ := foldAll(t, r.events).Holds("prod", "web")
	if frozen.Position != all { // it lasts longer, and is in force
		t.Errorf("frozen by %+v", frozen)
	}
	finished(eventlog.Thawed{Reason: "over"}, "")
	finished(eventlog.Unpinned{Reason: "fast"}, "web")
	frozen, pin := foldAll(t, r.events).Holds("prod", "web")
	if frozen.Position != own || !frozen.Active(at) || frozen.Active(at.Add(time.Hour)) || pin.Active(at) || pin.Ended == 0 {
		t.Errorf("frozen by %+v, pinned by %+v", frozen, pin)
	}
	if other, _ := foldAll(t, r.events).Holds("prod", "other"); other.Active(at) || other.Position != all {
		t.Errorf("another deployment is frozen by %+v", other)
	}
}

func TestHold_ThatEndedLastIsTold(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	type step struct {
		minute int
		slug   string
		data   eventlog.Data
	}
	until := func(minute int) eventlog.Frozen { return eventlog.Frozen{Until: at(minute)} }
	for name, c := range map[string]struct {
		steps  []step
		newest int64 // the freeze that ends last
	}{
		"one that has passed, then all thawed":          {[]step{{0, "web", until(1)}, {2, "", eventlog.Frozen{}}, {9, "", eventlog.Thawed{}}}, 2},
		"one that passes while all are frozen":          {[]step{{0, "web", until(5)}, {2, "", eventlog.Frozen{}}, {9, "", eventlog.Thawed{}}}, 2},
		"all thawed before one passes":                  {[]step{{0, "web", until(20)}, {2, "", eventlog.Frozen{}}, {9, "", eventlog.Thawed{}}}, 1},
		"all that have passed, then one thawed":         {[]step{{0, "", until(1)}, {2, "web", eventlog.Frozen{}}, {9, "web", eventlog.Thawed{}}}, 2},
		"all thawed long before the time, one thawed":   {[]step{{0, "", until(900)}, {1, "", eventlog.Thawed{}}, {2, "web", eventlog.Frozen{}}, {9, "web", eventlog.Thawed{}}}, 3},
		"one goes on after all have thawed":             {[]step{{0, "web", eventlog.Frozen{}}, {2, "", eventlog.Frozen{}}, {9, "", eventlog.Thawed{}}}, 1},
		"all go on after one was thawed":                {[]step{{0, "web", eventlog.Frozen{}}, {2, "", eventlog.Frozen{}}, {9, "web", eventlog.Thawed{}}}, 2},
		"all that have passed, then one that goes on":   {[]step{{0, "", until(1)}, {2, "web", eventlog.Frozen{}}}, 2},
		"one that was thawed before its time, then all": {[]step{{0, "web", until(900)}, {1, "web", eventlog.Thawed{}}, {2, "", until(5)}}, 3},
	} {
		var r recorder
		for i, s := range c.steps {
			r.add("prod", fmt.Sprintf("c%d", i), s.slug, 1, "sam", s.data)
			r.events[i].RecordedAt = at(s.minute)
		}
		if frozen, _ := foldAll(t, r.events).Holds("prod", "web"); frozen == nil || frozen.Position != c.newest {
			t.Errorf("%s: frozen by %+v, want the freeze of position %d", name, frozen, c.newest)
		}
	}
}
