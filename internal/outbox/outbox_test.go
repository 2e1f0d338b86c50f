package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

// world is a log, an outbox of it, and an outside that answers as it is told.
type world struct {
	pool     *pgxpool.Pool
	log      *eventlog.Log
	instance string
	probe    time.Duration
	out      lines

	mu   sync.Mutex
	said []string // those that the outside has taken, as key=position
	// answer says what becomes of the next thing that is sent; nil takes it.
	answer func(ctx context.Context, i Item) error
}

// lines is a log to read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

func newWorld(t testing.TB) *world {
	pool := pgtest.Migrated(t)
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler), eventlog.WithPoll(20*time.Millisecond))
	t.Cleanup(log.Close)
	return &world{pool: pool, log: log, instance: "here"}
}

// outbox owes one thing for each event, whose key is the event's deployment.
func (w *world) outbox() *Outbox {
	return New(Options{
		Channel: "test", Instance: w.instance, Holder: "this", Pool: w.pool, Log: w.log,
		Owe: func(_ context.Context, events []eventlog.Event) (items []Item, _ error) {
			for _, e := range events {
				body, err := json.Marshal(e.Position)
				if err != nil {
					return nil, err
				}
				items = append(items, Item{Key: e.DeploymentSlug(), Scope: "scope", Position: e.Position, At: e.RecordedAt, Body: body})
			}
			return items, nil
		},
		Send: w.send, Logger: slog.New(slog.NewTextHandler(&w.out, nil)), Pause: 5 * time.Millisecond, Probe: w.probe,
	})
}

func (w *world) send(ctx context.Context, i Item) error {
	w.mu.Lock()
	answer := w.answer
	w.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, i); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf("%s=%d", i.Key, i.Position))
	return nil
}

func (w *world) set(answer func(ctx context.Context, i Item) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

func (w *world) heard() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said)
}

// run starts the outbox, and returns what ends it and waits. It has its position by then.
func (w *world) run(t rapid.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	b := w.outbox()
	go func() { ended <- b.Run(ctx) }()
	testkit.Wait(t, "the outbox is taken", func() bool {
		return w.count(t, "select count(*) from outbox_positions where instance = '"+w.instance+"' and held_until > clock_timestamp()") == 1
	})
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

func (w *world) count(t rapid.TB, q string) (n int) {
	t.Helper()
	if err := w.pool.QueryRow(context.Background(), q).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) exec(t rapid.TB, q string) {
	t.Helper()
	if _, err := w.pool.Exec(context.Background(), q); err != nil {
		t.Fatal(err)
	}
}

var ids struct {
	sync.Mutex
	n int
}

// append puts an event of each key into the log, and returns the last position.
func (w *world) append(t rapid.TB, instance string, keys ...string) (last int64) {
	t.Helper()
	var g eventlog.Group
	for _, key := range keys {
		ids.Lock()
		ids.n++
		g.Transitions = append(g.Transitions, eventlog.Transition{
			Instance: instance, DeliveryID: fmt.Sprint("d", ids.n), Deployment: key, Attempt: 1, Data: eventlog.Voided{Reason: eventlog.ReasonStale},
		})
		ids.Unlock()
	}
	events, err := w.log.Append(context.Background(), g)
	if err != nil {
		t.Fatal(err)
	}
	return events[len(events)-1].Position
}

func (w *world) hears(t rapid.TB, want ...string) {
	t.Helper()
	testkit.Wait(t, fmt.Sprint("the outside hears ", want), func() bool { return len(w.heard()) >= len(want) })
	if got := w.heard(); !slices.Equal(got, want) {
		t.Fatalf("the outside heard %v, want %v", got, want)
	}
	testkit.Wait(t, "nothing is owed", func() bool { return w.count(t, "select count(*) from outbox where state = 'owed'") == 0 })
}

func TestOutbox_BeginsAtTheHeadAndTellsOfItsInstanceAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, "here", "web", "docs")
	stop := w.run(t)
	defer stop()
	w.append(t, "elsewhere", "web")
	w.append(t, "here", "web")
	w.hears(t, "web=4")
	stop()
	w.append(t, "here", "docs") // while nothing follows
	defer w.run(t)()
	w.hears(t, "web=4", "docs=5")
}

func TestOutbox_SaysTheNewestOfWhatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	begun, answer := make(chan struct{}), make(chan error)
	w.set(func(_ context.Context, i Item) error {
		if i.Key == "web" && i.Position == 1 {
			close(begun)
			return <-answer
		}
		return nil
	})
	defer w.run(t)()
	w.append(t, "here", "web")
	<-begun
	w.append(t, "here", "web", "web", "docs") // web hangs, and docs does not wait for it
	w.hearsSome(t, "docs=4")
	answer <- nil
	w.hears(t, "docs=4", "web=1", "web=3")
}

func (w *world) hearsSome(t rapid.TB, want ...string) {
	t.Helper()
	testkit.Wait(t, fmt.Sprint("the outside hears ", want), func() bool { return slices.Equal(w.heard(), want) })
}

func TestOutbox_TriesAgainAndNeverAnOlderAfterANewer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(_ context.Context, i Item) error {
		if i.Position == 1 {
			return errors.New("503")
		}
		return nil
	})
	defer w.run(t)()
	w.append(t, "here", "web")
	testkit.Wait(t, "it failed", func() bool { return w.count(t, "select count(*) from outbox where tries > 0 and error = '503'") == 1 })
	w.append(t, "here", "web")
	w.hears(t, "web=2")
}

func TestOutbox_WaitsAsLongAsItIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return After(time.Hour, errors.New("secondary limit")) })
	defer w.run(t)()
	w.append(t, "here", "web")
	testkit.Wait(t, "it waits for about an hour", func() bool {
		return w.count(t, "select count(*) from outbox where next_at between clock_timestamp() + interval '59 min' and clock_timestamp() + interval '60 min'") == 1
	})
}

func TestOutbox_ListsWhatIsOwedLaterAndDoesNotCountIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, at := w.outbox(), time.Now().UTC().Truncate(time.Microsecond)
	position, err := b.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	later := Item{Key: "later a", Scope: "scope", Position: 1, At: at, NotBefore: at.Add(time.Hour), Body: []byte(`{"n": 1}`)}
	now := Item{Key: "now a", Scope: "scope", Position: 1, At: at, Body: []byte(`{"n": 2}`)}
	if err := b.put(t.Context(), position, position+1, []Item{later, now}); err != nil {
		t.Fatal(err)
	}
	items, err := Items(t.Context(), w.pool, "test", w.instance, "later ")
	if err != nil || len(items) != 1 || items[0].Key != later.Key || !items[0].NotBefore.Equal(later.NotBefore) || string(items[0].Body) != string(later.Body) {
		t.Errorf("owed later is %+v, %v", items, err)
	}
	backlogs, err := Backlogs(t.Context(), w.pool, w.instance)
	if err != nil || len(backlogs) != 1 || backlogs[0].Owed != 1 {
		t.Errorf("the backlog is %+v, %v", backlogs, err)
	}
}

func TestOutbox_SaysOnceWhatWasRefusedAndTriesItAgainWhenItsScopeIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return Refused(errors.New("403: the token lacks statuses:write")) })
	defer w.run(t)()
	w.append(t, "here", "web", "docs", "wiki")
	testkit.Wait(t, "all are refused", func() bool { return w.count(t, "select count(*) from outbox where state = 'refused'") == 3 })
	testkit.Wait(t, "it is told", func() bool { return w.out.count("the outside refused") > 0 })
	if n := w.out.count("the outside refused"); n != 1 {
		t.Errorf("it was told %d times, want once", n)
	}
	trouble, err := Troubles(t.Context(), w.pool, "here")
	if err != nil || len(trouble) != 1 || trouble[0].Count != 3 || trouble[0].State != "refused" || !strings.Contains(trouble[0].Error, "statuses:write") || trouble[0].Scope != "scope" {
		t.Errorf("troubles: %+v, %v", trouble, err)
	}
	backlogs, err := Backlogs(t.Context(), w.pool, "here")
	if err != nil || len(backlogs) != 1 || backlogs[0] != (Backlog{Channel: "test", Refused: 3}) {
		t.Errorf("backlogs: %+v, %v", backlogs, err)
	}
	w.set(nil)
	w.append(t, "here", "other")
	testkit.Wait(t, "all are said", func() bool { return len(w.heard()) == 4 })
	w.hears(t, w.heard()...)
}

func TestOutbox_TriesTheNewestOfWhatWasRefusedNowAndThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.probe = time.Millisecond
	refuse := func(context.Context, Item) error { return Refused(errors.New("403")) }
	w.set(refuse)
	defer w.run(t)()
	w.append(t, "here", "web", "docs", "wiki")
	testkit.Wait(t, "all are refused", func() bool { return w.count(t, "select count(*) from outbox where state = 'refused'") == 3 })
	var mu sync.Mutex
	var probed []string
	answers := []error{Refused(errors.New("403")), errors.New("502"), Refused(errors.New("403"))}
	w.set(func(ctx context.Context, i Item) error {
		backlogs, err := Backlogs(ctx, w.pool, "here")
		troubles, also := Troubles(ctx, w.pool, "here")
		if err != nil || also != nil || len(backlogs) != 1 || backlogs[0] != (Backlog{Channel: "test", Refused: 3}) || len(troubles) != 1 || troubles[0].State != "refused" || troubles[0].Error != "403" {
			t.Errorf("while %s is tried again, the backlog is %+v, %v, and the troubles %+v, %v", i.Key, backlogs, err, troubles, also)
		}
		mu.Lock()
		defer mu.Unlock()
		probed = append(probed, i.Key)
		return answers[len(probed)%len(answers)]
	})
	testkit.Wait(t, "it is tried again and again", func() bool { mu.Lock(); defer mu.Unlock(); return len(probed) > 2*chances })
	w.set(refuse)
	mu.Lock()
	if rest := slices.DeleteFunc(slices.Clone(probed), func(key string) bool { return key == "wiki" }); len(rest) > 0 {
		t.Errorf("%v was tried, too, and not the newest alone", rest)
	}
	mu.Unlock()
	if n := w.out.count("the outside refused"); n != 1 {
		t.Errorf("it was told %d times, want once", n)
	}
	w.set(nil)
	testkit.Wait(t, "all are said", func() bool { return len(w.heard()) == 3 })
	if got := w.heard(); got[0] != "wiki=3" {
		t.Errorf("the outside heard %v", got)
	}
	w.hears(t, w.heard()...)
}

func TestOutbox_TurnThatIsWaitedForIsNoTrouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return fmt.Errorf("web: %w", ErrTurn) })
	defer w.run(t)()
	w.append(t, "here", "web")
	testkit.Wait(t, "it waits", func() bool { return w.count(t, "select count(*) from outbox where tries > 0") == 1 })
	troubles, err := Troubles(t.Context(), w.pool, "here")
	backlogs, also := Backlogs(t.Context(), w.pool, "here")
	if err != nil || also != nil || len(troubles) > 0 || len(backlogs) != 1 || backlogs[0].Owed != 1 {
		t.Errorf("troubles: %+v, %v; backlogs: %+v, %v", troubles, err, backlogs, also)
	}
	w.set(nil)
	w.hears(t, "web=1")
}

func TestOutbox_LeavesWhatWasRefusedADayAgo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.probe = time.Millisecond
	w.set(func(context.Context, Item) error { return Refused(errors.New("403")) })
	stop := w.run(t)
	w.append(t, "here", "web", "docs")
	testkit.Wait(t, "both are refused", func() bool { return w.count(t, "select count(*) from outbox where state = 'refused'") == 2 })
	stop()
	w.exec(t, "update outbox set next_at = clock_timestamp(), at = at - case key when 'docs' then interval '24 hours' else '0' end")
	w.set(nil)
	b := w.outbox()
	if due, _, err := b.due(t.Context(), []string{}); err != nil || len(due) != 1 || due[0].Key != "web" {
		t.Errorf("to be sent is %+v, %v", due, err)
	}
}

func TestOutbox_GivesUpAfterADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return errors.New("502") })
	stop := w.run(t)
	w.append(t, "here", "web", "docs")
	testkit.Wait(t, "both were tried", func() bool { return w.count(t, "select count(*) from outbox where tries > 0") == 2 })
	stop()
	w.exec(t, "update outbox set at = at - interval '24 hours', next_at = clock_timestamp()")
	w.set(func(_ context.Context, i Item) error { return fmt.Errorf("%s was tried after a day", i.Key) })
	defer w.run(t)()
	testkit.Wait(t, "both are given up", func() bool {
		return w.count(t, "select count(*) from outbox where state = 'given_up' and error = '502'") == 2
	})
	if n := w.out.count("is given up"); n != 1 {
		t.Errorf("it was told %d times, want once", n)
	}
}

func TestOutbox_TellsNothingOfWhatIsOlderThanADay(t *testing.T) {
	t.Parallel()
	b := New(Options{Instance: "here", Logger: slog.New(slog.DiscardHandler)})
	now := time.Now()
	got := b.ours([]eventlog.Event{
		{Position: 1, Instance: "here", RecordedAt: now.Add(-25 * time.Hour)}, {Position: 2, Instance: "elsewhere", RecordedAt: now},
		{Position: 3, Instance: "here", RecordedAt: now.Add(-23 * time.Hour)},
	})
	if len(got) != 1 || got[0].Position != 3 {
		t.Errorf("%+v", got)
	}
}

func TestOutbox_SendsWhatWaitsOnceItsScopeWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return After(time.Hour, errors.New("away")) })
	defer w.run(t)()
	w.append(t, "here", "web")
	testkit.Wait(t, "it was tried", func() bool { return w.count(t, "select count(*) from outbox where tries = 1") == 1 })
	w.set(nil)
	w.append(t, "here", "docs")
	w.hears(t, "docs=2", "web=1")
}

func TestForget_LeavesWhatIsConfiguredOrHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return errors.New("502") })
	stop := w.run(t)
	defer stop()
	w.append(t, "here", "web")
	testkit.Wait(t, "it was tried", func() bool { return w.count(t, "select count(*) from outbox where tries > 0") == 1 })
	forget := func(channels ...string) int {
		t.Helper()
		if err := Forget(t.Context(), w.pool, "here", append([]string{}, channels...)); err != nil {
			t.Fatal(err)
		}
		return w.count(t, "select (select count(*) from outbox) + (select count(*) from outbox_positions)")
	}
	if n := forget(); n != 2 {
		t.Errorf("of a channel that a process has, %d rows are left", n)
	}
	stop()
	if n := forget("test"); n != 2 {
		t.Errorf("of a channel that is configured, %d rows are left", n)
	}
	if n := forget("other"); n != 0 {
		t.Errorf("of a channel that is not, %d rows are left", n)
	}
}

func TestOutbox_OfALogThatIsGoneBeginsAtTheHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set(func(context.Context, Item) error { return errors.New("502") })
	stop := w.run(t)
	w.append(t, "here", "web")
	testkit.Wait(t, "it was tried", func() bool { return w.count(t, "select count(*) from outbox where tries > 0") == 1 })
	stop()
	w.set(nil)
	// As in a log that was restored from a copy of before.
	w.exec(t, "update outbox_positions set position = 1000")
	w.exec(t, "update outbox set position = 1000")
	defer w.run(t)()
	w.append(t, "here", "web")
	w.hears(t, "web=2")
}

func TestOutbox_IsHadByOneProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.run(t)
	defer stop()
	other := w.outbox()
	other.o.Holder = "other"
	if err := other.turn(t.Context()); !errors.Is(err, errLost) {
		t.Fatalf("the other one got %v", err)
	}
	w.exec(t, "update outbox_positions set holder = 'other'") // whose time is not over
	position := w.append(t, "here", "web")
	stop()
	if got := w.heard(); len(got) > 0 {
		t.Errorf("%v was said by a process that had lost it", got)
	}
	w.exec(t, "update outbox_positions set held_until = clock_timestamp()")
	defer w.run(t)()
	w.hears(t, fmt.Sprint("web=", position))
}

// TestOutbox_AgainstAModel lets processes die at any point and the outside fail as it
// likes: in the end each key was told its newest event, and never an older after a newer.
func TestOutbox_AgainstAModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.probe = time.Millisecond
	errDead := errors.New("killed")
	rapid.Check(t, func(t *rapid.T) {
		w.exec(t, "delete from outbox; delete from outbox_positions")
		w.mu.Lock()
		w.said = nil
		w.mu.Unlock()
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"", "", "fails", "taken and fails", "limit", "refused"}), 0, 30).Draw(t, "faults")
		var mu sync.Mutex
		w.set(func(_ context.Context, i Item) error {
			mu.Lock()
			defer mu.Unlock()
			if len(faults) == 0 {
				return nil
			}
			fault := faults[0]
			faults = faults[1:]
			switch fault {
			case "fails":
				return errors.New("500")
			case "taken and fails": // killed between the request and the noting of it
				w.mu.Lock()
				w.said = append(w.said, fmt.Sprintf("%s=%d", i.Key, i.Position))
				w.mu.Unlock()
				return errDead
			case "limit":
				return After(time.Millisecond, errors.New("403"))
			case "refused":
				return Refused(errors.New("401"))
			}
			return nil
		})
		stop := w.run(t)
		newest := map[string]int64{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.IntRange(0, 4).Draw(t, "step") == 0 {
				stop()
				stop = w.run(t)
				continue
			}
			keys := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3).Draw(t, "keys")
			last := w.append(t, "here", keys...)
			for i, key := range keys {
				newest[key] = last - int64(len(keys)-1-i)
			}
		}
		defer func() { stop() }()
		testkit.Wait(t, "all is said", func() bool {
			return w.count(t, "select (select count(*) from outbox) + (select h.position - p.position from log_head h, outbox_positions p)") == 0
		})
		latest := map[string]int64{}
		for _, s := range w.heard() {
			key, text, _ := strings.Cut(s, "=")
			var position int64
			if _, err := fmt.Sscan(text, &position); err != nil {
				t.Fatal(err)
			}
			if position < latest[key] {
				t.Fatalf("%v: an older one after a newer", w.heard())
			}
			latest[key] = position
		}
		for key, position := range newest {
			if latest[key] != position {
				t.Fatalf("%v: the newest of %s is %d", w.heard(), key, position)
			}
		}
	})
}
