package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func TestMirror_WritesAFileForEachAssignment(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	defer stop()
	s.append(t,
		eventlog.Transition{DeliveryID: "a", Attempt: 1, Data: eventlog.Received{}},
		forwarded("a", "web", 1), forwarded("a", "docs", 1))
	s.append(t, forwarded("b", "web", 1))
	other := forwarded("x", "web", 1)
	other.Instance = "another"
	s.append(t, other)
	s.append(t, redelivered("b", 1, 2, "web"))
	s.append(t, replayed("a", 3, "web", "docs"))
	s.append(t, forwarded("c", "retired", 1)) // not configured: still owed
	s.caughtUp(t, m)
	s.expectFiles(t, "docs a 1", "docs a 3", "retired c 1", "web a 1", "web b 1", "web b 2", "web a 3")
	stop()
	if _, err := os.Stat(filepath.Join(s.dir, "main")); !errors.Is(err, os.ErrNotExist) {
		t.Error("it touched the main queue")
	}
}

func TestEntryHoldsWhatTheWorkerNeeds(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	defer stop()
	event := s.append(t, forwarded("a", "web", 1))[0]
	s.caughtUp(t, m)
	raw, err := os.ReadFile(filepath.Join(s.dir, "web", event.ID+"_a.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"v":1,"position":1,"event_id":%q,"delivery_id":"a","cause":"forwarded","actor":"sam",`+
		`"deployment":"web","attempt":1,"branch":"main","commit":%q,"rule":"r","config_digest":"c","forced":true}`+"\n", event.ID, sha)
	if string(raw) != want {
		t.Errorf("entry\n%s\nwant\n%s", raw, want)
	}
}

// Read models that are behind, up to date, or not built make no difference to a start:
// what they do not know is folded from the log.
func TestMirror_StartsFromWhatTheReadModelsKnow(t *testing.T) {
	s := newSite(t)
	p := projections.New(s.pool, s.log, quiet)
	start := func(want ...string) {
		t.Helper()
		m, stop := s.run(t)
		defer stop()
		s.caughtUp(t, m)
		s.expectFiles(t, want...)
	}
	s.append(t, forwarded("old", "web", 1))
	s.append(t, forwarded("a", "web", 1))
	s.append(t, forwarded("b", "web", 1))
	start("web old 1", "web a 1", "web b 1")
	if err := p.Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.work(t, "web")
	s.append(t, forwarded("c", "docs", 1))
	start("docs c 1", "web a 1", "web b 1")
	if err := p.Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	start("docs c 1", "web a 1", "web b 1")
	if state, err := p.Resume(t.Context(), s.instance); err != nil || state.Position() != s.head(t) || len(state.Deliveries("")) != 3 {
		t.Errorf("resumed at %d with %v: %v", state.Position(), state.Deliveries(""), err)
	}
}

// A directory that is gone, or was made again without what it held, is noticed
// at the start; so is a file that is missing, cut short or changed.
func TestMirror_StartNoticesWhatWasLost(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	for i := range 5 {
		s.append(t, forwarded(fmt.Sprint("d-", i), "web", 1), forwarded(fmt.Sprint("d-", i), "docs", 1))
	}
	s.append(t, forwarded("d-0", "retired", 1))
	s.caughtUp(t, m)
	stop()
	s.work(t, "web")
	want := s.files(t)
	if len(want) != 10 {
		t.Fatalf("queues hold %q", want)
	}
	path := func(slug string) string { return filepath.Join(s.dir, slug) }
	losses := map[string]func() error{
		"one directory":         func() error { return os.RemoveAll(path("web")) },
		"all directories":       func() error { return os.RemoveAll(s.dir) },
		"content, made again":   func() error { return errors.Join(os.RemoveAll(path("web")), os.Mkdir(path("web"), 0o750)) },
		"not configured, empty": func() error { return errors.Join(os.RemoveAll(path("retired")), os.Mkdir(path("retired"), 0o750)) },
		"a file":                func() error { return os.Remove(first(t, path("web"))) },
		"a file's end":          func() error { return os.Truncate(first(t, path("web")), 0) },
		"a file's content": func() error {
			raw, err := os.ReadFile(first(t, path("web")))
			return errors.Join(err, os.WriteFile(first(t, path("web")), bytes.Replace(raw, []byte(sha), []byte(strings.Repeat("e", 40)), 1), 0o640))
		},
	}
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			s.close()
			if err := lose(); err != nil {
				t.Fatal(err)
			}
			m, stop := s.run(t)
			defer stop()
			testkit.Wait(t, "it has begun", func() bool { return m.Position() > 0 })
			s.caughtUp(t, m)
			s.expectFiles(t, want...)
		})
	}
}

// A push to many deployments holds up no other: between two of its files the log is
// read, and whatever has come gets its turn.
func TestMirror_HandsOutDeliveriesInTurns(t *testing.T) {
	const many = 64
	s := newSite(t)
	var all []eventlog.Transition
	for i := range many {
		all = append(all, forwarded("many", fmt.Sprintf("fan-%02d", i), 1))
	}
	s.append(t, all...)
	s.append(t, forwarded("one", "web", 1))
	var events []eventlog.Event
	for e, err := range s.log.Find(t.Context(), eventlog.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	second := make(chan struct{})
	log := &scriptedLog{Log: s.log, batches: [][]eventlog.Event{events[:many], events[many:]}, begun: func(batch int) {
		if batch == 1 {
			close(second)
		}
	}}
	o := s.mirror().o
	o.Log, o.Slugs = log, nil
	var opened []string
	open := o.OpenQueue
	o.OpenQueue = func(slug string) (*queue.Queue, error) {
		<-second // it is there before the first file of many
		opened = append(opened, slug)
		return open(slug)
	}
	// Nothing is known of the deliveries at the start.
	o.Resume = func(context.Context, string) (*projections.State, error) { return projections.NewState(), nil }
	m := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	testkit.Wait(t, "the mirror has caught up", func() bool { return m.Position() == many+1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if at := slices.Index(opened, "web"); at < 0 || at > many/2 || len(opened) != many+1 {
		t.Errorf("the other delivery came as number %d of %d", at+1, len(opened))
	}
}

// What is written for a deployment is written in the order of the log, whichever
// delivery has the turn: its worker takes the first file that it sees.
func TestTurns_KeepTheOrderWithinADeployment(t *testing.T) {
	entry := func(delivery, slug string) Entry {
		return Entry{DeliveryID: delivery, Assignment: eventlog.Assignment{Deployment: slug}}
	}
	var todo turns
	todo.look([]string{"seen"})
	for _, slug := range []string{"a", "b", "c", "d"} {
		todo.add(entry("many", slug))
	}
	todo.add(entry("hand", "d"))
	todo.add(entry("other", "web"))
	var got []string
	for todo.any() {
		slug, changed, look := todo.next()
		for _, e := range changed {
			got = append(got, e.DeliveryID+" "+slug)
		}
		if look {
			got = append(got, slug)
		}
	}
	want := []string{"many a", "many d", "hand d", "other web", "many b", "many c", "seen"}
	if !slices.Equal(got, want) {
		t.Errorf("turns\n%q\nwant\n%q", got, want)
	}
}

// A queue that cannot be made does not hold up the others, and is what it should
// be once it can.
func TestQueueThatCannotBeMadeStopsNoOther(t *testing.T) {
	s := newSite(t)
	s.append(t, forwarded("a", "web", 1), forwarded("a", "docs", 1))
	web := filepath.Join(s.dir, "web")
	if err := errors.Join(os.Mkdir(s.dir, 0o750), os.WriteFile(web, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	m, stop := s.run(t)
	defer stop()
	s.append(t, forwarded("b", "web", 1), forwarded("b", "docs", 1))
	s.caughtUp(t, m)
	s.expectFiles(t, "docs a 1", "docs b 1")
	if err := s.mirror().Rebuild(t.Context()); err == nil || !strings.Contains(err.Error(), "queue web: ") {
		t.Errorf("a rebuild says %v", err)
	}
	if err := os.Remove(web); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the queue is made", func() bool { return len(s.files(t)) == 4 })
	s.append(t, forwarded("c", "web", 1))
	s.caughtUp(t, m)
	s.expectFiles(t, "docs a 1", "docs b 1", "web a 1", "web b 1", "web c 1")
}

func first(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file in %s: %v", dir, err)
	}
	return files[0]
}

// While the daemon runs, a lost directory must not keep the others waiting.
func TestDirectoryLostWhileRunning(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	defer stop()
	s.append(t, forwarded("a", "web", 1), forwarded("a", "docs", 1))
	s.caughtUp(t, m)
	if err := os.RemoveAll(filepath.Join(s.dir, "web")); err != nil {
		t.Fatal(err)
	}
	s.append(t, forwarded("b", "web", 1), forwarded("b", "docs", 1))
	s.caughtUp(t, m)
	s.expectFiles(t, "docs a 1", "docs b 1", "web a 1", "web b 1")
}

func TestRebuildMakesTheQueuesExact(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	s.append(t, forwarded("a", "web", 1), forwarded("a", "docs", 1))
	s.append(t, forwarded("b", "web", 1))
	s.caughtUp(t, m)
	stop()
	// Ended, but the process died before it removed the file.
	s.append(t, deployed("a", "web", 1))
	q, err := s.open("web")
	if err != nil {
		t.Fatal(err)
	}
	plant := func(delivery, content string) {
		t.Helper()
		id := ulid.Make()
		content = strings.ReplaceAll(content, "ID", id.String())
		_, err := q.PutAs(context.Background(), id, delivery, func(w io.Writer) error { _, err := io.WriteString(w, content); return err })
		if err != nil {
			t.Fatal(err)
		}
	}
	plant("junk", "{")
	plant("b", `{"v":1,"position":3,"event_id":"ID","delivery_id":"b","cause":"forwarded","deployment":"web","attempt":1}`)   // no such event
	plant("b", `{"v":1,"position":999,"event_id":"ID","delivery_id":"b","cause":"forwarded","deployment":"web","attempt":2}`) // of a longer log
	plant("b", `{"v":1,"position":3,"event_id":"ID","delivery_id":"b","cause":"forwarded","deployment":"docs","attempt":1}`)  // of another queue
	plant("c", `{"v":1,"position":3,"event_id":"ID","delivery_id":"b","cause":"forwarded","deployment":"web","attempt":1}`)   // under another name
	if err := s.mirror().Rebuild(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.expectFiles(t, "docs a 1", "web b 1")
	if names := quarantined(t, s, "web"); len(names) != 5 {
		t.Errorf("in quarantine: %q", names)
	}
}

// Entries that another instance ordered wait for it.
func TestEntriesOfAnotherInstanceAreLeftAlone(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	s.append(t, forwarded("a", "web", 1))
	s.caughtUp(t, m)
	stop()
	s.instance = "renamed"
	if err := s.mirror().Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expectFiles(t, "web a 1")
	if names := quarantined(t, s, "web"); len(names) > 0 {
		t.Errorf("in quarantine: %q", names)
	}
}

// An entry in quarantine that is still owed is written again: by the daemon
// that runs, and at the start.
func TestQuarantinedEntriesThatAreStillOpenAreWrittenAgain(t *testing.T) {
	s := newSite(t)
	m := s.mirror()
	m.every = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	s.append(t, forwarded("a", "web", 1))
	s.caughtUp(t, m)
	q, entry := s.first(t, "web")
	setAside := func() {
		t.Helper()
		if err := q.Quarantine(entry, errors.New("it could not be read")); err != nil {
			t.Fatal(err)
		}
	}
	setAside()
	testkit.Wait(t, "it is written again", func() bool { return len(s.files(t)) == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	setAside()
	again, stop := s.run(t)
	defer stop()
	testkit.Wait(t, "it has begun", func() bool { return again.Position() > 0 })
	s.expectFiles(t, "web a 1")
	if names := quarantined(t, s, "web"); len(names) != 2 {
		t.Errorf("in quarantine: %q", names)
	}
}

// An order that comes during a rebuild, and is written by the daemon, stays; one
// that ends during it goes.
func TestRebuildBesideARunningDaemon(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	defer stop()
	s.append(t, forwarded("a", "web", 1))
	s.caughtUp(t, m)
	scripted := &scriptedLog{Log: s.log}
	calls := 0
	scripted.find = func(eventlog.Filter) {
		if calls++; calls == 1 { // the head was read; the files were not
			s.append(t, forwarded("b", "web", 1))
			s.caughtUp(t, m)
		}
	}
	o := s.mirror().o
	o.Log = scripted
	if err := New(o).Rebuild(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.expectFiles(t, "web a 1", "web b 1")
	if names := quarantined(t, s, "web"); len(names) > 0 {
		t.Errorf("in quarantine: %q", names)
	}
}

func TestSlugsThatAreNoDirectories(t *testing.T) {
	s := newSite(t)
	m, stop := s.run(t)
	defer stop()
	bad := []string{"../../escape", "..", ".hidden", "main", "a/b", "/etc/x", strings.Repeat("x", 65)}
	for i, slug := range bad {
		s.append(t, replayed(fmt.Sprint("d-", i), 1, slug))
	}
	s.append(t, forwarded("good", "web", 1))
	s.caughtUp(t, m)
	s.expectFiles(t, "web good 1")
	if err := s.mirror().Rebuild(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.expectFiles(t, "web good 1")
	above, err := os.ReadDir(filepath.Dir(s.dir))
	if err != nil || len(above) != 1 {
		t.Errorf("beside the queues: %v, %v", above, err)
	}
	expected, err := s.mirror().Expected(context.Background())
	if err != nil || len(expected) != len(bad)+1 {
		t.Errorf("expected %v, %v", expected, err)
	}
}

func TestEventsThatAreNotKnown(t *testing.T) {
	for _, tt := range []struct {
		instance string
		stops    bool
	}{{"test", true}, {"another", false}} {
		s := newSite(t)
		s.append(t, forwarded("a", "web", 1))
		if err := projections.New(s.pool, s.log, quiet).Rebuild(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		o := s.mirror().o
		scripted := &scriptedLog{Log: s.log, batches: [][]eventlog.Event{{
			{Position: 2, Instance: tt.instance, Type: "boiled", Data: []byte(`{"v":1}`)},
		}}}
		o.Log = scripted
		m := New(o)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		if !tt.stops {
			testkit.Wait(t, "it went past the event", func() bool { return m.Position() == 2 })
			cancel()
		}
		err := <-ended
		cancel()
		var unknown *eventlog.UnknownEventError
		if errors.As(err, &unknown) != tt.stops {
			t.Errorf("%s: %v", tt.instance, err)
		}
		if tt.stops && m.Position() != 1 {
			t.Errorf("position %d", m.Position())
		}
	}
}

func TestDatabaseAwayAndBack(t *testing.T) {
	server := pgtest.NewServer(t)
	s := newSite(t)
	dsn := server.Database(t, "away")
	pgtest.Migrate(t, dsn)
	s.pool = pgtest.Pool(t, dsn)
	s.log = eventlog.Open(s.pool, quiet)
	t.Cleanup(s.log.Close)
	s.append(t, forwarded("a", "web", 1))
	server.Stop(t)
	m, stop := s.run(t) // starts without its database
	defer stop()
	server.Start(t)
	testkit.Wait(t, "it has begun", func() bool { return m.Position() == 1 })
	server.Kill(t)
	server.Start(t)
	s.append(t, forwarded("b", "web", 1))
	s.caughtUp(t, m)
	s.expectFiles(t, "web a 1", "web b 1")
}

// TestMirrorAgainstAModel runs random histories with crashes at random
// places, and compares the directories with a set.
func TestMirrorAgainstAModel(t *testing.T) {
	s := newSite(t)
	root := s.dir
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		s.close()
		s.instance = fmt.Sprint("model-", runs, "-", rand.Uint64())
		s.dir = filepath.Join(root, s.instance)
		model := modelOf(t, s)
		m, stop := s.run(t)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"order", "order", "order", "work", "interrupt", "crash", "lose", "rebuild"}).Draw(t, "step") {
			case "order":
				model.order(t)
			case "work":
				s.caughtUp(t, m)
				model.work(t)
			case "interrupt":
				s.caughtUp(t, m)
				model.interrupt(t)
			case "crash":
				stop()
				model.endWithout(t) // a worker goes on without it
				if rapid.Bool().Draw(t, "read models up to date") {
					if err := projections.New(s.pool, s.log, quiet).Rebuild(context.Background(), nil); err != nil {
						t.Fatal(err)
					}
				}
				m, stop = s.run(t)
			case "lose":
				stop()
				s.close()
				if err := os.RemoveAll(filepath.Join(s.dir, rapid.SampledFrom([]string{"", "web", "docs"}).Draw(t, "lost"))); err != nil {
					t.Fatal(err)
				}
				m, stop = s.run(t)
			case "rebuild":
				if err := s.mirror().Rebuild(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
		testkit.Wait(t, "it has begun", func() bool { return m.Position() > 0 || s.head(t) == 0 })
		s.caughtUp(t, m)
		stop()
		model.check(t)
		if err := s.mirror().Rebuild(context.Background()); err != nil {
			t.Fatal(err)
		}
		model.check(t)
	})
}

// failingFind fails the first questions.
type failingFind struct {
	Log
	failures int
}

func (l *failingFind) Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error] {
	if l.failures--; l.failures >= 0 {
		return func(yield func(eventlog.Event, error) bool) {
			yield(eventlog.Event{}, errors.New("the connection broke"))
		}
	}
	return l.Log.Find(ctx, f)
}

// A start that is cut short by the database begins again: orders that it had not
// read yet are not taken for ended.
func TestMirror_StartsAgainWhereTheLogCannotBeRead(t *testing.T) {
	s := newSite(t)
	s.append(t, forwarded("a", "web", 1))
	if err := projections.New(s.pool, s.log, quiet).Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	o := s.mirror().o
	o.Log = &failingFind{Log: s.log, failures: 1}
	m := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	testkit.Wait(t, "it has begun", func() bool { return m.Position() == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.expectFiles(t, "web a 1")
}
