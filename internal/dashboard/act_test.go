package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

const (
	first  = "1111111111111111111111111111111111111111"
	second = "2222222222222222222222222222222222222222"
)

// office is a desk, with a router, read models, and nobody who deploys.
type office struct {
	t      *testing.T
	cfg    *config.Config
	log    *eventlog.Log
	models *projections.Projector
	logins Logins
	url    string
	remote string // who connects to it
	away   error  // instead of who may act
}

func openOffice(t *testing.T, set func(*config.Config)) *office {
	t.Helper()
	t.Parallel()
	quiet := slog.New(slog.DiscardHandler)
	pool := pgtest.Migrated(t)
	log := eventlog.Open(pool, quiet)
	t.Cleanup(log.Close)
	s := &office{t: t, log: log, logins: Logins{Pool: pool, Instance: "www1"}, remote: "127.0.0.1:5"}
	s.cfg = &config.Config{Instance: "www1", StateDir: t.TempDir(), Deployments: map[string]*config.Deployment{
		"hello": {Slug: "hello", Repository: "octo/hello", Branch: "main", Enabled: true},
		"off":   {Slug: "off", Repository: "octo/off", Branch: "main"},
	}}
	if set != nil {
		set(s.cfg)
	}
	main, err := queue.Open(filepath.Join(s.cfg.StateDir, "queues", "main"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	watched, err := router.Watch(main)
	if err != nil {
		t.Fatal(err)
	}
	models := projections.New(pool, log, quiet)
	s.models = models
	routing := router.New(router.Options{Instance: "www1", Queue: watched, Log: log, Rules: func() []router.Rule { return router.Rules(s.cfg) }, Logger: quiet})
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = models.Run(ctx) })
	parts.Go(func() { _ = routing.Run(ctx) })
	t.Cleanup(func() {
		stop()
		parts.Wait()
		_ = watched.Close()
		_ = main.Close()
	})
	desk := NewDesk(DeskOptions{
		Config: s.cfg, Log: quiet,
		Logins: func() (Logins, error) { return s.logins, s.away },
		Person: func(name string) (*act.Person, error) {
			return &act.Person{
				Name: name, Config: s.cfg, Log: log, Models: models,
				Commit: func(_ context.Context, _ *config.Deployment, ref string) (string, error) {
					if ref == "" {
						ref = second
					}
					return ref, nil
				},
				Enqueue: func(ctx context.Context, d delivery.Delivery) error {
					_, err := main.Put(ctx, d.ID, d.EncodeTo)
					return err
				},
				Sign:    func(context.Context) error { return nil },
				Command: func(args ...string) string { return strings.Join(append([]string{"durhack-deployer"}, args...), " ") },
			}, nil
		},
		Tell: func(w http.ResponseWriter, _ *http.Request, code int, template, title string, data any) {
			w.WriteHeader(code)
			_, _ = fmt.Fprintf(w, "%s: %s: ", template, title)
			encoder := json.NewEncoder(w)
			encoder.SetEscapeHTML(false)
			_ = encoder.Encode(data)
		},
	})
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said := "nothing"
		if s := SaidIn(r); s != nil {
			said = s.Text
		}
		_, _ = fmt.Fprintf(w, "as %q, said %s", desk.Actor(r), said)
	})
	around := desk.Around(pages)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = s.remote
		around.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// answer is what a browser gets.
type answered struct {
	*http.Response
	body string
}

// ask sends a request, with headers as "Name: value", once the read models are up to
// the log: a person is not made to wait for them for long.
func (s *office) ask(method, path string, form url.Values, headers ...string) answered {
	s.t.Helper()
	if _, err := s.models.Await(s.t.Context(), time.Minute); err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Content-Type" {
			req.Header.Del(name)
		}
		req.Header.Add(name, value)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answered{resp, string(body)}
}

// login logs a browser in, and returns the header that it sends from then on.
func (s *office) login(headers ...string) (cookie string) {
	s.t.Helper()
	page := s.ask("POST", "/login", url.Values{"token": {newToken(s.t, s.logins)}}, headers...)
	if page.StatusCode != http.StatusSeeOther || len(page.Cookies()) != 1 {
		s.t.Fatalf("the login answers %s: %s", page.Status, page.body)
	}
	return "Cookie: " + page.Cookies()[0].Name + "=" + page.Cookies()[0].Value
}

// append appends transitions of hello's.
func (s *office) append(id string, attempt int, data ...eventlog.Data) {
	s.t.Helper()
	for _, d := range data {
		slug := "hello"
		if d.EventType() == eventlog.TypeReceived {
			slug = ""
		}
		_, err := s.log.Append(s.t.Context(), eventlog.Group{Transitions: []eventlog.Transition{{Instance: "www1", DeliveryID: id, Deployment: slug, Attempt: attempt, Actor: "octocat", Data: d}}})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// deployed has hello deployed twice, by deploys by hand; it returns the deliveries.
func (s *office) deployed(cookie string) (ids []string) {
	s.t.Helper()
	for _, commit := range []string{first, second} {
		page := s.ask("POST", "/deployments/hello/deploy", url.Values{"ref": {commit}}, cookie)
		if page.StatusCode != http.StatusSeeOther {
			s.t.Fatalf("deploy answers %s: %s", page.Status, page.body)
		}
		to, err := page.Location()
		if err != nil {
			s.t.Fatal(err)
		}
		id := to.Query().Get("delivery")
		s.wait(id, eventlog.TypeForwarded)
		s.append(id, 1, eventlog.Started{Commit: commit, Plan: []string{"fetch"}}, eventlog.Deployed{Commit: commit})
		ids = append(ids, id)
	}
	return ids
}

// wait waits for an event of a delivery.
func (s *office) wait(id string, of eventlog.Type) {
	s.t.Helper()
	testkit.Wait(s.t, string(of)+" of "+id, func() bool {
		return slices.ContainsFunc(s.events(0), func(e eventlog.Event) bool { return e.DeliveryID == id && e.Type == of })
	})
}

// events are those behind a position.
func (s *office) events(after int64) (events []eventlog.Event) {
	s.t.Helper()
	events, err := s.log.Read(s.t.Context(), after, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

func (s *office) head() int64 {
	s.t.Helper()
	head, err := s.log.Head(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return head
}

func told(events []eventlog.Event) string {
	var lines []string
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%s %s by %s", e.Type, e.DeploymentSlug(), e.Actor))
	}
	return strings.Join(lines, "; ")
}

func TestDesk_EachActIsOneEventOfThePerson(t *testing.T) {
	s := openOffice(t, nil)
	cookie := s.login()
	ids := s.deployed(cookie)
	because := url.Values{"reason": {"  because  "}}
	with := func(pairs ...string) url.Values {
		form := url.Values{"reason": {"because"}}
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		return form
	}
	for _, step := range []struct {
		path string
		form url.Values
		want string // events
		said string
		then func()
	}{
		{"/deployments/hello/freeze", because, "frozen hello by alex", "It is frozen", nil},
		{"/deployments/hello/thaw", because, "thawed hello by alex", "It is thawed", nil},
		{"/deployments/hello/pin", with("live", second), "pinned hello by alex", "It is pinned to 22222222", nil},
		{"/deployments/hello/unpin", because, "unpinned hello by alex", "It is unpinned: the next", nil},
		{"/deployments/hello/rollback", with("to", first), "pinned hello by alex; received  by alex; forwarded hello by alex", "It is pinned to 11111111, and", func() {
			id := s.events(s.head() - 1)[0].DeliveryID
			s.append(id, 1, eventlog.Started{Commit: first, Plan: []string{"fetch"}}, eventlog.Deployed{Commit: first})
		}},
		{"/deployments/hello/deploy", with("override", "1"), "received  by alex; forwarded hello by alex", "The deploy of 22222222 is ordered", func() {
			id := s.events(s.head() - 1)[0].DeliveryID
			s.append(id, 1, eventlog.Started{Commit: first, Plan: []string{"fetch"}})
			ids = append(ids, id)
		}},
		{"/deliveries/RUNNING/cancel", with("deployment", "hello", "attempt", "1"), "canceled hello by alex", "The run is canceled", func() {
			s.append(ids[2], 1, eventlog.Failed{Commit: second, Step: "fetch", Error: "canceled"})
		}},
		{"/deliveries/RUNNING/replay", because, "replayed  by alex", "The replay is ordered", nil},
	} {
		from := s.head()
		path := step.path
		if len(ids) > 2 {
			path = strings.Replace(path, "RUNNING", ids[2], 1)
		}
		page := s.ask("POST", path, step.form, cookie)
		if page.StatusCode != http.StatusSeeOther {
			t.Fatalf("%s answers %s: %s", path, page.Status, page.body)
		}
		count := strings.Count(step.want, ";") + 1
		testkit.Wait(t, "the events of "+path, func() bool { return s.head() >= from+int64(count) })
		if got := told(s.events(from)); got != step.want {
			t.Errorf("%s appended %s, and not %s", path, got, step.want)
		}
		for _, e := range s.events(from) {
			if data := string(e.Data); e.Type != eventlog.TypeReceived && e.Type != eventlog.TypeForwarded && !strings.Contains(data, `"because"`) {
				t.Errorf("%s kept %s", path, data)
			}
		}
		if shown := s.ask("GET", page.Header.Get("Location"), nil, cookie); !strings.Contains(shown.body, `as "alex"`) || !strings.Contains(shown.body, step.said) {
			t.Errorf("after %s, %s says: %s", path, page.Header.Get("Location"), shown.body)
		}
		if step.then != nil {
			step.then()
		}
	}
}

// A freeze may end by itself, and may be of all deployments.
func TestDesk_FreezesForAWhileAndAll(t *testing.T) {
	s := openOffice(t, nil)
	cookie := s.login()
	from := s.head()
	for _, post := range []struct {
		path, lasts, page string
		code              int
	}{
		{"/deployments/hello/freeze", "4h", "/deployments/hello?said=freeze", 303},
		{"/freeze", "", "/?said=freeze-all", 303},
		{"/thaw", "", "/?said=thaw-all", 303},
		{"/thaw", "", "", 409},
		{"/freeze", "4h0m", "", 400},
		{"/deployments/hello/freeze", "-1h", "", 400},
	} {
		page := s.ask("POST", post.path, url.Values{"reason": {"because"}, "for": {post.lasts}, "deployment": {"hello"}}, cookie)
		if page.StatusCode != post.code || page.Header.Get("Location") != post.page {
			t.Errorf("%s for %q: %s, %q, %s", post.path, post.lasts, page.Status, page.Header.Get("Location"), page.body)
		}
	}
	events := s.events(from)
	if got := told(events); got != "frozen hello by alex; frozen  by alex; thawed  by alex" {
		t.Fatalf("there is %s", got)
	}
	for i, lasts := range []time.Duration{4 * time.Hour, 0} {
		data, err := events[i].Decode()
		if err != nil {
			t.Fatal(err)
		}
		until := data.(eventlog.Frozen).Until
		if off := until.Sub(events[i].RecordedAt) - lasts; lasts == 0 && !until.IsZero() || lasts > 0 && off.Abs() > time.Minute {
			t.Errorf("freeze %d of %s ends at %s", i, events[i].RecordedAt, until)
		}
	}
}

func TestDesk_Refuses(t *testing.T) {
	s := openOffice(t, func(cfg *config.Config) { cfg.Admin.UserHeader = "X-Remote-User" })
	cookie := s.login()
	name, _, _ := strings.Cut(cookie, "=")
	because := url.Values{"reason": {"because"}}
	const freeze = "/deployments/hello/freeze"
	from := s.head()
	for _, test := range []struct {
		name, method, path string
		form               url.Values
		headers            []string
		remote             string
		code               int
		says               string
	}{
		{name: "who has no session", code: 403, says: "durhack-deployer login"},
		{name: "a forged cookie", headers: []string{name + "=" + strings.Repeat("A", 43)}, code: 403, says: "durhack-deployer login"},
		{name: "an empty cookie", headers: []string{name + "="}, code: 403, says: "durhack-deployer login"},
		{name: "a long cookie", headers: []string{name + "=" + strings.Repeat("A", 8000)}, code: 403, says: "durhack-deployer login"},
		{name: "another site, with the cookie", headers: []string{cookie, "Sec-Fetch-Site: cross-site"}, code: 403, says: "came from another site"},
		{name: "a neighbour of the site", headers: []string{cookie, "Sec-Fetch-Site: same-site"}, code: 403, says: "came from another site"},
		{name: "another origin, of an old browser", headers: []string{cookie, "Origin: https://evil.example"}, code: 403, says: "came from another site"},
		{name: "another site that names the user", headers: []string{"X-Remote-User: alex", "Sec-Fetch-Site: cross-site"}, code: 403, says: "came from another site"},
		{name: "a header of another host", headers: []string{"X-Remote-User: alex"}, remote: "192.0.2.7:5", code: 403, says: "durhack-deployer login"},
		{name: "a header of another host that says that it was forwarded", headers: []string{"X-Remote-User: alex", "X-Forwarded-For: 127.0.0.1"}, remote: "[2001:db8::1]:5", code: 403, says: "durhack-deployer login"},
		{name: "an empty header", headers: []string{"X-Remote-User: "}, code: 403, says: "durhack-deployer login"},
		{name: "two headers", headers: []string{"X-Remote-User: alex", "X-Remote-User: root"}, code: 403, says: "durhack-deployer login"},
		{name: "a header that turns letters around", headers: []string{"X-Remote-User: \u202Exela"}, code: 403, says: "durhack-deployer login"},
		{name: "another method", method: "PUT", headers: []string{cookie}, code: 405, says: "Nothing can be done here"},
		{name: "a page that takes no post", path: "/", headers: []string{cookie}, code: 405, says: "Nothing can be done here"},
		{name: "no reason", form: url.Values{"reason": {" \x00 "}}, headers: []string{cookie}, code: 400, says: "The reason is missing"},
		{name: "a long reason", form: url.Values{"reason": {strings.Repeat("é", 501)}}, headers: []string{cookie}, code: 400, says: "The reason is too long"},
		{name: "a long form", form: url.Values{"reason": {strings.Repeat("a", 20000)}}, headers: []string{cookie}, code: 413, says: "This is too long"},
		{name: "another kind of form", headers: []string{cookie, "Content-Type: multipart/form-data; boundary=x"}, code: 415, says: "no form of the dashboard"},
		{name: "an unknown deployment", path: "/deployments/hell/freeze", headers: []string{cookie}, code: 404, says: "One of: hello, off."},
		{name: "a disabled deployment", path: "/deployments/off/deploy", headers: []string{cookie}, code: 409, says: "Set enabled = true"},
		{name: "what is not frozen", path: "/deployments/hello/thaw", headers: []string{cookie}, code: 409, says: `"hello is not frozen"`},
		{name: "what is not pinned", path: "/deployments/hello/unpin", headers: []string{cookie}, code: 409, says: `"hello is not pinned"`},
		{name: "where nothing is live", path: "/deployments/hello/pin", headers: []string{cookie}, code: 409, says: "`durhack-deployer freeze hello --reason ...` lets pushes wait"},
		{name: "where nothing was live", path: "/deployments/hello/rollback", headers: []string{cookie}, code: 409, says: "nothing to go back to"},
		{name: "an unknown delivery", path: "/deliveries/nothing/replay", headers: []string{cookie}, code: 400, says: "has no delivery"},
		{name: "what does not run", path: "/deliveries/nothing/cancel", form: url.Values{"deployment": {"hello"}}, headers: []string{cookie}, code: 409, says: `"Nothing runs at hello"`},
		{name: "where nothing runs", path: "/deployments/hello/cancel", headers: []string{cookie}, code: 409, says: `"Nothing runs at hello"`},
		{name: "a token that was made up", path: "/login", form: url.Values{"token": {"x"}}, code: 403, says: "`durhack-deployer login` prints another one"},
		{name: "no link", method: "GET", path: "/login", code: 403, says: "It takes a link to log in"},
		{name: "a link that was made up", method: "GET", path: "/login?token=x", code: 403, says: "`durhack-deployer login` prints another one"},
		{name: "a login from another site", path: "/login", form: url.Values{"token": {newToken(t, s.logins)}}, headers: []string{"Sec-Fetch-Site: cross-site"}, code: 403, says: "came from another site"},
	} {
		if test.method == "" {
			test.method = "POST"
		}
		if test.path == "" {
			test.path = freeze
		}
		if test.form == nil {
			test.form = because
		}
		if s.remote = "127.0.0.1:5"; test.remote != "" {
			s.remote = test.remote
		}
		page := s.ask(test.method, test.path, test.form, test.headers...)
		if page.StatusCode != test.code || !strings.Contains(page.body, test.says) || len(page.Cookies()) > 0 {
			t.Errorf("%s: %s, %s", test.name, page.Status, page.body)
		}
	}
	if got := told(s.events(from)); got != "" {
		t.Errorf("and yet there is %s", got)
	}
}

func TestDesk_LinkIsOnlyOffered(t *testing.T) {
	s := openOffice(t, nil)
	token := newToken(t, s.logins)
	for range 3 { // as programs do that look at links
		if page := s.ask("GET", "/login?token="+token, nil); page.StatusCode != 200 || len(page.Cookies()) > 0 || !strings.Contains(page.body, "login: Log in as alex") {
			t.Fatalf("the link shows %s: %s", page.Status, page.body)
		}
	}
	form := url.Values{"token": {token}}
	if page := s.ask("POST", "/login", form); page.StatusCode != http.StatusSeeOther || page.Header.Get("Location") != "/" {
		t.Fatalf("the login answers %s: %s", page.Status, page.body)
	}
	if page := s.ask("POST", "/login", form); page.StatusCode != http.StatusForbidden {
		t.Errorf("the second use of the token answers %s", page.Status)
	}
}

func TestDesk_Cookie(t *testing.T) {
	s := openOffice(t, nil)
	for _, test := range []struct {
		name, remote string
		headers      []string
		secure       bool
	}{
		{"on loopback", "127.0.0.1:5", nil, false},
		{"by a proxy with TLS", "127.0.0.1:5", []string{"X-Forwarded-Proto: https"}, true},
		{"by a proxy without", "[::1]:5", []string{"X-Forwarded-Proto: http"}, false},
		{"by another host that says TLS", "192.0.2.7:5", []string{"X-Forwarded-Proto: https"}, false},
	} {
		s.remote = test.remote
		page := s.ask("POST", "/login", url.Values{"token": {newToken(t, s.logins)}}, test.headers...)
		cookie := page.Cookies()[0]
		if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Domain != "" || cookie.MaxAge != 24*60*60 ||
			cookie.Secure != test.secure || strings.HasPrefix(cookie.Name, "__Host-") != test.secure {
			t.Errorf("%s: %s", test.name, cookie)
		}
	}
}

func TestDesk_Sessions(t *testing.T) {
	s := openOffice(t, nil)
	// Whoever plants a cookie in a browser does not get the session that it logs in to.
	name, _, _ := strings.Cut(strings.TrimPrefix(s.login(), "Cookie: "), "=")
	planted := "Cookie: " + name + "=" + strings.Repeat("A", 43)
	own := s.login(planted)
	if strings.Contains(own, strings.Repeat("A", 43)) {
		t.Error("a cookie that was planted became a session")
	}
	actor := func(cookie string) string { return s.ask("GET", "/", nil, cookie).body }
	if got := actor(planted); !strings.Contains(got, `as ""`) {
		t.Errorf("the planted cookie is shown a page %s", got)
	}
	// Two browsers have a session each, and one ends its own.
	other := s.login()
	if page := s.ask("POST", "/logout", url.Values{}, own); page.StatusCode != http.StatusSeeOther || page.Cookies()[0].MaxAge >= 0 {
		t.Errorf("the logout answers %s and sets %v", page.Status, page.Cookies())
	}
	if mine, its := actor(own), actor(other); !strings.Contains(mine, `as ""`) || !strings.Contains(its, `as "alex"`) {
		t.Errorf("after the logout of one, pages are shown %s and %s", mine, its)
	}
	// A second login of a browser ends its first session.
	if third := s.login(other); !strings.Contains(actor(third), `as "alex"`) || !strings.Contains(actor(other), `as ""`) {
		t.Error("a browser has two sessions")
	}
}

func TestDesk_UserOfAProxy(t *testing.T) {
	s := openOffice(t, func(cfg *config.Config) { cfg.Admin.UserHeader = "X-Remote-User" })
	page := s.ask("POST", "/deployments/hello/freeze", url.Values{"reason": {"because"}}, "X-Remote-User: sam@example.org", "Sec-Fetch-Site: same-origin")
	if got := told(s.events(0)); page.StatusCode != http.StatusSeeOther || got != "frozen hello by sam@example.org" {
		t.Errorf("%s, and appended %s", page.Status, got)
	}
	if page := s.ask("GET", "/", nil, "X-Remote-User: sam@example.org"); !strings.Contains(page.body, `as "sam@example.org"`) {
		t.Errorf("the page is shown %s", page.body)
	}
	if page := s.ask("POST", "/logout", url.Values{}, "X-Remote-User: sam@example.org"); page.StatusCode != http.StatusConflict || !strings.Contains(page.body, "log out there") {
		t.Errorf("the logout answers %s: %s", page.Status, page.body)
	}
	// Without the key, the header is one like any other.
	s.cfg.Admin.UserHeader = ""
	if page := s.ask("GET", "/", nil, "X-Remote-User: sam@example.org"); !strings.Contains(page.body, `as ""`) {
		t.Errorf("the page is shown %s", page.body)
	}
}

func TestDesk_SecondClickDoesNothing(t *testing.T) {
	s := openOffice(t, nil)
	cookie := s.login()
	s.deployed(cookie)
	from := s.head()
	for _, click := range []struct {
		path string
		form url.Values
		want string
	}{
		{"/deployments/hello/pin", url.Values{"id": {act.NewID(time.Now())}, "reason": {"because"}}, "pinned hello by alex"},
		{"/deployments/hello/unpin", url.Values{"id": {act.NewID(time.Now())}, "reason": {"because"}}, "unpinned hello by alex"},
		{"/deployments/hello/rollback", url.Values{"id": {act.NewID(time.Now())}, "reason": {"because"}, "to": {first}}, "pinned hello by alex; received  by alex; forwarded hello by alex"},
	} {
		from = s.head()
		var pages [2]answered
		var group sync.WaitGroup
		for i := range pages {
			group.Go(func() { pages[i] = s.ask("POST", click.path, click.form, cookie) })
		}
		group.Wait()
		for _, page := range pages {
			if page.StatusCode != http.StatusSeeOther || page.Header.Get("Location") != pages[0].Header.Get("Location") {
				t.Errorf("%s: %s, %s, %s", click.path, page.Status, page.Header.Get("Location"), page.body)
			}
		}
		count := strings.Count(click.want, ";") + 1
		testkit.Wait(t, "the events of "+click.path, func() bool { return s.head() >= from+int64(count) })
		if got := told(s.events(from)); got != click.want {
			t.Errorf("two clicks on %s appended %s", click.path, got)
		}
	}
}

// A page may be old: what it showed is meant, and not what has come since.
func TestDesk_OldPage(t *testing.T) {
	s := openOffice(t, nil)
	cookie := s.login()
	ids := s.deployed(cookie)
	to, err := s.ask("POST", "/deployments/hello/deploy", url.Values{"ref": {second}}, cookie).Location()
	if err != nil {
		t.Fatal(err)
	}
	running := to.Query().Get("delivery")
	s.wait(running, eventlog.TypeForwarded)
	s.append(running, 1, eventlog.Started{Commit: second, Plan: []string{"fetch"}})
	from := s.head()
	for _, old := range []struct {
		path string
		form url.Values
		says string
	}{
		{"/deployments/hello/pin", url.Values{"live": {first}}, "222222222222 is live at hello meanwhile, and not 111111111111"},
		{"/deliveries/" + ids[1] + "/cancel", url.Values{"deployment": {"hello"}, "attempt": {"1"}}, "This run of hello has ended, and another one goes on"},
		{"/deliveries/" + running + "/cancel", url.Values{"deployment": {"hello"}, "attempt": {"2"}}, "This run of hello has ended, and another one goes on"},
	} {
		old.form.Set("reason", "because")
		if page := s.ask("POST", old.path, old.form, cookie); page.StatusCode != http.StatusConflict || !strings.Contains(page.body, old.says) {
			t.Errorf("%s answers %s: %s", old.path, page.Status, page.body)
		}
	}
	if got := told(s.events(from)); got != "" {
		t.Errorf("and yet there is %s", got)
	}
}

// Who has a session is not told to log in where the database is away.
func TestDesk_DatabaseIsAway(t *testing.T) {
	s := openOffice(t, nil)
	cookie := s.login()
	s.away = errors.New("waiting for the database: connection refused")
	if page := s.ask("POST", "/deployments/hello/freeze", url.Values{"reason": {"because"}}, cookie); page.StatusCode != http.StatusServiceUnavailable || !strings.Contains(page.body, "Waiting for the database") {
		t.Errorf("%s: %s", page.Status, page.body)
	}
	if page := s.ask("GET", "/login?token=x", nil); page.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the link answers %s: %s", page.Status, page.body)
	}
	if page := s.ask("GET", "/", nil, cookie); page.StatusCode != http.StatusOK || !strings.Contains(page.body, `as ""`) {
		t.Errorf("the page answers %s: %s", page.Status, page.body)
	}
}

// A form that is sent again after a restart, when nobody remembers it, is known from the log.
func TestDesk_FormThatIsInTheLog(t *testing.T) {
	s := openOffice(t, nil)
	cookie := s.login()
	form := url.Values{"id": {act.NewID(time.Now())}}
	s.append(form.Get("id"), 1, eventlog.Received{Event: "push", Source: eventlog.SourceCLI})
	from := s.head()
	page := s.ask("POST", "/deployments/hello/deploy", form, cookie)
	if page.StatusCode != http.StatusSeeOther || page.Header.Get("Location") != "/deployments/hello?said=before" {
		t.Errorf("%s to %s: %s", page.Status, page.Header.Get("Location"), page.body)
	}
	entries, err := queue.List(s.cfg.QueueDir("main"))
	if err != nil || len(entries) > 0 || s.head() != from {
		t.Errorf("%d entries, and events %s: %v", len(entries), told(s.events(from)), err)
	}
}

func TestDesk_TooMuchAtOnce(t *testing.T) {
	t.Parallel()
	var counts tallies
	now := time.Unix(600, 0)
	for i := range actsAMinute + 1 {
		if ok := counts.allow("alex", now); ok != (i < actsAMinute) {
			t.Errorf("act %d: %v", i+1, ok)
		}
	}
	if !counts.allow("sam", now) || !counts.allow("alex", now.Add(time.Minute)) {
		t.Error("others, or the next minute, are refused, too")
	}
}

func TestSaidIn_SaysOnlyWhatIsKnown(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"": "", "said=hacked": "", "said=<b>deploy</b>": "",
		"said=deploy&commit=evil+text&delivery=../../x": "The deploy is ordered.",
		"said=deploy&commit=" + first + "&delivery=01":  "The deploy of 11111111 is ordered. 01",
	} {
		said := SaidIn(httptest.NewRequest("GET", "/?"+strings.NewReplacer("<", "%3C", ">", "%3E").Replace(query), nil))
		got := ""
		if said != nil {
			got = strings.TrimSpace(said.Text + " " + said.Delivery)
		}
		if got != want {
			t.Errorf("%s says %q", query, got)
		}
	}
}

// viewed is a page of the world, as somebody sees it who may act, or "" who may not.
func (w *world) viewed(actor, path string) string {
	w.t.Helper()
	desk := NewDesk(DeskOptions{Config: w.cfg, Log: slog.New(slog.DiscardHandler), Tell: w.handler.Tell})
	w.cfg.Admin.UserHeader = "X-Remote-User"
	w.handler.o.Actor, w.handler.o.Actions = desk.Actor, desk.Actions
	r := httptest.NewRequestWithContext(w.t.Context(), "GET", path, nil)
	r.RemoteAddr = "127.0.0.1:5"
	if actor != "" {
		r.Header.Set("X-Remote-User", actor)
	}
	page := httptest.NewRecorder()
	desk.Around(w.handler).ServeHTTP(page, r)
	return page.Body.String()
}

var button = regexp.MustCompile(`action="([^"]+)"|name="(deployment|attempt|to|live|override)" value="([^"]*)"`)

func TestPages_ButtonsAreWhatCanBeDone(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for _, test := range []struct {
		path string
		want string
	}{
		{"/deployments/web", "deploy rollback to=" + hash("web-24") + " pin live=" + hash("web-24") + " freeze"},
		{"/deployments/api", "cancel attempt=1 deployment=api deploy pin live=" + hash("api-1") + " freeze"},
		{"/deployments/docs", "deploy override=1 unpin thaw"},
		{"/deployments/idle", "deploy freeze"},
		{"/deployments/off", ""},
		{"/deployments/far?instance=www2", ""},
		{"/deliveries/web-bad", "replay deployment=web"},
		{"/deliveries/api-2", "cancel attempt=1 deployment=api"},
		{"/deliveries/ping-1", "replay deployment="},
		{"/deliveries/far-1", ""},
	} {
		var got []string
		for _, m := range button.FindAllStringSubmatch(w.viewed("alex", test.path), -1) {
			switch {
			case m[1] == "/logout", strings.HasPrefix(m[1], "/log"):
			case m[1] != "":
				got = append(got, path.Base(m[1]))
			default:
				got = append(got, m[2]+"="+m[3])
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s offers %q, and not %q", test.path, strings.Join(got, " "), test.want)
		}
		if page := w.viewed("", test.path); strings.Contains(page, `method="post"`) {
			t.Errorf("%s offers something to a reader", test.path)
		}
	}
	// What somebody went back from is no way back.
	w.deploy("idle-1", "idle", "One", "")
	w.deploy("idle-2", "idle", "Two", hash("idle-1"))
	order := eventlog.Order{Branch: "main", Commit: hash("idle-1"), Rule: "r", ConfigDigest: hash("c")}
	w.append(nil, of("back", "idle", 1, eventlog.Pinned{Commit: order.Commit, Reason: "because"}), of("back", "idle", 1, eventlog.Forwarded{Order: order}))
	w.append(nil, of("back", "idle", 1, eventlog.Started{Commit: order.Commit, PreviousCommit: hash("idle-2"), Host: "h", Plan: []string{"fetch"}, RunLog: "/l"}))
	w.append(nil, of("back", "idle", 1, eventlog.Deployed{Commit: order.Commit, PreviousCommit: hash("idle-2"), Steps: twoSteps}))
	w.project()
	if page := w.viewed("alex", "/deployments/idle"); strings.Contains(page, "/rollback") || !strings.Contains(page, "/unpin") {
		t.Errorf("after a rollback the page is %s", page)
	}
	if page := w.viewed("alex", "/deployments/web?said=freeze"); !strings.Contains(page, "It is frozen") || !strings.Contains(page, "signed in as <b>alex</b>") {
		t.Errorf("the page after an act is %s", page)
	}
	if page := w.viewed(hostile[:40], "/"); strings.Contains(page, "<script>alert") {
		t.Error("a name of the proxy's is not escaped")
	}
}
