package github_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

const (
	repository = "octo/web"
	commit     = "3f1c2a9be7d0aa00112233445566778899aabbcc"
)

var pending = github.Status{State: github.StatePending, Context: "durhack-deployer/web", Description: "queued"}

// clock is one that is set.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// start starts a stand-in, and a client with its token; change may change both.
func start(t *testing.T, change func(*githubtest.Server, *github.Options)) (*githubtest.Server, *github.Client, *clock) {
	t.Helper()
	c := newClock()
	s := &githubtest.Server{Now: c.now}
	o := github.Options{Version: "1.2.3", Now: c.now, Token: func() (string, error) { return githubtest.Token, nil }}
	if change != nil {
		change(s, &o)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	o.APIURL = s.URL()
	client, err := github.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, client, c
}

// refused is the *Error that err is.
func refused(t *testing.T, err error) *github.Error {
	t.Helper()
	e, ok := errors.AsType[*github.Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	if strings.Contains(err.Error(), githubtest.Token) {
		t.Fatalf("the error shows the token: %v", err)
	}
	return e
}

func TestClient_SaysWhoItIsAndWhatItSpeaks(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	if err := c.CreateStatus(t.Context(), repository, commit, pending); err != nil {
		t.Fatal(err)
	}
	r := s.Requests()[0]
	for name, want := range map[string]string{
		"Authorization": "Bearer " + githubtest.Token, "User-Agent": "durhack-deployer/1.2.3",
		"X-Github-Api-Version": "2022-11-28", "Accept": "application/vnd.github+json", "Content-Type": "application/json",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	made := s.Statuses()
	if len(made) != 1 || made[0].SHA != commit || made[0].State != "pending" || made[0].Context != "durhack-deployer/web" {
		t.Errorf("created %+v", made)
	}
	if b, ok := c.Budget(); !ok || b.Limit != 5000 || b.Remaining != 4999 {
		t.Errorf("budget %+v, %v", b, ok)
	}
}

func TestClient_TokenThatIsReplacedCountsAtOnce(t *testing.T) {
	t.Parallel()
	token := githubtest.Token
	s, c, _ := start(t, func(_ *githubtest.Server, o *github.Options) { o.Token = func() (string, error) { return token, nil } })
	s.Revoke()
	s.Grant("another", nil)
	e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending))
	if e.Temporary || e.Status != http.StatusUnauthorized || !strings.Contains(e.Error(), "revoked") {
		t.Errorf("%v", e)
	}
	token = "another"
	if err := c.CreateStatus(t.Context(), repository, commit, pending); err != nil {
		t.Error(err)
	}
}

func TestClient_TokenThatCannotBeReadPassesByItself(t *testing.T) {
	t.Parallel()
	for _, token := range []func() (string, error){
		func() (string, error) { return "", errors.New("there is no such file") },
		func() (string, error) { return "two\nlines", nil },
	} {
		s, c, _ := start(t, func(_ *githubtest.Server, o *github.Options) { o.Token = token })
		if e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending)); !e.Temporary || strings.Contains(e.Error(), "two") {
			t.Errorf("%v", e)
		}
		if n := len(s.Requests()); n != 0 {
			t.Errorf("%d requests without a token", n)
		}
	}
}

func TestClient_NamesThePermission(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	s.Grant(githubtest.Token, map[string]string{"metadata": "read", "statuses": "read"})
	for what, err := range map[string]error{
		`"Commit statuses" (read and write)`:                          c.CreateStatus(t.Context(), repository, commit, pending),
		`"Deployments" (read and write)`:                              c.MayCreateDeployment(t.Context(), repository),
		`"Deployments" (read)`:                                        func() error { _, err := c.Deployments(t.Context(), repository, "web", ""); return err }(),
		`"Webhooks" (read), or "Webhooks of the organization" (read)`: func() error { _, err := c.Hook(t.Context(), repository, 1); return err }(),
	} {
		if e := refused(t, err); e.Temporary || e.Status != http.StatusForbidden || e.Needs != what || !strings.Contains(e.Error(), what) {
			t.Errorf("%v; want %s", e, what)
		}
	}
	// A hook that is not the repository's is the organization's: only that permission is missing.
	s.Grant(githubtest.Token, map[string]string{"repository_hooks": "write"})
	if _, err := c.Hook(t.Context(), repository, 1); refused(t, err).Needs != `"Webhooks of the organization" (read)` {
		t.Errorf("%v", err)
	}
	s.Grant(githubtest.Token, map[string]string{"metadata": "read", "statuses": "read"})
	if err := c.MayCreateStatus(t.Context(), repository); err == nil {
		t.Error("a token that may only read passes for one that may write")
	}
	s.Grant(githubtest.Token, nil)
	if err := errors.Join(c.MayCreateStatus(t.Context(), repository), c.MayCreateDeployment(t.Context(), repository)); err != nil {
		t.Error(err)
	}
	if len(s.Statuses())+len(s.Deployments()) != 0 {
		t.Error("asking what is allowed has created something")
	}
}

func TestClient_SendsNothingWhileALimitForbidsIt(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]githubtest.Failure{
		"retry after":          githubtest.SecondaryLimit(90),
		"message only":         githubtest.SecondaryLimit(0),
		"this clock is ahead":  {Status: http.StatusForbidden, Body: `{"message":"API rate limit exceeded"}`, Header: map[string]string{"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(time.Now().Add(-time.Minute).Unix())}},
		"this clock is behind": {Status: http.StatusForbidden, Body: `{"message":"API rate limit exceeded"}`, Header: map[string]string{"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(time.Now().Add(5 * time.Hour).Unix())}},
		"429":                  {Status: http.StatusTooManyRequests, Body: `{"message":"slow down"}`},
		"primary":              {Status: http.StatusForbidden, Body: `{"message":"API rate limit exceeded"}`, Header: map[string]string{"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(time.Now().Add(20 * time.Minute).Unix())}},
	} {
		s, c, clock := start(t, nil)
		f.Times = 1
		s.Fail(f)
		e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending))
		if !e.Temporary || e.Message == "" || !e.RetryAt.After(clock.now()) || e.RetryAt.After(clock.now().Add(time.Hour)) {
			t.Fatalf("%s: %+v", name, e)
		}
		again := refused(t, c.CreateStatus(t.Context(), repository, commit, pending))
		if !again.RetryAt.Equal(e.RetryAt) || len(s.Requests()) != 1 {
			t.Errorf("%s: %v; %d requests", name, again, len(s.Requests()))
		}
		clock.advance(e.RetryAt.Sub(clock.now()))
		if err := c.CreateStatus(t.Context(), repository, commit, pending); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClient_StopsWhenTheLastRequestIsUsed(t *testing.T) {
	t.Parallel()
	s, c, clock := start(t, func(s *githubtest.Server, _ *github.Options) { s.Limit = 2 })
	for range 2 {
		if err := c.CreateStatus(t.Context(), repository, commit, pending); err != nil {
			t.Fatal(err)
		}
	}
	if e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending)); !e.Temporary || len(s.Requests()) != 2 {
		t.Errorf("%v; %d requests", e, len(s.Requests()))
	}
	clock.advance(time.Hour + time.Second)
	if err := c.CreateStatus(t.Context(), repository, commit, pending); err != nil {
		t.Error(err)
	}
}

func TestClient_TellsWhatPassesFromWhatDoesNot(t *testing.T) {
	t.Parallel()
	for _, want := range []struct {
		status    int
		temporary bool
	}{{500, true}, {502, true}, {503, true}, {408, true}, {400, false}, {401, false}, {403, false}, {404, false}, {410, false}, {422, false}} {
		s, c, _ := start(t, nil)
		s.Fail(githubtest.Failure{Status: want.status, Body: `{"message":"no \u001b[31m` + githubtest.Token + `"}`})
		e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending))
		if e.Temporary != want.temporary || e.Status != want.status || strings.Contains(e.Message, "\x1b") {
			t.Errorf("%d: %+v", want.status, e)
		}
	}
	s, c, _ := start(t, nil)
	s.Fail(githubtest.Failure{Status: 502, Body: "<html>" + strings.Repeat("x", 5<<20)})
	if e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending)); !e.Temporary || len(e.Error()) > 500 {
		t.Errorf("%d bytes: %.100v", len(e.Error()), e)
	}
}

// A proxy in between answers all that it is asked with its own page.
func TestClient_APageIsNoAnswer(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	s.Fail(githubtest.Failure{Status: 200, Body: "<html>Log in to the network</html>", Header: map[string]string{"ETag": `"page"`}})
	_, err := c.Deployments(t.Context(), repository, "web", "")
	for _, err := range []error{err, c.CreateStatus(t.Context(), repository, commit, pending)} {
		if e := refused(t, err); !e.Temporary || !strings.Contains(e.Error(), "not the JSON") {
			t.Errorf("%v", e)
		}
	}
	s.Heal()
	if _, err := c.Deployments(t.Context(), repository, "web", ""); err != nil {
		t.Error(err)
	}
	if h := s.Requests()[2].Header; h.Get("If-None-Match") != "" {
		t.Error("the page is asked for again")
	}
}

func TestClient_FindsTheNextPageInEveryFormOfTheHeader(t *testing.T) {
	t.Parallel()
	for _, form := range []http.Header{
		{"Link": {`<%s>; rel="next"`}},
		{"Link": {`<%s>; rel=next`}},
		{"Link": {`<%s/first>; rel="prev", <%s>; rel="next", <%s/last>; rel="last"`}},
		{"Link": {`<%s/first>; rel="prev"`, `<%s>; rel="next"`}},
	} {
		for _, next := range []string{"/page2", "page2", "http://HOST/page2"} {
			var asked atomic.Pointer[string]
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if path := r.URL.Path; strings.HasSuffix(path, "/deliveries") {
					for _, line := range form["Link"] {
						w.Header().Add("Link", strings.ReplaceAll(line, "%s", strings.Replace(next, "HOST", r.Host, 1)))
					}
				} else {
					asked.Store(&path)
				}
				_, _ = fmt.Fprint(w, "[]")
			}))
			c, err := github.New(github.Options{APIURL: server.URL, Token: func() (string, error) { return githubtest.Token, nil }})
			if err != nil {
				t.Fatal(err)
			}
			h, err := c.Hook(t.Context(), repository, 1)
			if err == nil {
				_, err = c.Deliveries(t.Context(), h, time.Time{})
			}
			want := "/page2"
			if next == "page2" {
				want = "/repos/octo/web/hooks/1/page2"
			}
			if got := asked.Load(); err != nil || got == nil || *got != want {
				t.Errorf("%q of %s: %v, %v", form["Link"], next, got, err)
			}
			server.Close()
		}
	}
}

func TestClient_SilenceEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	s.Fail(githubtest.Failure{Silent: true})
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := make(chan error)
	go func() { asked <- c.CreateStatus(ctx, repository, commit, pending) }()
	testkit.Wait(t, "the request", func() bool { return len(s.Requests()) == 1 })
	cancel(errors.New("no answer within 20s"))
	if e := refused(t, <-asked); !e.Temporary || !strings.Contains(e.Error(), "no answer within 20s") {
		t.Errorf("%v", e)
	}
	s.Heal()
	s.Fail(githubtest.Failure{Lost: true, Times: 1})
	if e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending)); !e.Temporary || e.Status != 0 || len(s.Statuses()) != 1 {
		t.Errorf("%v; %d statuses", e, len(s.Statuses()))
	}
}

func TestClient_TakesTheTokenToNoOtherServer(t *testing.T) {
	t.Parallel()
	var stolen sync.Map
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen.Store(r.URL.Path, r.Header.Get("Authorization")) }))
	defer other.Close()
	for _, to := range []int{301, 302, 303, 307, 308} {
		s, c, _ := start(t, nil)
		s.Fail(githubtest.Failure{Status: to, Header: map[string]string{"Location": other.URL + "/elsewhere"}})
		if e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending)); e.Temporary || e.Status != to {
			t.Errorf("%d: %v", to, e)
		}
		if _, err := c.Deployments(t.Context(), repository, "", ""); refused(t, err).Status != to {
			t.Errorf("%d: %v", to, err)
		}
	}
	s, c, _ := start(t, nil)
	s.Fail(githubtest.Failure{Path: "deliveries", Status: 200, Body: `[]`, Header: map[string]string{"Link": `<` + other.URL + `/page2>; rel="next"`}})
	if _, err := c.Hook(t.Context(), repository, 1); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a page of another server: %v", err)
	}
	stolen.Range(func(path, token any) bool { t.Errorf("%s got %q", path, token); return true })
}

func TestClient_FollowsARenamedRepositoryWithTheSameRequest(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	s.Fail(githubtest.Failure{Method: "POST", Path: "/repos/octo/old/", Times: 1, Status: 307, Header: map[string]string{"Location": s.URL() + "/repos/octo/web/statuses/" + commit}})
	if err := c.CreateStatus(t.Context(), "octo/old", commit, pending); err != nil || len(s.Statuses()) != 1 {
		t.Errorf("%v; %+v", err, s.Statuses())
	}
	// A POST that would become a GET must not pass for one that succeeded.
	s.Fail(githubtest.Failure{Method: "POST", Path: "/repos/octo/old/", Times: 1, Status: 301, Header: map[string]string{"Location": s.URL() + "/repos/octo/web/deployments"}})
	if e := refused(t, c.CreateStatus(t.Context(), "octo/old", commit, pending)); e.Status != 301 || !strings.Contains(e.Error(), "renamed") {
		t.Errorf("%v", e)
	}
}

func TestClient_AsksForNamesAsTheyAre(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	for _, name := range []string{"", "octo", "octo/", "/web", "octo/..", "../web", "octo/web/x", "octo/web?x=1/.."} {
		if err := c.CreateStatus(t.Context(), name, commit, pending); err == nil {
			t.Errorf("%q is a repository", name)
		}
	}
	if n := len(s.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
	_ = c.CreateStatus(t.Context(), "oct o/web?x#y", commit, pending)
	if r := s.Requests(); len(r) != 1 || r[0].Path != "/repos/oct%20o/web%3Fx%23y/statuses/"+commit {
		t.Errorf("%+v", r)
	}
	if err := c.CreateStatus(t.Context(), repository, "../../x", pending); err == nil {
		t.Error("a path is a commit")
	}
}

func TestClient_Deployments(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	first, err := c.CreateDeployment(t.Context(), repository, commit, "web", "by ada")
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.CreateDeployment(t.Context(), repository, strings.Repeat("a", 40), "web", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{first.ID, second.ID} {
		for _, state := range []string{github.StateInProgress, github.StateSuccess} {
			if err := c.CreateDeploymentStatus(t.Context(), repository, id, github.DeploymentStatus{State: state, AutoInactive: true, EnvironmentURL: "https://web.example.com"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var states []string
	for _, d := range s.Deployments() {
		for _, st := range d.Statuses {
			states = append(states, st.State)
		}
	}
	if want := []string{"in_progress", "success", "inactive", "in_progress", "success"}; !slices.Equal(states, want) {
		t.Errorf("%v, want %v", states, want)
	}
	if found, err := c.Deployments(t.Context(), repository, "web", commit); err != nil || len(found) != 1 || found[0].ID != first.ID || found[0].SHA != commit {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestClient_AsksOnlyForWhatHasChanged(t *testing.T) {
	t.Parallel()
	s, c, _ := start(t, nil)
	if _, err := c.CreateDeployment(t.Context(), repository, commit, "web", ""); err != nil {
		t.Fatal(err)
	}
	var answers []int
	for range 2 {
		if found, err := c.Deployments(t.Context(), repository, "web", ""); err != nil || len(found) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
	}
	if _, err := c.CreateDeployment(t.Context(), repository, commit, "web", ""); err != nil {
		t.Fatal(err)
	}
	if found, err := c.Deployments(t.Context(), repository, "web", ""); err != nil || len(found) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, r := range s.Requests() {
		if r.Method == http.MethodGet {
			answers = append(answers, r.Status)
		}
	}
	if want := []int{200, 304, 200}; !slices.Equal(answers, want) {
		t.Errorf("%v, want %v", answers, want)
	}
}

func TestClient_DeliveriesOfEveryKindOfHook(t *testing.T) {
	t.Parallel()
	key := testKey(t)
	var got atomic.Int32
	listener := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-GitHub-Event") == "push" && strings.HasPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256=") {
			got.Add(1)
		}
	}))
	defer listener.Close()
	for _, of := range []string{"repos/octo/web", "orgs/octo", "app"} {
		s, c, clock := start(t, func(s *githubtest.Server, o *github.Options) {
			s.PageSize, s.Key = 3, &key.PublicKey
			if of == "app" {
				o.Token, o.AppID, o.Key = nil, githubtest.AppID, func() (*rsa.PrivateKey, error) { return key, nil }
			}
		})
		id := s.AddHook(githubtest.Hook{Of: of, URL: "http://127.0.0.1:1/", Secret: "x"})
		var guids []string
		for range 8 {
			guid, status := s.Deliver(id, "push", githubtest.PushBody(repository, "main", "", commit))
			if status != http.StatusBadGateway {
				t.Fatalf("a refused connection is %d", status)
			}
			guids = append(guids, guid)
			clock.advance(time.Minute)
		}
		h, err := c.Hook(t.Context(), repository, id)
		if err != nil {
			t.Fatal(err)
		}
		found, err := c.Deliveries(t.Context(), h, clock.now().Add(-5*time.Minute-time.Second))
		if err != nil || len(found) != 5 || found[0].GUID != guids[7] || found[4].GUID != guids[3] || found[0].StatusCode != 502 {
			t.Fatalf("%s: %+v, %v", of, found, err)
		}
		if push, err := c.Push(t.Context(), h, found[4].ID); err != nil || push != (github.Push{Repository: repository, Ref: "refs/heads/main", After: commit}) {
			t.Errorf("%s: %+v, %v", of, push, err)
		}
		s.Aim(id, listener.URL)
		before := got.Load()
		if err := c.Redeliver(t.Context(), h, found[4].ID); err != nil {
			t.Fatal(err)
		}
		testkit.Wait(t, "the second attempt", func() bool { return s.Attempts(guids[3]) == 2 })
		if got.Load() != before+1 {
			t.Errorf("%s: %d deliveries came", of, got.Load()-before)
		}
		again, err := c.Deliveries(t.Context(), h, clock.now().Add(-time.Hour))
		if err != nil || len(again) != 9 || again[0].GUID != guids[3] || !again[0].Redelivery || again[0].StatusCode != 200 {
			t.Errorf("%s: %+v, %v", of, again, err)
		}
		s.Close()
	}
}

func TestClient_AppRenewsItsTokens(t *testing.T) {
	t.Parallel()
	key := testKey(t)
	s, c, clock := start(t, func(s *githubtest.Server, o *github.Options) {
		s.Key = &key.PublicKey
		o.Token, o.AppID, o.Key = nil, githubtest.AppID, func() (*rsa.PrivateKey, error) { return key, nil }
	})
	tokens := func() (n int) {
		for _, r := range s.Requests() {
			if strings.HasSuffix(r.Path, "/access_tokens") {
				n++
			}
		}
		return n
	}
	for i, step := range []struct {
		do     func()
		tokens int
	}{
		{func() {}, 1},
		{func() { clock.advance(54 * time.Minute) }, 1},
		{func() { clock.advance(2 * time.Minute) }, 2}, // before its end
		{func() { clock.advance(30 * time.Hour) }, 3},
		{s.Revoke, 4}, // in mid-run
	} {
		step.do()
		if err := c.CreateStatus(t.Context(), repository, commit, pending); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if n := tokens(); n != step.tokens {
			t.Errorf("%d: %d tokens, want %d", i, n, step.tokens)
		}
	}
	stranger := testKey(t)
	_, other, _ := start(t, func(s *githubtest.Server, o *github.Options) {
		s.Key = &stranger.PublicKey
		o.Token, o.AppID, o.Key = nil, githubtest.AppID, func() (*rsa.PrivateKey, error) { return key, nil }
	})
	if e := refused(t, other.CreateStatus(t.Context(), repository, commit, pending)); e.Temporary || e.Status != http.StatusUnauthorized {
		t.Errorf("another App's key: %v", e)
	}
	s.Fail(githubtest.Failure{Path: "/installation$", Status: 404, Body: `{"message":"Not Found"}`})
	if e := refused(t, c.CreateStatus(t.Context(), "octo/other", commit, pending)); e.Temporary || !strings.Contains(e.Error(), "not installed") {
		t.Errorf("%v", e)
	}
}

func TestClient_NamesAClockThatIsWrong(t *testing.T) {
	t.Parallel()
	key := testKey(t)
	for ahead, want := range map[time.Duration]string{
		3 * time.Minute: "clock is 3m0s ahead of GitHub's", -time.Hour: "clock is 1h0m0s behind GitHub's", 30 * time.Second: "revoked",
	} {
		s, c, clock := start(t, func(_ *githubtest.Server, o *github.Options) {
			o.Token, o.AppID, o.Key = nil, githubtest.AppID, func() (*rsa.PrivateKey, error) { return key, nil }
		})
		now := clock.now().Truncate(time.Second)
		clock.advance(now.Sub(clock.now()))
		s.Fail(githubtest.Failure{Status: 401, Body: `{"message":"'Issued at' claim ('iat') must be an Integer"}`, Header: map[string]string{"Date": now.Add(-ahead).UTC().Format(http.TimeFormat)}})
		if e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending)); e.Temporary || !strings.Contains(e.Error(), want) {
			t.Errorf("%s: %v", ahead, e)
		}
	}
}

func TestError_IsOneLineWhateverGitHubSays(t *testing.T) {
	t.Parallel()
	body, _ := json.Marshal(map[string]any{"message": "a\nb\x1b[2J\u202e" + strings.Repeat("é", 400), "errors": []any{map[string]string{"message": "x\ty"}, "plain", 3}})
	s, c, _ := start(t, nil)
	s.Fail(githubtest.Failure{Status: 422, Body: string(body)})
	e := refused(t, c.CreateStatus(t.Context(), repository, commit, pending))
	if strings.ContainsAny(e.Error(), "\n\t\x1b\u202e") || len(e.Message) > 310 {
		t.Errorf("%q", e.Error())
	}
}

func testKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
