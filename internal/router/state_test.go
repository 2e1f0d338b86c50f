package router

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// happened makes the stored form of an event, for folds without a database.
func happened(t *testing.T, slug string, attempt int, data eventlog.Data) eventlog.Event {
	t.Helper()
	raw, err := eventlog.Encode(data)
	if err != nil {
		t.Fatal(err)
	}
	e := eventlog.Event{DeliveryID: "d-1", Type: data.EventType(), Attempt: attempt, Actor: "sam", Data: raw}
	if slug != "" {
		e.Deployment = &slug
	}
	return e
}

// history is a delivery that was forwarded to web and docs, and then more.
func history(t *testing.T, more ...eventlog.Event) []eventlog.Event {
	t.Helper()
	forwarded := eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: sha, Rule: "r", ConfigDigest: "old"}}
	return inOrder(append([]eventlog.Event{
		happened(t, "", 1, eventlog.Received{Event: "push", Entry: "E1"}),
		happened(t, "web", 1, forwarded),
		happened(t, "docs", 1, forwarded),
	}, more...))
}

// inOrder gives the events their positions.
func inOrder(events []eventlog.Event) []eventlog.Event {
	for i := range events {
		events[i].Position = int64(i + 1)
	}
	return events
}

func TestFold(t *testing.T) {
	retried := eventlog.Redelivered{Action: eventlog.ActionRetried, Entry: "E2",
		Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: sha}}}}
	replayed := eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 4, Order: eventlog.Order{Commit: sha}}}}
	began := happened(t, "web", 1, eventlog.Started{})
	tests := []struct {
		name    string
		events  []eventlog.Event
		status  Status
		attempt int
		highest int
		detail  string // of Redeliver
		retries int    // the attempt that Redeliver gives to web, 0 for none
	}{
		{"forwarded", history(t), StatusWaiting, 1, 1, "web waits for it (attempt 1)", 0},
		{"started", history(t, happened(t, "web", 1, eventlog.Started{})), StatusRunning, 1, 1, "web is running it (attempt 1)", 0},
		{"deployed", history(t, happened(t, "web", 1, eventlog.Deployed{})), StatusDeployed, 1, 1, "web deployed it (attempt 1)", 0},
		{"failed", history(t, happened(t, "web", 1, eventlog.Failed{Step: "bu\nild"})), StatusFailed, 1, 1,
			`web failed it at step "bu\nild" (attempt 1) and tries again as attempt 2`, 2},
		{"stale", history(t, happened(t, "web", 1, eventlog.Voided{Reason: eventlog.ReasonStale})), StatusVoided, 1, 1, "web voided it: stale (attempt 1)", 0},
		{"interrupted", history(t, began, happened(t, "web", 1, eventlog.Interrupted{Then: "retry"})), StatusWaiting, 1, 1, "web waits for it (attempt 1)", 0},
		{"interrupted and running again", history(t, began, happened(t, "web", 1, eventlog.Interrupted{Then: "retry"}), happened(t, "web", 2, eventlog.Started{})),
			StatusRunning, 2, 2, "web is running it (attempt 2)", 0},
		{"interrupted and failed", history(t, began, happened(t, "web", 1, eventlog.Interrupted{Then: "fail"}), happened(t, "web", 1, eventlog.Failed{})),
			StatusFailed, 1, 1, "web failed it (attempt 1) and tries again as attempt 2", 2},
		{"retried", history(t, happened(t, "web", 1, eventlog.Failed{}), happened(t, "", 1, retried)), StatusWaiting, 2, 2, "web waits for it (attempt 2)", 0},
		{"retried and failed", history(t, happened(t, "web", 1, eventlog.Failed{}), happened(t, "", 1, retried), happened(t, "web", 2, eventlog.Failed{})),
			StatusFailed, 2, 2, "web failed it (attempt 2) and tries again as attempt 3", 3},
		{"replayed and live after a failure", history(t, happened(t, "web", 1, eventlog.Failed{}), happened(t, "", 4, replayed), happened(t, "web", 4, eventlog.Deployed{})),
			StatusDeployed, 4, 4, "web deployed it (attempt 4)", 0},
		{"an end of an older attempt that comes late", history(t, happened(t, "", 4, replayed), happened(t, "web", 1, eventlog.Failed{})),
			StatusWaiting, 4, 4, "web waits for it (attempt 4)", 0},
		{"a replay that met a run of its number", history(t, happened(t, "web", 4, eventlog.Started{}), happened(t, "", 4, replayed)),
			StatusRunning, 4, 4, "web is running it (attempt 4)", 0},
		// No program of ours orders that any more, but older logs hold it.
		{"a replay of a run that was open, which went on and failed", history(t, began, happened(t, "", 4, replayed),
			happened(t, "web", 1, eventlog.Interrupted{Then: "retry"}), happened(t, "web", 5, eventlog.Started{}), happened(t, "web", 5, eventlog.Failed{})),
			StatusWaiting, 4, 5, "web waits for it (attempt 4)", 0},
		{"the same, once the replay has failed, too", history(t, began, happened(t, "", 4, replayed),
			happened(t, "web", 1, eventlog.Interrupted{Then: "retry"}), happened(t, "web", 5, eventlog.Started{}), happened(t, "web", 5, eventlog.Deployed{}),
			happened(t, "web", 4, eventlog.Started{}), happened(t, "web", 4, eventlog.Failed{})),
			StatusFailed, 4, 5, "web failed it (attempt 4) and tries again as attempt 6", 6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Fold(tt.events)
			if err != nil {
				t.Fatal(err)
			}
			p := s.Parts["web"]
			if p.Status != tt.status || p.Attempt != tt.attempt || s.Highest() != tt.highest || p.Assignment.Commit != sha {
				t.Errorf("part %+v, highest %d; want %s, attempt %d, highest %d", p, s.Highest(), tt.status, tt.attempt, tt.highest)
			}
			if !s.Handled("E1") || s.Handled("E3") {
				t.Error("entries are not told apart")
			}
			got := Redeliver(s, delivery.Delivery{ID: "d-1"}, rules)
			if !strings.Contains(got.Detail, tt.detail) || !strings.Contains(got.Detail, "docs waits for it (attempt 1)") {
				t.Errorf("detail %q, want %q in it", got.Detail, tt.detail)
			}
			retries := 0
			for _, a := range got.Deployments {
				if a.Deployment != "web" || a.Commit != sha || a.ConfigDigest != "d-web" {
					t.Errorf("retries %+v", a)
				}
				retries = a.Attempt
			}
			if retries != tt.retries || (got.Action == eventlog.ActionRetried) != (tt.retries > 0) {
				t.Errorf("%s as attempt %d, want %d", got.Action, retries, tt.retries)
			}
			if hint := "durhack-deployer replay d-1"; strings.Contains(got.Detail, hint) == (tt.retries > 0) {
				t.Errorf("detail %q", got.Detail)
			}
		})
	}
}

func TestFoldRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, e := range []eventlog.Event{
		{Position: 7, Type: "boiled", Data: []byte(`{"v":1}`)},
		{Position: 7, Type: eventlog.TypeReceived, Data: []byte(`{"v":2}`)},
	} {
		var unknown *eventlog.UnknownEventError
		if _, err := Fold([]eventlog.Event{e}); !errors.As(err, &unknown) {
			t.Errorf("%s: %v", e.Type, err)
		}
	}
}

func TestRedeliverOfWhatIsNotDeployedAnyMore(t *testing.T) {
	s, err := Fold(history(t, happened(t, "web", 1, eventlog.Failed{Step: "build"}), happened(t, "docs", 1, eventlog.Failed{})))
	if err != nil {
		t.Fatal(err)
	}
	got := Redeliver(s, delivery.Delivery{ID: "d-1"}, []Rule{{Slug: "web", Enabled: false}})
	if got.Action != eventlog.ActionIgnored || len(got.Deployments) > 0 {
		t.Errorf("got %+v", got)
	}
	want := `docs failed it (attempt 1), and is not configured any more; web failed it at step "build" (attempt 1), and is disabled now; to run it anyway: durhack-deployer replay d-1`
	if got.Detail != want {
		t.Errorf("detail %q", got.Detail)
	}
}

func TestRedeliverOfAVoid(t *testing.T) {
	s, err := Fold(inOrder([]eventlog.Event{
		happened(t, "", 1, eventlog.Received{}), happened(t, "", 1, eventlog.Voided{Reason: eventlog.ReasonNoDeployment}),
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := Redeliver(s, delivery.Delivery{ID: "d-1"}, rules)
	if want := "it was voided: no_deployment; to run it anyway: durhack-deployer replay d-1"; got.Action != eventlog.ActionIgnored || got.Detail != want {
		t.Errorf("%s: %q", got.Action, got.Detail)
	}
}

func TestPlanReplay(t *testing.T) {
	failed := func(slug string, attempt int) eventlog.Event {
		return happened(t, slug, attempt, eventlog.Failed{})
	}
	started := func(slug string) eventlog.Event { return happened(t, slug, 1, eventlog.Started{}) }
	failedTwice := history(t, failed("docs", 1), failed("web", 1), failed("web", 2))
	push1 := push(body("refs/heads/main", sha, "octo/app"))
	tests := []struct {
		name    string
		events  []eventlog.Event
		body    delivery.Delivery
		only    []string
		to      []string
		attempt int
		void    eventlog.Reason
		err     error
	}{
		{"everything", failedTwice, push1, nil, []string{"docs", "web"}, 3, "", nil},
		{"one", failedTwice, push1, []string{"docs"}, []string{"docs"}, 3, "", nil},
		{"none of these", failedTwice, push1, []string{"api"}, nil, 0, "", ErrNotChosen},
		{"void by today's rules", failedTwice, push(body("refs/heads/gone", sha, "octo/app")), nil, nil, 0, eventlog.ReasonNoDeployment, nil},
		{"waits", history(t), push1, nil, nil, 0, "", ErrOpen},
		{"waits at one", history(t, failed("web", 1)), push1, nil, nil, 0, "", ErrOpen},
		{"waits at another", history(t, failed("web", 1)), push1, []string{"web"}, []string{"web"}, 2, "", nil},
		{"runs", history(t, failed("web", 1), started("docs")), push1, []string{"docs"}, nil, 0, "", ErrOpen},
		{"was interrupted", history(t, failed("web", 1), started("docs"), happened(t, "docs", 1, eventlog.Interrupted{Then: "retry"})), push1, nil, nil, 0, "", ErrOpen},
		{"was interrupted for good", history(t, failed("web", 1), started("docs"), happened(t, "docs", 1, eventlog.Interrupted{Then: "fail"}), failed("docs", 1)),
			push1, nil, []string{"docs", "web"}, 2, "", nil},
		{"was void, is not by today's rules", inOrder([]eventlog.Event{
			happened(t, "", 1, eventlog.Received{}), happened(t, "", 1, eventlog.Voided{Reason: eventlog.ReasonNoDeployment}),
		}), push1, nil, []string{"docs", "web"}, 1, "", nil},
		{"unknown", nil, push1, nil, nil, 0, "", ErrUnknownDelivery},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runs, void, err := PlanReplay(tt.events, tt.body, rules, tt.only)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if (void != nil) != (tt.void != "") || void != nil && void.Reason != tt.void {
				t.Errorf("void %+v, want %q", void, tt.void)
			}
			var to []string
			for _, a := range runs {
				to = append(to, a.Deployment)
				if a.Attempt != tt.attempt || a.Commit != sha {
					t.Errorf("run %+v", a)
				}
			}
			if !slices.Equal(to, tt.to) {
				t.Errorf("to %q, want %q", to, tt.to)
			}
		})
	}
}
