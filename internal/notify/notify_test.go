package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
)

// service is one that takes everything, or refuses all.
type service struct {
	mu     sync.Mutex
	status int
	got    []string
	*httptest.Server
}

func newService(t *testing.T) *service {
	s := &service{status: 200}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		var m struct{ Title, Message string }
		_ = json.Unmarshal(text, &m)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.status == 200 {
			s.got = append(s.got, m.Title+"\n"+m.Message)
		}
		w.WriteHeader(s.status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) answers(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// take returns the messages since the last call.
func (s *service) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

// world is a log, an outbox and a clock.
type world struct {
	t *testing.T
	*Notifier
	service *service
	now     time.Time
	events  []eventlog.Event
	bodies  map[string]eventlog.Payload
	box     map[string]outbox.Item
	clone   map[string]string // subjects by commit
}

func newWorld(t *testing.T, entries ...config.Notify) *world {
	w := &world{t: t, service: newService(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), bodies: map[string]eventlog.Payload{}, box: map[string]outbox.Item{}}
	for i := range entries {
		entries[i].Name = cmp.Or(entries[i].Name, "team")
		entries[i].URL = config.Secret("generic+" + w.service.URL + "/hook?template=json&disabletls=yes")
		if entries[i].Waiting == 0 {
			entries[i].Waiting = 15 * time.Minute
		}
	}
	w.Notifier = New(Options{
		Config: &config.Config{Instance: "box", Origin: "https://deploy.example.com", StateDir: t.TempDir(), Notify: entries},
		Log:    w, Logger: slog.New(slog.DiscardHandler),
		Owed: func(_ context.Context, prefix string) (list []outbox.Item, err error) {
			for key, item := range w.box {
				if strings.HasPrefix(key, prefix) {
					list = append(list, item)
				}
			}
			return list, nil
		},
		Subject: func(_ context.Context, _, commit string) string { return w.clone[commit] },
	})
	return w
}

// Find is as the log's.
func (w *world) Find(_ context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error] {
	return func(yield func(eventlog.Event, error) bool) {
		found := slices.DeleteFunc(slices.Clone(w.events), func(e eventlog.Event) bool { return !f.Match(e) })
		if f.Newest && len(found) > f.Limit {
			found = found[len(found)-f.Limit:]
		}
		for _, e := range found {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (w *world) Payload(_ context.Context, digest string) (eventlog.Payload, error) {
	p, ok := w.bodies[digest]
	if !ok {
		return p, eventlog.ErrNoPayload
	}
	return p, nil
}

// add appends an event; the fields are those of its data that matter.
func (w *world) add(delivery, slug string, data eventlog.Data) {
	raw, err := json.Marshal(data)
	if err != nil {
		w.t.Fatal(err)
	}
	e := eventlog.Event{
		Position: int64(len(w.events) + 1), Instance: "box", DeliveryID: delivery, Type: data.EventType(), Attempt: 1, Actor: "octocat",
		RecordedAt: w.now, Data: append([]byte(`{"v":1,`), raw[1:]...),
	}
	if slug != "" {
		e.Deployment = &slug
	}
	w.events = append(w.events, e)
}

// owe puts into the outbox what the events from one on give.
func (w *world) owe(from int) {
	w.t.Helper()
	items, err := w.Owe(w.t.Context(), w.events[from:])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, item := range items {
		w.box[item.Key] = item
	}
}

// event appends, and owes.
func (w *world) event(delivery, slug string, data eventlog.Data) {
	w.t.Helper()
	w.add(delivery, slug, data)
	w.owe(len(w.events) - 1)
}

// send sends what is due, in the order of the log, and returns what the service got.
func (w *world) send() []string {
	w.t.Helper()
	for _, item := range slices.SortedFunc(mapsValues(w.box), func(a, b outbox.Item) int { return cmp.Compare(a.Position, b.Position) }) {
		if item.NotBefore.After(w.now) {
			continue
		}
		if err := w.Send(w.t.Context(), item); err != nil {
			w.t.Fatal(err)
		}
		delete(w.box, item.Key)
	}
	return w.service.take()
}

func mapsValues[K comparable, V any](m map[K]V) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

func titles(got []string) string {
	list := make([]string, len(got))
	for i, text := range got {
		list[i], _, _ = strings.Cut(text, "\n")
	}
	return strings.Join(list, "; ")
}

func exits(code int) eventlog.Failed {
	return eventlog.Failed{Commit: strings.Repeat("c0ffee00", 5), Step: "build", ExitCode: &code, Error: "exit status", OutputTail: "make: all\nmake: *** Error 2\n"}
}

func TestOwe_AFailureSaysAllThatIsNeeded(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnFailed}})
	w.bodies["d1"] = eventlog.Payload{ContentType: "application/json", Body: []byte(`{"commits":[{"id":"` + exits(0).Commit + `","message":"Say @everyone\n\nmore"}]}`)}
	w.add("delivery-1", "", eventlog.Received{Commit: exits(0).Commit, PayloadDigest: "d1", PayloadSize: 100})
	w.event("delivery-1", "web", exits(2))
	want := `web: the deploy failed
The deploy of web failed with exit code 2 in the step build
The error: exit status
Commit c0ffee00c0ff Say @everyone
By octocat
Deployer: box, 2026-03-01 12:00 UTC
More: https://deploy.example.com/deliveries/delivery-1
To try it again: durhack-deployer replay delivery-1 --reason "..." --deployment web
The last lines:
make: all
make: *** Error 2`
	if got := w.send(); len(got) != 1 || got[0] != want {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n---\n"), want)
	}
	w.event("delivery-3", "web", eventlog.Failed{Error: "it was interrupted three times"})
	if got := w.send(); len(got) != 1 || !strings.Contains(got[0], "\nThe deploy of web failed.\nThe error: it was interrupted three times\nBy octocat\n") {
		t.Errorf("got %q", got)
	}
	w.event("delivery-2", "web", eventlog.Failed{Step: "test", Signal: "SIGKILL", Error: "was killed"})
	if got := w.send(); len(got) != 1 || !strings.Contains(got[0], "The deploy of web was ended by SIGKILL in the step test\nThe error: was killed\nBy octocat\n") {
		t.Errorf("got %q", got)
	}
}

// A run that somebody canceled was not ended by a signal, and its step is not at fault.
func TestOwe_ARunThatWasCanceledSaysByWhom(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnFailed, config.OnRecovered}})
	f := eventlog.Failed{Commit: "c0ffee00", Step: "build", Signal: "SIGTERM", Error: "canceled by sam: the wrong one"}
	w.clone = map[string]string{f.Commit: "Deployed by hand"}
	w.add("1", "web", eventlog.Canceled{Reason: "the wrong one"})
	w.events[0].Actor = "sam"
	w.event("1", "web", f)
	got := w.send()
	if len(got) != 1 || !strings.HasPrefix(got[0], "web: the deploy was canceled\nThe deploy of web was canceled in the step build\nWhy: canceled by sam: the wrong one\nCommit c0ffee00 Deployed by hand\n") {
		t.Errorf("got %q", got)
	}
	w.event("2", "web", f) // by itself: another failure
	w.event("3", "web", eventlog.Deployed{})
	w.add("4", "web", eventlog.Canceled{})
	w.event("4", "web", f)
	w.event("5", "web", eventlog.Deployed{})
	if got = w.send(); titles(got) != "web: the deploy failed; web: works again; web: the deploy was canceled; web: works again" ||
		!strings.Contains(got[1], "The one before had failed in the step build") || !strings.Contains(got[3], "The one before was canceled in the step build") {
		t.Errorf("got %q", got)
	}
}

// The first success after a failure is told of once, also by what is read of the log
// alone, as after a start.
func TestOwe_RecoveredIsTheFirstSuccessAfterAFailure(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnRecovered}}, config.Notify{Name: "all", On: []string{config.OnDeployed, config.OnRecovered}})
	ok := eventlog.Deployed{Commit: "c1", DurationMS: 1234}
	w.event("1", "web", ok)
	w.event("2", "api", exits(1))
	w.event("3", "web", ok)
	w.event("4", "web", exits(1))
	w.event("5", "web", eventlog.Voided{Reason: "stale"})
	w.event("6", "web", ok)
	w.event("7", "web", ok)
	got := w.send()
	if titles(got) != "web: deployed; web: deployed; web: works again; web: works again; web: deployed" {
		t.Errorf("got %s", titles(got))
	}
	ok.PreviousCommit = ok.Commit
	w.event("8", "web", exits(1))
	w.event("9", "web", ok)
	if back := w.send(); len(back) != 2 || !strings.Contains(back[0], "That is the commit that was live before; the one that failed is not live.") {
		t.Errorf("what is put back: %q", back)
	}
	if !strings.Contains(got[2], "The deploy of web works again, and took 1.2s. The one before had failed in the step build\nCommit c1\n") {
		t.Errorf("got %s", got[2])
	}
}

func TestOwe_OnlyThoseAreToldWhoWantIt(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnFailed}, Deployments: []string{"api"}}, config.Notify{Name: "b", On: []string{config.OnInterrupted}})
	w.event("1", "web", exits(1))
	w.event("2", "api", exits(1))
	w.event("3", "web", eventlog.Interrupted{Detail: "it was found without an end", Then: "retry"})
	w.event("4", "api", eventlog.Interrupted{Detail: "it was found without an end", Then: "fail"})
	w.event("5", "api", eventlog.Deployed{})
	got := w.send()
	if titles(got) != "api: the deploy failed; web: the deploy was interrupted; api: the deploy was interrupted" ||
		!strings.Contains(got[1], "It is tried again by itself.") || !strings.Contains(got[2], "durhack-deployer replay 4 ") {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}

// Who was told that it works again is told at once that it does not.
func TestOwe_AFailureAfterASuccessIsAnotherOne(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnFailed}})
	for i, step := range []struct {
		data eventlog.Data
		want string
	}{
		{exits(1), "web: the deploy failed"}, {exits(1), ""}, {eventlog.Deployed{}, ""}, {exits(1), "web: the deploy failed"}, {exits(1), ""},
	} {
		w.now = time.Date(2026, 3, 1, 12, i, 0, 0, time.UTC)
		w.event(fmt.Sprint(i), "web", step.data)
		if got := titles(w.send()); got != step.want {
			t.Errorf("event %d: got %q, want %q", i, got, step.want)
		}
	}
	w.now = time.Date(2026, 3, 1, 13, 10, 0, 0, time.UTC)
	if got := titles(w.send()); got != "web: the deploy failed once more; web: the deploy failed once more" {
		t.Errorf("at the end of both hours: got %q", got)
	}
}

// The first failure is told of at once; those of the same step within the hour after it
// are one message at the hour's end, with the newest; another step is another failure.
func TestOwe_TheSameFailureAgainIsOneMessageWithACount(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnFailed}})
	other := exits(1)
	other.Step = "test"
	var got []string
	// Each failure, in minutes after the first, and the messages that are sent by then.
	for i, step := range []struct {
		at   int
		data eventlog.Failed
		want string
	}{
		{0, exits(1), "web: the deploy failed"},
		{10, exits(1), ""},
		{20, other, "web: the deploy failed"},
		{30, exits(3), ""},
		{59, exits(7), ""},
		{60, exits(8), "web: the deploy failed 3 more times; web: the deploy failed"}, // a new hour
		{79, other, ""},
		{80, exits(1), "web: the deploy failed once more"}, // of the other step
		{125, exits(1), "web: the deploy failed once more; web: the deploy failed"},
		{300, exits(1), "web: the deploy failed"}, // nothing to sum up in between
	} {
		w.now = time.Date(2026, 3, 1, 12, step.at, 0, 0, time.UTC)
		w.event(fmt.Sprint(i), "web", step.data)
		messages := w.send()
		if titles(messages) != step.want {
			t.Errorf("%d minutes: got %q, want %q", step.at, titles(messages), step.want)
		}
		got = append(got, messages...)
	}
	if !strings.Contains(got[2], "The same failure has come 3 more times within the hour since 2026-03-01 12:00 UTC. The last one:\nThe deploy of web failed with exit code 7") ||
		!strings.Contains(got[2], "durhack-deployer replay 4 ") {
		t.Errorf("the sum is %s", got[2])
	}
}

// The same events, in one batch or one by one, and again after a crash before they were
// noted, give the same.
func TestOwe_IsTheSameHoweverTheLogIsRead(t *testing.T) {
	one, other := newWorld(t, config.Notify{On: []string{config.OnFailed, config.OnRecovered}}), newWorld(t, config.Notify{On: []string{config.OnFailed, config.OnRecovered}})
	for i := range 30 {
		for _, w := range []*world{one, other} {
			w.now = w.now.Add(7 * time.Minute)
			if i%5 == 4 {
				w.add(fmt.Sprint(i), "web", eventlog.Deployed{Commit: "c"})
			} else {
				w.add(fmt.Sprint(i), "web", exits(i%3))
			}
		}
		if _, err := one.Owe(t.Context(), one.events[i:]); err != nil { // which is lost
			t.Fatal(err)
		}
		one.owe(i)
	}
	other.owe(0)
	a, _ := json.Marshal(one.box)
	b, _ := json.Marshal(other.box)
	if !bytes.Equal(a, b) || len(one.box) < 8 {
		t.Errorf("one by one:\n%s\nall at once:\n%s", a, b)
	}
}

func TestSend_SaysWhatIsRefusedAndForgetsWhoIsGone(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnFailed}})
	w.event("1", "web", exits(1))
	var item outbox.Item
	for key, i := range w.box {
		if !strings.HasPrefix(key, windowKey) {
			item = i
		}
	}
	w.service.answers(404)
	if err := w.Send(t.Context(), item); !outbox.IsRefused(err) {
		t.Errorf("the error is %v", err)
	}
	w.service.answers(500)
	if err := w.Send(t.Context(), item); err == nil || outbox.IsRefused(err) {
		t.Errorf("the error is %v", err)
	}
	w.o.Config.Notify = nil
	if err := w.Send(t.Context(), item); err != nil {
		t.Errorf("the error is %v", err)
	}
}

// look makes so many looks, 15 s apart, and returns the titles of what was told.
func (w *world) look(c *watch, looks int, list ...Condition) []string {
	for range looks {
		w.now = w.now.Add(lookEvery)
		c.turn(w.t.Context(), w.now, list, nil)
	}
	return w.service.take()
}

func TestWatch_EachConditionIsToldOnceUntilItIsOver(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnStopped, config.OnTampered}})
	c := w.newWatch()
	router := Condition{What: config.OnStopped, Key: "router", Text: "router:", Quoted: "a hole at 7"}
	mirror := Condition{What: config.OnStopped, Key: "mirror", Text: "mirror:", Quoted: "no space"}
	tampered := Condition{What: config.OnTampered, Key: "log", Text: "The signer says:", Quoted: "refused to sign"}
	for _, step := range []struct {
		what  string
		looks int
		now   []Condition
		want  string
	}{
		{"it fails once, and is started again", 1, []Condition{router}, ""},
		{"it works", 5, nil, ""},
		{"it stands", 10, []Condition{router}, "box: a part of the deployer stands"},
		{"another one, too", 10, []Condition{router, mirror}, "box: a part of the deployer stands"},
		{"they seem to work for a moment", over - 1, nil, ""},
		{"they do not", 10, []Condition{router, mirror}, ""},
		{"they do", over, nil, ""},
		{"both stand, and are told of in one", 10, []Condition{router, mirror}, "box: a part of the deployer stands"},
		{"tampering is told of at once", 1, []Condition{router, mirror, tampered}, "box: the log was tampered with"},
	} {
		got := w.look(c, step.looks, step.now...)
		if titles(got) != step.want {
			t.Errorf("%s: got %q, want %q", step.what, titles(got), step.want)
		}
		c = w.newWatch() // as after a start
	}
	c.list = nil
	got := w.look(c, 2, router, mirror)
	if len(got) != 1 || !strings.Contains(got[0], "router: a hole at 7\nmirror: no space\nTo see more: durhack-deployer doctor") {
		t.Errorf("got %q", got)
	}
}

func TestWatch_AServiceThatIsDownIsToldLater(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnTampered}})
	c := w.newWatch()
	tampered := Condition{What: config.OnTampered, Key: "log", Text: "The signer says:", Quoted: "refused to sign"}
	w.service.answers(503)
	if got := w.look(c, 20, tampered); len(got) > 0 {
		t.Errorf("got %q", got)
	}
	if troubles, err := Troubles(w.o.Config.StateDir); err != nil || len(troubles) != 1 || troubles[0].State != "owed" || troubles[0].Scope != "team" || !strings.Contains(troubles[0].Error, "503") {
		t.Errorf("the troubles are %v, %v", troubles, err)
	}
	w.service.answers(200)
	if got := w.look(w.newWatch(), 100, tampered); titles(got) != "box: the log was tampered with" {
		t.Errorf("got %q", got)
	}
	if troubles, err := Troubles(w.o.Config.StateDir); err != nil || len(troubles) > 0 {
		t.Errorf("the troubles are %v, %v", troubles, err)
	}
	for status, state := range map[int]string{404: "refused", 500: "given_up"} {
		c = newWorldLike(w).newWatch()
		w.service.answers(status)
		for range 3 { // days
			w.look(c, 1, tampered)
			w.now = w.now.Add(24 * time.Hour)
		}
		if troubles, err := Troubles(c.o.Config.StateDir); err != nil || len(troubles) != 1 || troubles[0].State != state {
			t.Errorf("%d: the troubles are %v, %v", status, troubles, err)
		}
		w.service.answers(200)
		if got := w.look(c, 10, tampered); len(got) > 0 {
			t.Errorf("%s, and told all the same: %q", state, got)
		}
	}
}

// newWorldLike is the same with another state_dir.
func newWorldLike(w *world) *world {
	other := *w
	cfg := *w.o.Config
	cfg.StateDir = w.t.TempDir()
	o := w.o
	o.Config = &cfg
	other.Notifier = New(o)
	return &other
}

func TestWatch_WhatWaitsIsToldOnceADelivery(t *testing.T) {
	w := newWorld(t, config.Notify{On: []string{config.OnWaiting}, Deployments: []string{"web"}}, config.Notify{Name: "late", On: []string{config.OnWaiting}, Waiting: time.Hour})
	c := w.newWatch()
	since := w.now
	waits := func(key, slug string) Condition {
		return Condition{What: config.OnWaiting, Deployment: slug, Delivery: key, Key: key, Since: since, Text: key + " of " + slug + " waits"}
	}
	if got := w.look(c, 59, waits("1", "web"), waits("2", "api")); len(got) > 0 {
		t.Errorf("after a quarter of an hour: %q", got)
	}
	if got := w.look(c, 100, waits("1", "web"), waits("2", "api")); titles(got) != "box: a push waits" || !strings.Contains(got[0], "1 of web waits\nTo see why: durhack-deployer why 1") {
		t.Errorf("after it: %q", got)
	}
	if got := w.look(c, 100, waits("1", "web"), waits("2", "api")); titles(got) != "box: a push waits" || !strings.Contains(got[0], "1 of web waits\n2 of api waits\n") {
		t.Errorf("after an hour: %q", got)
	}
	// Where it cannot be told what waits, nothing is over.
	for range over {
		c.turn(t.Context(), w.now, nil, []string{config.OnWaiting})
	}
	if got := w.look(c, 10, waits("1", "web"), waits("2", "api")); len(got) > 0 {
		t.Errorf("again: %q", got)
	}
	var many []Condition
	for i := range 50 {
		many = append(many, waits(fmt.Sprint("m", i), "web"))
	}
	if got := w.look(c, 10, many...); len(got) != 2 || !strings.Contains(got[0], "m9 of web waits\n... and 40 more\n") {
		t.Errorf("many: %q", got)
	}
	if info, err := os.Stat(standingPath(w.o.Config.StateDir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
}
