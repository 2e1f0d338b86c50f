package act

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

// world is a log with read models, and a person who acts on it.
type world struct {
	t *testing.T
	*Person
	// behind stops the read models where they are.
	behind func()
	queued []delivery.Delivery
	signed int
	full   error // what the main queue answers
	// pins is how many there were when the main queue got a delivery.
	pins int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pool, quiet := pgtest.Migrated(t), slog.New(slog.DiscardHandler)
	log := eventlog.Open(pool, quiet, eventlog.WithPoll(20*time.Millisecond))
	t.Cleanup(log.Close)
	cfg := &config.Config{Instance: "test", StateDir: t.TempDir(), Deployments: map[string]*config.Deployment{}}
	for _, slug := range []string{"web", "api", "off"} {
		cfg.Deployments[slug] = &config.Deployment{Slug: slug, Repository: "o/" + slug, Branch: "main", Enabled: slug != "off"}
	}
	w := &world{t: t}
	w.Person = &Person{
		Name: "ada", Config: cfg, Log: log, Models: projections.New(pool, log, quiet),
		Commit: func(_ context.Context, d *config.Deployment, ref string) (string, error) {
			if ref == "" {
				return commit(1), nil
			}
			return ref, nil
		},
		Enqueue: func(_ context.Context, d delivery.Delivery) error {
			w.queued, w.pins = append(w.queued, d), len(w.of(eventlog.TypePinned))
			return w.full
		},
		Sign:    func(context.Context) error { w.signed++; return nil },
		Command: func(args ...string) string { return strings.Join(args, " ") },
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Models.Run(ctx) })
	w.behind = func() { cancel(); running.Wait() }
	t.Cleanup(w.behind)
	return w
}

func commit(n int) string { return fmt.Sprintf("%040x", n) }

// append records an event of a delivery.
func (w *world) append(id, slug string, attempt int, data eventlog.Data) {
	w.t.Helper()
	group := eventlog.Group{Transitions: []eventlog.Transition{{Instance: "test", DeliveryID: id, Deployment: slug, Attempt: attempt, Actor: "bob", Data: data}}}
	if _, err := w.Log.Append(w.t.Context(), group); err != nil {
		w.t.Fatal(err)
	}
}

// push is a push that was received and forwarded, and was put aside so.
func (w *world) push(id, slug string, n int) {
	w.t.Helper()
	body, salt := fmt.Appendf(nil, `{"ref":"refs/heads/main","after":%q,"repository":{"full_name":"o/%s"}}`, commit(n), slug), make([]byte, eventlog.SaltSize)
	digest := sha256.Sum256(append(slices.Clone(salt), body...))
	payload := eventlog.Payload{Digest: hex.EncodeToString(digest[:]), Salt: salt, Body: body}
	w.receive(id, slug, eventlog.Received{Event: "push", Source: eventlog.SourceGitHub, Commit: commit(n)}, payload)
}

func (w *world) receive(id, slug string, r eventlog.Received, p eventlog.Payload) {
	w.t.Helper()
	r.Ref, r.Repository, r.ContentType, r.PayloadDigest, r.PayloadSize = "refs/heads/main", "o/"+slug, "application/json", p.Digest, int64(len(p.Body))
	r.ReceivedAt, r.Entry = time.Now().UTC().Truncate(time.Microsecond), NewID(time.Now())
	p.ContentType = r.ContentType
	group := eventlog.Group{
		Transitions: []eventlog.Transition{
			{Instance: "test", DeliveryID: id, Attempt: 1, Actor: "bob", Data: r},
			{Instance: "test", DeliveryID: id, Deployment: slug, Attempt: 1, Actor: "bob", Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: r.Commit}}},
		},
		Payload: &p,
	}
	if _, err := w.Log.Append(w.t.Context(), group); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start(id, slug string, n int) {
	w.t.Helper()
	w.append(id, slug, 1, eventlog.Started{Commit: commit(n), Host: "h", Plan: []string{"test"}})
}

// live is a push that was deployed.
func (w *world) live(id, slug string, n int) {
	w.t.Helper()
	w.push(id, slug, n)
	w.start(id, slug, n)
	w.append(id, slug, 1, eventlog.Deployed{Commit: commit(n), Steps: []eventlog.Step{}})
}

func (w *world) failed(id, slug string, n int) {
	w.t.Helper()
	w.push(id, slug, n)
	w.start(id, slug, n)
	w.append(id, slug, 1, eventlog.Failed{Commit: commit(n), Step: "test", Error: "no", Steps: []eventlog.Step{}})
}

func (w *world) of(types ...eventlog.Type) (events []eventlog.Event) {
	w.t.Helper()
	for e, err := range w.Log.Find(w.t.Context(), eventlog.Filter{Types: types}) {
		if err != nil {
			w.t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// one is the only event of a type, which must be this person's and signed.
func one[D eventlog.Data](w *world, slug string) (eventlog.Event, D) {
	w.t.Helper()
	var zero D
	events := slices.DeleteFunc(w.of(zero.EventType()), func(e eventlog.Event) bool { return e.Actor != "ada" })
	if len(events) != 1 || events[0].DeploymentSlug() != slug || events[0].Actor != "ada" || w.signed == 0 {
		w.t.Fatalf("the log has %+v, and was signed %d times", events, w.signed)
	}
	data, err := events[0].Decode()
	if err != nil {
		w.t.Fatal(err)
	}
	return events[0], data.(D)
}

// refused is an error that says what, and what to do next, and nothing of which was done.
func (w *world) refused(err error, what, hint string) {
	w.t.Helper()
	refusal, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(err.Error(), what) || !strings.Contains(refusal.Hint, hint) || hint == "" && refusal.Hint != "" {
		w.t.Fatalf("%v (%+v), and not %q, %q", err, refusal, what, hint)
	}
	if w.signed > 0 || len(w.queued) > 0 || slices.ContainsFunc(w.of(), func(e eventlog.Event) bool { return e.Actor == "ada" }) {
		w.t.Fatalf("%v, and it was done", err)
	}
}

func TestDeploy_IsADeliveryOfThePerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, o := range []Deploy{{}, {ID: "mine", Ref: commit(7), Override: true, Reason: "why"}} {
		w.queued = nil
		id, found, err := w.Deploy(t.Context(), "web", o)
		if err != nil || len(w.queued) != 1 {
			t.Fatal(err, w.queued)
		}
		d := w.queued[0]
		if o.ID != "" && id != o.ID || id == "" || d.ID != id || d.Actor != "ada" || d.Source != "cli" || d.Deployment != "web" ||
			d.Forced != (o.Ref != "") || d.Override != o.Override || d.Reason != o.Reason {
			t.Errorf("%+v became %+v", o, d)
		}
		decided := router.Decide(d, router.Rules(w.Config))
		if len(decided.Forwards) != 1 || decided.Forwards[0].Deployment != "web" || decided.Forwards[0].Commit != found || decided.Forwards[0].Forced != d.Forced {
			t.Errorf("the router makes %+v of it", decided)
		}
	}
	w.queued = nil
	_, _, err := w.Deploy(t.Context(), "off", Deploy{})
	w.refused(err, "is disabled", "enabled = true")
	if _, _, err = w.Deploy(t.Context(), "none", Deploy{}); err == nil || len(w.queued) > 0 {
		t.Errorf("an unknown deployment: %v, %v", err, w.queued)
	}
}

func TestPin_HoldsWhatIsLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, _, err := w.Pin(t.Context(), "", "web", "", "why")
	w.refused(err, "nothing is live at web", "freeze web")
	w.live("d1", "web", 1)
	_, _, err = w.Pin(t.Context(), "", "web", commit(2), "why")
	w.refused(err, "is live at web meanwhile", "look at it again")
	w.push("d2", "web", 2)
	w.start("d2", "web", 2)
	got, running, err := w.Pin(t.Context(), "the-id", "web", commit(1), "why")
	if err != nil || got.Commit != commit(1) || running == nil || running.Commit != commit(2) {
		t.Fatal(got, running, err)
	}
	if e, data := one[eventlog.Pinned](w, "web"); e.DeliveryID != "the-id" || data.Commit != commit(1) || data.Reason != "why" {
		t.Errorf("%+v", data)
	}
}

func TestUnpin_NamesTheNewestThatItKeptOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.live("d1", "web", 1)
	w.push("d2", "web", 2)
	w.append("d2", "web", 1, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "an earlier pin"})
	w.append("earlier", "web", 1, eventlog.Unpinned{Reason: "r"})
	_, err := w.Unpin(t.Context(), "", "web", "why")
	w.refused(err, "web is not pinned", "")
	w.append("pin", "web", 1, eventlog.Pinned{Commit: commit(1), Reason: "r"})
	for n := 3; n < 5; n++ {
		id := fmt.Sprint("d", n)
		w.push(id, "web", n)
		w.append(id, "web", 1, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "this pin"})
	}
	w.append("pin-again", "web", 1, eventlog.Pinned{Commit: commit(1), Reason: "takes the place of the other"})
	w.push("d5", "web", 5)
	w.append("d5", "web", 1, eventlog.Voided{Reason: eventlog.ReasonSuperseded, Detail: "another reason"})
	missed, err := w.Unpin(t.Context(), "", "web", "why")
	if err != nil || missed == nil || missed.DeliveryID != "d4" {
		t.Fatalf("%+v, %v", missed, err)
	}
	one[eventlog.Unpinned](w, "web")
}

func TestUnpin_OfAPinThatKeptNothingOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("d1", "web", 1)
	w.append("d1", "web", 1, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "an earlier pin"})
	w.append("earlier", "web", 1, eventlog.Unpinned{Reason: "r"})
	w.append("pin", "web", 1, eventlog.Pinned{Commit: commit(1), Reason: "r"})
	if missed, err := w.Unpin(t.Context(), "", "web", "why"); err != nil || missed != nil {
		t.Fatalf("%+v, %v", missed, err)
	}
}

func TestRollback_GoesTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.Rollback(t.Context(), "", "web", "", "why")
	w.refused(err, "nothing was ever live at web", "")
	w.live("d1", "web", 1)
	w.live("other", "api", 9)
	_, err = w.Rollback(t.Context(), "", "web", "", "why")
	w.refused(err, "nothing else was live at web", "history web")
	_, err = w.Rollback(t.Context(), "", "off", "", "why")
	w.refused(err, "is disabled", "enabled = true") // before a pin, which would stay
	w.live("d2", "web", 2)
	w.live("d2-again", "web", 2)
	_, err = w.Rollback(t.Context(), "", "web", commit(9), "why")
	w.refused(err, "was never live at web", "deploy --ref")
	_, err = w.Rollback(t.Context(), "", "web", commit(1)[:30], "why")
	if refusal, ok := errors.AsType[*answer.Error](err); !ok || refusal.Kind != answer.Ambiguous || len(refusal.Candidates) != 2 || w.signed > 0 {
		t.Errorf("an ambiguous --to: %v", err)
	}
	_, err = w.Rollback(t.Context(), "", "web", "d2-a", "why")
	w.refused(err, "was never live at web", "an abbreviation has at least 6 characters")
	for _, c := range []struct {
		to   string
		want int
	}{{"", 1}, {commit(2), 2}, {strings.ToUpper(commit(2)), 2}, {"d1", 1}, {"d2-aga", 2}} {
		w.queued = nil
		r, err := w.Rollback(t.Context(), "", "web", c.to, "why")
		if err != nil || r.Commit != commit(c.want) || !r.Pinned || len(w.queued) != 1 {
			t.Fatalf("to %q: %+v, %v", c.to, r, err)
		}
		if d := w.queued[0]; d.ID != r.DeliveryID || !d.Forced || !d.Override || d.Reason != "why" || w.pins != len(w.of(eventlog.TypePinned)) {
			t.Errorf("to %q: %+v", c.to, d)
		}
	}
	// What is live when the newest run has failed is what was live before it.
	w.failed("d3", "web", 3)
	if r, err := w.Rollback(t.Context(), "", "web", "", "why"); err != nil || r.Commit != commit(2) {
		t.Errorf("after a failure: %+v, %v", r, err)
	}
}

// What somebody went back from is no way back.
func TestRollback_AgainGoesFurtherBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 4 {
		w.live(fmt.Sprint("d", n), "web", n)
	}
	for back, want := range []int{2, 1, 0} {
		r, err := w.Rollback(t.Context(), "", "web", "", "why")
		if err != nil || r.Commit != commit(want) {
			t.Fatalf("rollback %d: %+v, %v", back+1, r, err)
		}
		w.live(r.DeliveryID, "web", want)
	}
	if r, err := w.Rollback(t.Context(), "", "web", "", "why"); err == nil || !strings.Contains(err.Error(), "nothing else was live") {
		t.Errorf("%+v, %v", r, err)
	}
	// After a push the way back is to what was put back.
	w.live("d5", "web", 5)
	if r, err := w.Rollback(t.Context(), "", "web", "", "why"); err != nil || r.Commit != commit(0) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRollback_ThatCannotBeOrderedHasPinned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.live("d1", "web", 1)
	w.live("d2", "web", 2)
	w.full = errors.New("the disk is full")
	r, err := w.Rollback(t.Context(), "", "web", "", "why")
	if refusal, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, w.full) || !strings.Contains(refusal.Hint, "pinned already") || !r.Pinned || w.pins != 1 {
		t.Fatalf("%+v, %v, %d", r, err, w.pins)
	}
	if _, data := one[eventlog.Pinned](w, "web"); data.Commit != commit(1) {
		t.Errorf("%+v", data)
	}
}

func TestThaw_OfOneAndOfAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.Thaw(t.Context(), "", "", "why")
	w.refused(err, "no freeze of all", "status")
	_, err = w.Thaw(t.Context(), "", "web", "why")
	w.refused(err, "web is not frozen", "")
	w.append("f1", "web", 1, eventlog.Frozen{Reason: "r", Until: time.Now().Add(-time.Second)})
	_, err = w.Thaw(t.Context(), "", "web", "why")
	w.refused(err, "web is not frozen", "")
	if err := w.Freeze(t.Context(), "", "none", time.Time{}, "why"); err == nil || w.signed > 0 {
		t.Error("an unknown deployment is frozen")
	}
	if err := w.Freeze(t.Context(), "all", "", time.Time{}, "why"); err != nil {
		t.Fatal(err)
	}
	frozen := w.of(eventlog.TypeFrozen)
	if e := frozen[len(frozen)-1]; e.Deployment != nil || e.DeliveryID != "all" || w.signed != 1 {
		t.Errorf("all are frozen by %+v", e)
	}
	if _, err = w.Thaw(t.Context(), "", "web", "why"); err == nil || !strings.Contains(err.Error(), "not web by itself") {
		t.Errorf("web, which is frozen with all: %v", err)
	}
	if err := w.Freeze(t.Context(), "", "web", time.Now().Add(time.Hour), "why"); err != nil {
		t.Fatal(err)
	}
	if still, err := w.Thaw(t.Context(), "", "web", "why"); err != nil || !still {
		t.Errorf("web stays frozen with all: %v, %v", still, err)
	}
	one[eventlog.Thawed](w, "web")
	if still, err := w.Thaw(t.Context(), "", "", "why"); err != nil || still {
		t.Errorf("all are thawed: %v, %v", still, err)
	}
}

func TestCancel_EndsTheRunThatIsMeant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.Cancel(t.Context(), "web", "why", Run{})
	w.refused(err, "nothing runs at web", "freeze web")
	w.push("d1", "web", 1)
	w.start("d1", "web", 1)
	for _, meant := range []Run{{DeliveryID: "d0"}, {DeliveryID: "d1", Attempt: 2}} {
		_, err = w.Cancel(t.Context(), "web", "why", meant)
		w.refused(err, "another one goes on", "why "+meant.DeliveryID)
	}
	if run, err := w.Cancel(t.Context(), "web", "why", Run{DeliveryID: "d1"}); err != nil || run.Commit != commit(1) {
		t.Fatal(run, err)
	}
	if e, data := one[eventlog.Canceled](w, "web"); e.DeliveryID != "d1" || e.Attempt != 1 || data.Reason != "why" {
		t.Errorf("%+v", e)
	}
	if _, err = w.Cancel(t.Context(), "web", "another", Run{}); err == nil || !strings.Contains(err.Error(), "canceled already") {
		t.Errorf("the second time: %v", err)
	}
}

func TestCancel_OfARunThatHasEndedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("d1", "web", 1)
	w.start("d1", "web", 1)
	if lag, err := w.Models.Await(t.Context(), time.Minute); err != nil || lag.Events > 0 {
		t.Fatal(lag, err)
	}
	w.behind() // it still shows the run as going on
	w.append("d1", "web", 1, eventlog.Deployed{Commit: commit(1), Steps: []eventlog.Step{}})
	_, err := w.Cancel(t.Context(), "web", "why", Run{})
	w.refused(err, "has ended meanwhile", "why d1")
}

func TestReplay_OrdersWhatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.failed("d1", "web", 1)
	w.live("d2", "web", 2)
	w.push("d3", "web", 3)
	if _, err := w.Replay(t.Context(), "d3", Parts{}, "why"); err == nil {
		t.Error("a delivery that is open is replayed")
	} else {
		w.refused(err, "open", "why d3")
	}
	_, err := w.Replay(t.Context(), "d2", Parts{Deployment: "api"}, "why")
	w.refused(err, "it would go to: web", "")
	if _, err := w.Replay(t.Context(), "none", Parts{}, "why"); err == nil || !strings.Contains(err.Error(), "has no delivery") {
		t.Error(err)
	}
	r, err := w.Replay(t.Context(), "d1", Parts{Failed: true}, "why")
	if err != nil || r.Attempt() != 2 || len(r.Runs) != 1 || r.Runs[0].Deployment != "web" || r.Runs[0].Commit != commit(1) {
		t.Fatalf("%+v, %v", r, err)
	}
	w.signed = 1 // those who replay several sign once
	if e, data := one[eventlog.Replayed](w, ""); e.DeliveryID != "d1" || e.Attempt != 2 || data.Reason != "why" || len(data.Deployments) != 1 {
		t.Errorf("%+v", data)
	}
}

func TestReplay_WithoutItsBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.failed("d1", "web", 1)
	first := w.of(eventlog.TypeReceived)[0]
	named, _ := eventlog.BodyOf(&first)
	w.append("d1", "", 1, eventlog.Redacted{Reason: "a secret", PayloadDigests: []string{named.Digest}})
	r, err := w.PlanReplay(t.Context(), "d1", Parts{})
	if err != nil || !errors.Is(r.Why, eventlog.ErrNoPayload) || !strings.Contains(r.Why.Error(), "deleted by bob: a secret") {
		t.Fatalf("%+v, %v", r, err)
	}
	_, err = w.Replay(t.Context(), "d1", Parts{}, "why")
	w.refused(err, "cannot be replayed", "deploy SLUG --ref")
}

// A commit that a person has named stays named: its replay, too, may be older than what is live.
func TestReplay_OfADeployByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for ref, forced := range map[string]bool{"": false, commit(5): true} {
		w.queued = nil
		id, found, err := w.Deploy(t.Context(), "web", Deploy{Ref: ref})
		if err != nil {
			t.Fatal(err)
		}
		d := w.queued[0]
		digest := sha256.Sum256(append(slices.Clone(d.Salt), d.Body...))
		w.receive(id, "web", eventlog.Received{Event: "push", Source: eventlog.SourceCLI, Commit: found}, eventlog.Payload{Digest: hex.EncodeToString(digest[:]), Salt: d.Salt, Body: d.Body})
		w.start(id, "web", 5)
		w.append(id, "web", 1, eventlog.Failed{Commit: found, Step: "test", Error: "no", Steps: []eventlog.Step{}})
		r, err := w.PlanReplay(t.Context(), id, Parts{})
		if err != nil || r.Why != nil || len(r.Runs) != 1 || r.Runs[0].Forced != forced {
			t.Errorf("--ref %q: %+v, %v", ref, r, err)
		}
	}
}

func TestReason_HoldsWhatTheLogCan(t *testing.T) {
	t.Parallel()
	if got, err := Reason(" a\x00b \n"); got != "ab" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	long := strings.Repeat("é", MaxReason)
	if got, err := Reason(long + "\n"); got != long || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Reason(long + "e"); err == nil || !strings.Contains(err.Error(), "has 501 characters, and may have at most 500") {
		t.Errorf("%v", err)
	}
}
