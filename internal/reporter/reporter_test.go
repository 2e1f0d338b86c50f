package reporter

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

const (
	origin = "https://deploy.example.com"
	secret = "hunter2hunter2"
)

var quiet = slog.New(slog.DiscardHandler)

// site is an instance with its log, and a stand-in of GitHub.
type site struct {
	pool *pgxpool.Pool
	log  *eventlog.Log
	hub  *githubtest.Server
}

func newSite(t testing.TB) *site {
	t.Helper()
	pool := pgtest.Migrated(t)
	log := eventlog.Open(pool, quiet, eventlog.WithPoll(20*time.Millisecond))
	t.Cleanup(log.Close)
	hub := &githubtest.Server{}
	if err := hub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	return &site{pool, log, hub}
}

// run starts a reporter, with a client of its own as a new process has; stop ends it.
func (s *site) run(t rapid.TB) (stop func()) {
	t.Helper()
	client, err := github.New(github.Options{APIURL: s.hub.URL(), Version: "test", Token: func() (string, error) { return githubtest.Token, nil }})
	if err != nil {
		t.Fatal(err)
	}
	r := New(Options{
		Instance: "here", Origin: origin, Deployments: true, GitHub: client, Log: s.log, Pool: s.pool,
		Targets: map[string]Target{"web": {"octo/web", "https://www.example.com"}, "docs": {Repository: "octo/docs"}},
		Mask:    mask.NewSet([]string{secret}).String,
	})
	box := outbox.New(outbox.Options{
		Channel: Channel, Instance: "here", Holder: "this", Pool: s.pool, Log: s.log, Owe: r.Owe, Send: r.Send, Logger: quiet, Pause: 5 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- box.Run(ctx) }()
	s.eventually(t, "the outbox is taken", "select count(*) = 1 from outbox_positions where held_until > clock_timestamp()")
	var once sync.Once
	return func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

// eventually waits until a question is answered with true.
func (s *site) eventually(t rapid.TB, what, q string) {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var is bool
		if err := s.pool.QueryRow(context.Background(), q).Scan(&is); err != nil {
			t.Fatal(err)
		}
		if is {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

func (s *site) told(t rapid.TB) {
	t.Helper()
	s.eventually(t, "all is told", `select not exists (select from outbox where state = 'owed')
		and (select position from log_head) = (select position from outbox_positions where channel = 'reporter')`)
}

func (s *site) append(t rapid.TB, transitions ...eventlog.Transition) []eventlog.Event {
	t.Helper()
	for i := range transitions {
		tr := &transitions[i]
		if tr.Instance == "" {
			tr.Instance = "here"
		}
		if tr.Actor == "" {
			tr.Actor = "octocat"
		}
		tr.Attempt = max(1, tr.Attempt)
	}
	events, err := s.log.Append(context.Background(), eventlog.Group{Transitions: transitions})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func sha(n int) string { return fmt.Sprintf("%040x", n+1) }

func received(id string) eventlog.Transition {
	return eventlog.Transition{DeliveryID: id, Data: eventlog.Received{Event: "push"}}
}

func of(id, slug string, attempt int, data eventlog.Data) eventlog.Transition {
	return eventlog.Transition{DeliveryID: id, Deployment: slug, Attempt: attempt, Data: data}
}

func forwarded(id, slug, commit string) eventlog.Transition {
	return of(id, slug, 1, eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commit}})
}

// said are the statuses of a commit as "slug state: description", the oldest first.
func (s *site) said(commit string) (list []string) {
	for _, st := range s.hub.Statuses() {
		if st.SHA == commit {
			list = append(list, fmt.Sprintf("%s %s: %s", strings.TrimPrefix(st.Context, "durhack-deployer/"), st.State, st.Description))
		}
	}
	return list
}

func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("GitHub was told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReporter_TellsHowEachRunEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.append(t, received("old"), forwarded("old", "web", sha(99)))
	defer s.run(t)()
	one := 1
	ends := map[string][]eventlog.Transition{
		"success: deployed in 1.5 s":            {of("", "web", 1, eventlog.Started{}), of("", "web", 1, eventlog.Deployed{DurationMS: 1500})},
		"failure: failed at step build, exit 1": {of("", "web", 1, eventlog.Started{}), of("", "web", 1, eventlog.Failed{Step: "build", ExitCode: &one, Error: "exit 1"})},
		"failure: failed at step fetch: no *** here": {
			of("", "web", 1, eventlog.Started{}), of("", "web", 1, eventlog.Failed{Step: "fetch", Error: "no\n" + secret + "\x1b here"}),
		},
		"error: canceled by sam: wrong branch": {
			of("", "web", 1, eventlog.Started{}), {Deployment: "web", Actor: "sam", Data: eventlog.Canceled{Reason: "wrong branch"}},
			of("", "web", 1, eventlog.Failed{Step: "build", Error: "canceled"}),
		},
		"error: the host went away": {
			of("", "web", 1, eventlog.Started{}), of("", "web", 1, eventlog.Interrupted{Detail: "killed", Then: "fail"}),
			of("", "web", 1, eventlog.Failed{Step: "build", Error: "the host went away"}),
		},
		"success: deployed in 2.0 s": {
			of("", "web", 1, eventlog.Started{}), of("", "web", 1, eventlog.Interrupted{Detail: "killed", Then: "retry"}),
			of("", "web", 2, eventlog.Started{}), of("", "web", 2, eventlog.Deployed{DurationMS: 2000}),
		},
		"error: not deployed (superseded): a newer one came": {of("", "web", 1, eventlog.Voided{Reason: eventlog.ReasonSuperseded, Detail: "a newer one came"})},
	}
	n, commits := 0, map[string]string{}
	for _, want := range slices.Sorted(func(yield func(string) bool) {
		for want := range ends {
			if !yield(want) {
				return
			}
		}
	}) {
		n++
		id, commit := fmt.Sprint("d", n), sha(n)
		commits[want] = commit
		s.append(t, received(id), forwarded(id, "web", commit))
		s.told(t)
		for _, tr := range ends[want] {
			tr.DeliveryID = id
			switch d := tr.Data.(type) {
			case eventlog.Started:
				d.Commit = commit
				tr.Data = d
			case eventlog.Deployed:
				d.Commit = commit
				tr.Data = d
			case eventlog.Failed:
				d.Commit = commit
				tr.Data = d
			}
			s.append(t, tr)
			s.told(t)
		}
	}
	for want, commit := range commits {
		said := s.said(commit)
		if said[0] != "web pending: queued" || said[len(said)-1] != "web "+want {
			t.Errorf("want %s, said %q", want, said)
		}
		for _, one := range said[:len(said)-1] {
			if !strings.HasPrefix(one, "web pending: ") {
				t.Errorf("a second end: %q", said)
			}
		}
	}
	if said := s.said(sha(99)); len(said) > 0 {
		t.Errorf("it told of what was before its first start: %q", said)
	}
	for _, st := range s.hub.Statuses() {
		if !strings.HasPrefix(st.TargetURL, origin+"/deliveries/d") || st.Repository != "octo/web" {
			t.Errorf("%+v", st)
		}
	}
}

// TestReporter_TellsOfTheNewestRunOfACommit has a commit that comes in several deliveries.
func TestReporter_TellsOfTheNewestRunOfACommit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	defer s.run(t)()
	c := sha(1)
	run := func(id string, attempt int, end eventlog.Data) {
		s.append(t, of(id, "web", attempt, eventlog.Started{Commit: c}))
		s.told(t)
		s.append(t, of(id, "web", attempt, end))
		s.told(t)
	}
	s.append(t, received("a"), forwarded("a", "web", c), forwarded("a", "docs", c))
	s.told(t)
	run("a", 1, eventlog.Failed{Commit: c, Step: "build", Error: "no"})
	s.append(t, eventlog.Transition{DeliveryID: "a", Actor: "sam", Data: eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 2, Order: eventlog.Order{Commit: c}}}}})
	s.told(t)
	run("a", 2, eventlog.Deployed{Commit: c})
	s.append(t, received("b"), forwarded("b", "web", c))
	s.told(t)
	s.append(t, eventlog.Transition{Instance: "elsewhere", DeliveryID: "a", Deployment: "web", Data: eventlog.Voided{Reason: eventlog.ReasonStale}})
	s.append(t, of("a", "docs", 1, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "it is pinned"}))
	s.told(t)
	run("b", 1, eventlog.Deployed{Commit: c})
	said := s.said(c)
	docs := slices.DeleteFunc(slices.Clone(said), func(s string) bool { return strings.HasPrefix(s, "web ") })
	expect(t, docs, "docs pending: queued", "docs error: not deployed (pinned): it is pinned")
	expect(t, slices.DeleteFunc(said, func(s string) bool { return strings.HasPrefix(s, "docs ") }),
		"web pending: queued", "web pending: being deployed", "web failure: failed at step build: no",
		"web pending: queued again by sam", "web pending: being deployed", "web success: deployed in 0 ms",
		"web pending: queued", "web pending: being deployed", "web success: deployed in 0 ms")
}

func TestDescribe_IsOneLineThatGitHubTakes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text") + strings.Repeat("\u00e9\u2028\x00", rapid.IntRange(0, 200).Draw(t, "long"))
		got := describe(text)
		if utf8.RuneCountInString(got) > github.MaxDescription || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\t\x00\x1b\u2028") {
			t.Fatalf("%q", got)
		}
	})
}

// states are those of the deployments that GitHub has, as "sha: state state".
func (s *site) states() (list []string) {
	for _, d := range s.hub.Deployments() {
		line := d.SHA[36:] + ":"
		for _, st := range d.Statuses {
			line += " " + st.State
		}
		list = append(list, line)
	}
	return list
}

func TestReporter_TellsOfDeployments(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	defer s.run(t)()
	deploy := func(id, commit string, end eventlog.Data) {
		s.append(t, received(id), forwarded(id, "web", commit))
		s.append(t, of(id, "web", 1, eventlog.Started{Commit: commit}))
		s.told(t)
		s.append(t, of(id, "web", 1, end))
		s.told(t)
	}
	deploy("a", sha(1), eventlog.Deployed{Commit: sha(1)})
	deploy("b", sha(2), eventlog.Failed{Commit: sha(2), Step: "build"})
	s.append(t, received("never"), forwarded("never", "web", sha(3)), of("never", "web", 1, eventlog.Voided{Reason: eventlog.ReasonStale}))
	deploy("c", sha(4), eventlog.Deployed{Commit: sha(4)})
	deploy("d", sha(1), eventlog.Deployed{Commit: sha(1)})
	expect(t, s.states(), "0002: in_progress success inactive", "0003: in_progress failure", "0005: in_progress success inactive", "0002: in_progress success")
	first := s.hub.Deployments()[0]
	if st := first.Statuses[1]; first.Environment != "web" || st.EnvironmentURL != "https://www.example.com" || st.LogURL != origin+"/deliveries/a" {
		t.Errorf("%+v", first)
	}
}

func TestReporter_MakesOneDeploymentWhereTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.hub.Fail(githubtest.Failure{Method: "POST", Path: "/deployments$", Times: 1, Lost: true})
	defer s.run(t)()
	s.append(t, received("a"), forwarded("a", "web", sha(1)), of("a", "web", 1, eventlog.Started{Commit: sha(1)}))
	s.told(t)
	s.append(t, of("a", "web", 1, eventlog.Deployed{Commit: sha(1)}))
	s.told(t)
	expect(t, s.states(), "0002: in_progress success")
}

func TestReporter_NamesThePermissionThatDeploymentsTakeAsAWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.hub.Grant(githubtest.Token, map[string]string{"statuses": "write"})
	defer s.run(t)()
	s.append(t, received("a"), forwarded("a", "web", sha(1)), of("a", "web", 1, eventlog.Started{Commit: sha(1)}))
	s.told(t)
	troubles, err := outbox.Troubles(t.Context(), s.pool, "here")
	if err != nil || len(troubles) != 1 || !strings.Contains(troubles[0].Error, `it needs the permission "Deployments" (read and write)`) {
		t.Errorf("%+v, %v", troubles, err)
	}
}

// Two runs at one environment are told of one after the other.
func TestReporter_QueueAtAnEnvironmentIsNoTrouble(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	defer s.run(t)()
	s.hub.Fail(githubtest.Failure{Method: "POST", Path: "/deployments$", Silent: true})
	for n, id := range []string{"a", "b"} {
		s.append(t, received(id), forwarded(id, "web", sha(n)), of(id, "web", 1, eventlog.Started{Commit: sha(n)}))
	}
	s.eventually(t, "one waits for the other", "select count(*) = 1 from outbox where tries > 0")
	if troubles, err := outbox.Troubles(t.Context(), s.pool, "here"); err != nil || len(troubles) > 0 {
		t.Errorf("%+v, %v", troubles, err)
	}
	s.hub.Heal()
}

// TestReporter_AgainstAModel has random histories, a GitHub that fails, takes and is lost,
// and processes that end at any point: in the end each commit has exactly its last state,
// and no older one came after a newer one.
func TestReporter_AgainstAModel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		stop := s.run(t)
		defer func() { stop() }()
		for range rapid.IntRange(0, 6).Draw(t, "faults") {
			s.hub.Fail(rapid.SampledFrom([]githubtest.Failure{
				{Method: "POST", Times: 1, Status: 500}, {Method: "POST", Times: 1, Lost: true}, {Method: "POST", Times: 1, Status: 502},
			}).Draw(t, "fault"))
		}
		last := map[string][]string{} // the states of a commit, in log order
		open := map[string]int{}      // deliveries that have begun, with their commit
		for i := range rapid.IntRange(1, 10).Draw(t, "steps") {
			commit := 1000*n + rapid.IntRange(0, 2).Draw(t, "commit")
			id := fmt.Sprintf("m%d-%d", n, i)
			var ended string
			for one := range open {
				ended = max(ended, one)
			}
			switch step := rapid.IntRange(0, 4).Draw(t, "step"); {
			case step == 0:
				stop()
				stop = s.run(t)
			case step <= 2 && ended != "":
				c := sha(open[ended])
				delete(open, ended)
				state, data := "success", eventlog.Data(eventlog.Deployed{Commit: c})
				if rapid.Bool().Draw(t, "fails") {
					state, data = "failure", eventlog.Failed{Commit: c, Step: "build"}
				}
				s.append(t, of(ended, "web", 1, data))
				last[c] = append(last[c], state)
			case ended == "": // one at a time
				s.append(t, received(id), forwarded(id, "web", sha(commit)), of(id, "web", 1, eventlog.Started{Commit: sha(commit)}))
				last[sha(commit)] = append(last[sha(commit)], "pending", "pending")
				open[id] = commit
			}
		}
		s.hub.Heal()
		s.told(t)
		for commit, want := range last {
			var got []string
			for _, st := range s.hub.Statuses() {
				if st.SHA == commit {
					got = append(got, st.State)
				}
			}
			if len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
				t.Fatalf("%s was told %v, and its states were %v", commit, got, want)
			}
			// What was told is a walk through the states that never goes back.
			at := 0
			for _, state := range slices.Compact(got) {
				for at < len(want) && want[at] != state {
					at++
				}
				if at == len(want) {
					t.Fatalf("%s was told %v, and its states were %v: an older one after a newer", commit, got, want)
				}
			}
		}
	})
	live := 0
	for _, d := range s.hub.Deployments() {
		if len(d.Statuses) == 0 {
			t.Errorf("a deployment of %s was made and forgotten", d.SHA)
		} else if d.Statuses[len(d.Statuses)-1].State == "success" {
			live++
		}
	}
	if live > 1 {
		t.Errorf("%d deployments of one environment are live", live)
	}
}
