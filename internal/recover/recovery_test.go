package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

var quiet = slog.New(slog.DiscardHandler)

func commit(n int) string { return fmt.Sprintf("%040x", 0xabc000+n) }

// world is a log with what a daemon would have appended to it, a clock that is set, and
// one remote.
type world struct {
	t    rapid.TB
	log  *eventlog.Log
	name string // of the instance

	mu     sync.Mutex
	now    time.Time
	tips   map[string]string
	err    error
	asked  int
	queued []delivery.Delivery
}

func newWorld(t rapid.TB, log *eventlog.Log, instance string) *world {
	return &world{t: t, log: log, name: instance, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), tips: map[string]string{}}
}

func openLog(t testing.TB) *eventlog.Log {
	t.Helper()
	log := eventlog.Open(pgtest.Migrated(t), quiet)
	t.Cleanup(log.Close)
	return log
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) options() Options {
	return Options{Instance: w.name, Log: w.log, Logger: quiet, Now: w.clock}
}

// poll is a new one, as after a restart, of deployments that follow main.
func (w *world) poll(slugs ...string) *Poll {
	var follow []Branch
	for _, slug := range slugs {
		branch, found := strings.CutPrefix(slug, "other-")
		if !found {
			branch = "main"
		}
		repository := "octo/web"
		if strings.HasPrefix(slug, "fork-") {
			repository = "octo/fork"
		}
		follow = append(follow, Branch{slug, repository, branch})
	}
	ids := 0
	return NewPoll(PollOptions{
		Options: w.options(), Every: 5 * time.Minute, Actor: Actor,
		Remotes: []Remote{{Name: "https://example.com/octo/web.git", Branches: follow, Tips: func(context.Context, []string) (map[string]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asked++
			return w.tips, w.err
		}}},
		Put: func(_ context.Context, d delivery.Delivery) error {
			w.queued = append(w.queued, d)
			return nil
		},
		NewID: func(now time.Time) string { ids++; return fmt.Sprintf("found-%d-%d", now.UnixNano(), ids) },
	})
}

// round lets the time pass until the next look, and looks; it returns how long that was.
func (w *world) round(p *Poll) time.Duration {
	w.t.Helper()
	before := w.now
	for _, r := range p.remotes {
		if r.next.After(w.now) {
			w.now = r.next
		}
	}
	if _, err := p.round(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return w.now.Sub(before)
}

// route appends what the router decides of what is queued, for these rules.
func (w *world) route(slugs ...string) {
	w.t.Helper()
	for _, d := range w.queued {
		var rules []router.Rule
		for _, slug := range slugs {
			rules = append(rules, router.Rule{Slug: slug, Repository: "octo/web", Branch: "main", Enabled: true})
		}
		decision := router.Decide(d, rules)
		decision.Received.Entry = d.ID
		w.append(d.ID, "", decision.Received)
		if decision.Void != nil {
			w.append(d.ID, "", *decision.Void)
		}
		for _, a := range decision.Forwards {
			w.append(d.ID, a.Deployment, eventlog.Forwarded{Order: a.Order})
		}
	}
	w.queued = nil
}

func (w *world) append(id, slug string, data eventlog.Data) {
	w.t.Helper()
	_, err := w.log.Append(context.Background(), eventlog.Group{Transitions: []eventlog.Transition{{Instance: w.name, DeliveryID: id, Deployment: slug, Attempt: 1, Actor: "ada", Data: data}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// received is a push, or what a person or recovery made of one, for the deployments.
func (w *world) received(id, tip string, source eventlog.Source, hook string, slugs ...string) {
	w.append(id, "", eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "Octo/Web", Commit: tip, Source: source, HookID: hook, Entry: id})
	for _, slug := range slugs {
		w.append(id, slug, eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: tip}})
	}
}

func (w *world) deployed(id, slug, tip string) {
	w.append(id, slug, eventlog.Started{Commit: tip})
	w.append(id, slug, eventlog.Deployed{Commit: tip})
}

func (w *world) found() []string {
	var all []string
	for _, d := range w.queued {
		all = append(all, string(d.Body))
	}
	return all
}

func TestPoll_MissedPushIsFoundOnceAndStaysFound(t *testing.T) {
	w := newWorld(t, openLog(t), "one")
	w.received("first", commit(1), eventlog.SourceGitHub, "7", "web", "docs")
	w.deployed("first", "web", commit(1))
	w.deployed("first", "docs", commit(1))
	p := w.poll("web", "docs")
	w.tips["main"] = commit(1)
	w.round(p)
	w.tips["main"] = commit(2)
	w.round(p)
	if len(w.queued) != 0 {
		t.Fatalf("found at first sight: %q", w.found())
	}
	if took := w.round(p); took < certain || took > certain+time.Second {
		t.Errorf("looked again after %s", took)
	}
	want := fmt.Sprintf(`{"after":%q,"deployments":["docs","web"],"ref":"refs/heads/main","repository":{"full_name":"octo/web"}}`, commit(2))
	if got := w.found(); !slices.Equal(got, []string{want}) || p.Found() != 1 {
		t.Fatalf("%q, want %q", got, want)
	}
	d := w.queued[0]
	if d.Source != "recovery" || d.Actor != Actor || d.Event != "push" || d.HookID != "" {
		t.Errorf("%+v", d)
	}
	w.round(p) // not routed yet
	if len(w.queued) != 1 {
		t.Errorf("found again: %q", w.found())
	}
	w.route() // voided: nothing is configured any more
	for _, again := range []*Poll{p, w.poll("web", "docs")} {
		w.round(again)
		w.now = w.now.Add(2 * certain)
		w.round(again)
	}
	if len(w.queued) != 0 {
		t.Errorf("found again after it was voided, and after a restart: %q", w.found())
	}
	// Another instance on the same log has a history of its own.
	other := newWorld(t, w.log, "two")
	other.tips, other.now = w.tips, w.now
	other.received("first", commit(1), eventlog.SourceGitHub, "7", "web")
	other.deployed("first", "web", commit(1))
	q := other.poll("web")
	other.round(q)
	other.round(q)
	if len(other.queued) != 1 {
		t.Errorf("the other instance found %q", other.found())
	}
}

func TestPoll_LeavesAloneWhatIsNotMissed(t *testing.T) {
	log := openLog(t)
	for name, test := range map[string]struct {
		happened func(w *world)
		want     string // the deployments that it is found for
	}{
		"never deployed":          {func(*world) {}, ""},
		"waits for its first run": {func(w *world) { w.received("a", commit(1), eventlog.SourceGitHub, "7", "web") }, ""},
		"failed the first time": {func(w *world) {
			w.received("a", commit(1), eventlog.SourceGitHub, "7")
			w.append("a", "web", eventlog.Started{Commit: commit(1)})
		}, `["web"]`},
		"one of two was never deployed": {func(w *world) {
			w.received("a", commit(1), eventlog.SourceGitHub, "7")
			w.deployed("a", "docs", commit(1))
		}, `["docs"]`},
		"received": {func(w *world) {
			w.deployed("a", "web", commit(1))
			w.received("b", commit(2), eventlog.SourceGitHub, "7")
		}, ""},
		"recovered": {func(w *world) {
			w.deployed("a", "web", commit(1))
			w.received("b", commit(2), eventlog.SourceRecovery, "")
		}, ""},
		"received of another branch": {func(w *world) {
			w.deployed("a", "web", commit(1))
			w.append("b", "", eventlog.Received{Event: "push", Ref: "refs/heads/mainly", Repository: "octo/web", Commit: commit(2), Entry: "b"})
			w.append("c", "", eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "octo/fork", Commit: commit(2), Entry: "c"})
		}, `["web"]`},
		"deployed by hand": {func(w *world) {
			w.deployed("a", "web", commit(1))
			w.deployed("a", "docs", commit(1))
			w.received("b", commit(2), eventlog.SourceCLI, "", "web")
		}, `["docs"]`},
		"live, under the old name of the repository": {func(w *world) {
			w.append("b", "", eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "octo/old", Commit: commit(2), Entry: "b"})
			w.deployed("b", "web", commit(2))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, log, name)
			test.happened(w)
			w.tips["main"] = commit(2)
			p := w.poll("web", "docs")
			w.round(p)
			w.now = w.now.Add(certain)
			w.round(p)
			got := strings.Join(w.found(), " ")
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("found %q, want for %q", got, test.want)
			}
		})
	}
}

// A push tells only the deployments of the repository that it names, whatever remote they share.
func TestPoll_FindsATipForEachRepositoryOfARemote(t *testing.T) {
	w := newWorld(t, openLog(t), "one")
	w.deployed("a", "web", commit(1))
	w.deployed("a", "fork-web", commit(1))
	w.received("b", commit(2), eventlog.SourceGitHub, "7", "web")
	w.tips["main"] = commit(2)
	p := w.poll("web", "fork-web")
	for range 3 {
		w.round(p)
	}
	want := fmt.Sprintf(`{"after":%q,"deployments":["fork-web"],"ref":"refs/heads/main","repository":{"full_name":"octo/fork"}}`, commit(2))
	if got := w.found(); !slices.Equal(got, []string{want}) || w.asked != 3 {
		t.Errorf("asked %d times, found %q, want %q", w.asked, got, want)
	}
	tips, _, err := p.Look(t.Context())
	if err != nil || len(tips) != 1 || tips[0].Repository != "octo/fork" {
		t.Errorf("%+v, %v", tips, err)
	}
}

// A push whose webhook comes while the tip is being watched, and one of a tip that moves on.
func TestPoll_WaitsForWhatIsOnItsWay(t *testing.T) {
	w := newWorld(t, openLog(t), "one")
	w.deployed("a", "web", commit(1))
	p := w.poll("web")
	w.tips["main"] = commit(2)
	w.round(p)
	w.received("b", commit(2), eventlog.SourceGitHub, "7", "web")
	w.round(p)
	w.tips["main"] = commit(3)
	w.round(p)
	w.tips["main"] = commit(4)
	w.round(p)
	if len(w.queued) != 0 {
		t.Fatalf("found %q", w.found())
	}
	w.round(p)
	if len(w.queued) != 1 || !strings.Contains(w.found()[0], commit(4)) {
		t.Errorf("found %q", w.found())
	}
}

func TestPoll_TellsOfABranchThatIsGone(t *testing.T) {
	w := newWorld(t, openLog(t), "one")
	w.deployed("a", "web", commit(1))
	p := w.poll("web")
	var out bytes.Buffer
	p.o.Logger = slog.New(slog.NewTextHandler(&out, nil))
	w.round(p)
	w.round(p)
	// It is said once, and is no trouble: doctor asks the remotes itself.
	if got := p.Troubles(); len(got) != 0 || len(w.queued) != 0 || strings.Count(out.String(), noBranch) != 1 {
		t.Errorf("%q, %q\n%s", got, w.found(), out.String())
	}
	if _, failed, err := p.Look(t.Context()); err != nil || len(failed) != 0 || strings.Count(out.String(), noBranch) != 2 {
		t.Errorf("%v, %v\n%s", failed, err, out.String())
	}
	w.tips["main"] = commit(1)
	w.round(p)
	delete(w.tips, "main")
	w.round(p)
	if strings.Count(out.String(), noBranch) != 3 {
		t.Errorf("gone again:\n%s", out.String())
	}
}

func TestPoll_RemoteThatIsAwayIsAskedLessAndLess(t *testing.T) {
	w := newWorld(t, openLog(t), "one")
	w.deployed("a", "web", commit(1))
	w.tips["main"], w.err = commit(2), errors.New("could not resolve host")
	p := w.poll("web")
	begin := w.now
	for range 5 {
		w.round(p)
	}
	soon := w.now.Sub(begin)
	var pause time.Duration
	for range 8 {
		pause = w.round(p)
	}
	// 5, 10, 20 and 40 minutes, or as little as half of that; then an hour.
	if soon < 37*time.Minute || soon > 90*time.Minute || pause < maxPause/2 || pause > maxPause {
		t.Errorf("asked five times within %s, and at last every %s", soon, pause)
	}
	if got := p.Troubles(); len(got) != 1 || !strings.Contains(got[0], "could not resolve host") {
		t.Errorf("%q", got)
	}
	w.err = nil
	w.round(p)
	w.round(p)
	if len(w.queued) != 1 || len(p.Troubles()) != 0 {
		t.Errorf("after it is back: %q, %q", w.found(), p.Troubles())
	}
}

// Whatever happens, in whatever order, with restarts in between: no tip is found twice,
// none that the log knows, and the last one is found.
func TestPoll_Property(t *testing.T) {
	log := openLog(t)
	instances := 0
	rapid.Check(t, func(t *rapid.T) {
		instances++
		w := newWorld(t, log, fmt.Sprint("i-", instances))
		w.received("d-0", commit(0), eventlog.SourceGitHub, "7", "web")
		w.deployed("d-0", "web", commit(0))
		p := w.poll("web")
		known, found := map[string]bool{commit(0): true}, map[string]bool{}
		w.tips["main"] = commit(0)
		look := func() {
			w.round(p)
			for _, d := range w.queued {
				tip := string(d.Body[len(`{"after":"`):][:40])
				if known[tip] || found[tip] {
					t.Fatalf("%s was found, though it is known (%v) or was found (%v)", tip, known[tip], found[tip])
				}
				found[tip] = true
			}
			w.route("web")
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"push", "lost push", "back", "look", "restart", "away"}).Draw(t, "step") {
			case "push":
				w.tips["main"] = commit(i + 1)
				w.received(fmt.Sprint("d-", i+1), commit(i+1), eventlog.SourceGitHub, "7", "web")
				known[commit(i+1)] = true
			case "lost push":
				w.tips["main"] = commit(i + 1)
			case "back":
				w.tips["main"] = commit(rapid.IntRange(0, i).Draw(t, "to"))
			case "restart":
				p = w.poll("web")
			case "away":
				w.err = errors.New("away")
				look()
				w.err = nil
			case "look":
				look()
			}
		}
		for range 3 {
			look()
		}
		if tip := w.tips["main"]; !known[tip] && !found[tip] {
			t.Fatalf("%s was never found", tip)
		}
	})
}
