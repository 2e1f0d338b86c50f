package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
)

// site is a world with GitHub, and a listener that is up or down.
type site struct {
	*world
	hub      *githubtest.Server
	client   *github.Client
	listener *httptest.Server
	hook     int64
	came     []string
}

const nowhere = "http://127.0.0.1:1/github-webhook"

func newSite(t *testing.T, instance string) *site {
	t.Helper()
	s := &site{world: newWorld(t, openLog(t), instance)}
	s.hub = &githubtest.Server{Now: s.clock, PageSize: 4}
	if err := s.hub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.listener = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var push struct{ After string }
		_ = json.Unmarshal(body, &push)
		s.came = append(s.came, push.After)
		if event := r.Header.Get("X-GitHub-Event"); event == "push" {
			s.received(r.Header.Get("X-GitHub-Delivery"), push.After, eventlog.SourceGitHub, r.Header.Get("X-GitHub-Hook-ID"), "web")
		}
	}))
	t.Cleanup(s.listener.Close)
	t.Cleanup(s.hub.Close) // first: it still sends
	var err error
	s.client, err = github.New(github.Options{APIURL: s.hub.URL(), Token: func() (string, error) { return githubtest.Token, nil }, Now: s.clock})
	if err != nil {
		t.Fatal(err)
	}
	s.hook = s.hub.AddHook(githubtest.Hook{Of: "repos/octo/web", URL: s.listener.URL, Secret: "x"})
	return s
}

func (s *site) up()   { s.hub.Aim(s.hook, s.listener.URL) }
func (s *site) down() { s.hub.Aim(s.hook, nowhere) }

func (s *site) push(n int) (guid string) {
	guid, _ = s.hub.Deliver(s.hook, "push", githubtest.PushBody("octo/web", "main", commit(n-1), commit(n)))
	s.pass(time.Minute)
	return guid
}

func (s *site) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// deliveries are new, as after a restart.
func (s *site) deliveries() *Deliveries {
	o := s.options()
	o.Sleep = func(ctx context.Context, d time.Duration) bool {
		s.hub.Wait()
		s.pass(d)
		return ctx.Err() == nil
	}
	return NewDeliveries(DeliveriesOptions{Options: o, GitHub: s.client, Deployments: []Branch{{"web", "octo/web", "main"}, {"docs", "octo/web", "main"}}})
}

// look is what Run does each time; it returns what failed.
func (s *site) look(d *Deliveries) []string {
	s.t.Helper()
	lost, failed, err := d.Look(context.Background(), time.Time{})
	if err != nil {
		s.t.Fatal(err)
	}
	more, err := d.Ask(context.Background(), lost)
	if err != nil {
		s.t.Fatal(err)
	}
	s.hub.Wait()
	s.pass(every)
	var all []string
	for _, err := range append(failed, more...) {
		all = append(all, err.Error())
	}
	return all
}

func (s *site) tips() (all []string) {
	for n := range 20 {
		if slices.Contains(s.came, commit(n)) {
			all = append(all, fmt.Sprint(n))
		}
	}
	return all
}

func TestDeliveries_MissedPushesComeInOrder(t *testing.T) {
	s := newSite(t, "one")
	s.push(1)
	s.down()
	var guids []string
	for n := range 6 { // more than a page
		guids = append(guids, s.push(2+n))
	}
	s.hub.Deliver(s.hook, "issues", []byte(`{}`))
	s.up()
	s.came = nil
	d := s.deliveries()
	if failed := s.look(d); len(failed) != 0 {
		t.Fatalf("%q", failed)
	}
	want := []string{commit(2), commit(3), commit(4), commit(5), commit(6), commit(7)}
	if !slices.Equal(s.came, want) || d.Again() != 6 || !d.Asked(guids[0]) || d.Asked("another") {
		t.Errorf("came: %q, want %q", s.came, want)
	}
	for _, again := range []*Deliveries{d, s.deliveries()} {
		if s.look(again); len(s.came) != 6 {
			t.Errorf("sent again though it came: %q", s.came)
		}
	}
}

// Nobody takes it: three times in all, however often the daemon starts, and then no more.
func TestDeliveries_AreAskedForThreeTimes(t *testing.T) {
	s := newSite(t, "one")
	s.push(1)
	s.down()
	guids := []string{s.push(2), s.push(3), s.push(4)}
	d := s.deliveries()
	for i := range 8 {
		if i%3 == 2 {
			d = s.deliveries()
		}
		s.look(d)
	}
	for _, guid := range guids {
		if n := s.hub.Attempts(guid); n != 1+maxAsked {
			t.Errorf("%s was sent %d times", guid, n)
		}
	}
	lost, _, err := d.Look(t.Context(), s.now.Add(-48*time.Hour))
	if err != nil || len(lost) != 3 || !lost[0].Exhausted() || lost[0].Answer != "502 failed to connect" {
		t.Errorf("%+v, %v", lost, err)
	}
}

// While nobody takes them, not every one of many is spent on it.
func TestDeliveries_AreKeptWhileNobodyTakesThem(t *testing.T) {
	s := newSite(t, "one")
	s.push(1)
	s.down()
	for n := range 5 {
		s.push(2 + n)
	}
	d := s.deliveries()
	if failed := s.look(d); len(failed) != 2 || !strings.Contains(failed[0], "is the listener reached") {
		t.Errorf("%q", failed)
	}
	if d.Again() != 2 {
		t.Errorf("%d were asked for", d.Again())
	}
	s.up()
	s.came = nil
	s.look(d)
	if want := []string{"2", "3", "4", "5", "6"}; !slices.Equal(s.tips(), want) || s.came[0] != commit(2) {
		t.Errorf("came: %q", s.came)
	}
}

// One that GitHub does not send again keeps no other from being sent.
func TestDeliveries_GoOnAfterOneThatGitHubRefuses(t *testing.T) {
	s := newSite(t, "one")
	s.push(1)
	s.down()
	for n := range 3 {
		s.push(2 + n)
	}
	s.up()
	s.came = nil
	d := s.deliveries()
	lost, _, err := d.Look(t.Context(), time.Time{})
	if err != nil || len(lost) != 3 {
		t.Fatalf("%+v, %v", lost, err)
	}
	s.hub.Fail(githubtest.Failure{Path: fmt.Sprintf("/%d/attempts$", lost[0].id), Status: http.StatusUnprocessableEntity, Body: `{"message":"Validation Failed"}`})
	if failed := s.look(d); len(failed) != 1 || !strings.Contains(failed[0], "Validation Failed") || !slices.Equal(s.came, []string{commit(3), commit(4)}) {
		t.Errorf("%q; came %q", failed, s.came)
	}
}

func TestDeliveries_OlderThanGitHubKeepsThemAreGone(t *testing.T) {
	s := newSite(t, "one")
	s.push(1)
	s.down()
	s.push(2)
	s.pass(Kept)
	s.push(3)
	s.up()
	s.came = nil
	if s.look(s.deliveries()); !slices.Equal(s.came, []string{commit(3)}) {
		t.Errorf("came: %q", s.came)
	}
}

// A look asks for no more than since the last one, as long as nothing is owed.
func TestDeliveries_AskForWhatIsNew(t *testing.T) {
	s := newSite(t, "one")
	for n := range 12 {
		s.push(1 + n)
	}
	d := s.deliveries()
	pages := func() (n int) {
		for _, r := range s.hub.Requests() {
			if strings.Contains(r.Path, "per_page=100") || strings.Contains(r.Path, "cursor") {
				n++
			}
		}
		return n
	}
	s.look(d)
	first := pages()
	s.look(d)
	s.look(d)
	if later := pages() - first; first < 3 || later > 3 {
		t.Errorf("%d pages at first, then %d", first, later)
	}
}

func TestDeliveries_SayWhatGitHubRefuses(t *testing.T) {
	s := newSite(t, "one")
	s.push(1)
	s.down()
	s.push(2)
	s.hub.Grant(githubtest.Token, map[string]string{"statuses": "write"})
	d := s.deliveries()
	if failed := s.look(d); len(failed) != 1 || !strings.Contains(failed[0], `it needs the permission "Webhooks" (read and write), or "Webhooks of the organization" (read and write)`) || len(d.Troubles()) != 1 {
		t.Errorf("%q; %q", failed, d.Troubles())
	}
	s.hub.Grant(githubtest.Token, map[string]string{"repository_hooks": "read"})
	if failed := s.look(d); len(failed) != 1 || !strings.Contains(failed[0], `it needs the permission "Webhooks" (read and write)`) {
		t.Errorf("%q", failed)
	}
	s.hub.Grant(githubtest.Token, nil)
	s.hub.Fail(githubtest.SecondaryLimit(60))
	if failed := s.look(d); len(failed) != 1 {
		t.Errorf("%q", failed)
	}
	s.hub.Heal()
	s.up()
	s.came = nil
	if failed := s.look(d); len(failed) != 0 || len(d.Troubles()) != 0 || !slices.Equal(s.came, []string{commit(2)}) {
		t.Errorf("%q; %q; came %q", failed, d.Troubles(), s.came)
	}
}

// Whoever deletes a webhook and adds another has no trouble as long as the log remembers the first.
func TestDeliveries_WebhookThatWasReplacedIsNoTrouble(t *testing.T) {
	s := newSite(t, "one")
	s.received("by the first", commit(1), eventlog.SourceGitHub, "12345", "web")
	s.push(2)
	s.down()
	s.push(3)
	s.up()
	s.came = nil
	d := s.deliveries()
	if failed := s.look(d); len(failed) != 0 || len(d.Troubles()) != 0 || !slices.Equal(s.came, []string{commit(3)}) {
		t.Errorf("%q; %q; came %q", failed, d.Troubles(), s.came)
	}
}

// A made-up hook ID, a deploy by hand and a deployment without any push lead to no hook.
func TestDeliveries_KnowTheWebhooksOfTheLog(t *testing.T) {
	s := newSite(t, "one")
	if failed := s.look(s.deliveries()); len(failed) != 0 || len(s.hub.Requests()) != 0 {
		t.Errorf("%q, %d requests", failed, len(s.hub.Requests()))
	}
	for i, hook := range []string{"", "-3", "../../x", "99999999999999999999"} {
		s.received(fmt.Sprint("d-", i), commit(i), eventlog.SourceGitHub, hook, "docs")
	}
	if failed := s.look(s.deliveries()); len(failed) != 0 || len(s.hub.Requests()) != 0 {
		t.Errorf("%q, %d requests", failed, len(s.hub.Requests()))
	}
	s.received("made-up", commit(9), eventlog.SourceGitHub, "12345", "web")
	if failed := s.look(s.deliveries()); len(failed) != 1 || !strings.Contains(failed[0], "404") {
		t.Errorf("%q", failed)
	}
}
