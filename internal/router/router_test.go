package router

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// named is a push of its own ID.
func named(id, body string) delivery.Delivery {
	// Each is a push of its own, from another commit.
	from := fmt.Sprintf("%x", sha256.Sum256([]byte(id)))[:40]
	d := push(strings.Replace(body, `"before":"`+zeros+`"`, `"before":"`+from+`"`, 1))
	d.ID = id
	return d
}

func TestRouterRecordsDecisionsAndBodies(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	defer start(t, q, Options{Log: log})()
	pushed := put(t, q, named("push-1", body("refs/heads/main", sha, "octo/app")))
	put(t, q, named("push-2", "\xff\x00not JSON"))
	manual := command("web", body("refs/heads/dev", sha, "octo/app"))
	manual.ID = "cli-1"
	put(t, q, manual)
	waitEmpty(t, q)

	all := events(t, log, eventlog.Filter{})
	want := []string{
		"received  1", "forwarded docs 1", "forwarded web 1",
		"received  1", "voided  1",
		"received  1", "forwarded web 1",
	}
	if got := summary(all); !slices.Equal(got, want) {
		t.Fatalf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i, want := range map[int][2]string{0: {"push-1", "sam"}, 4: {"push-2", "unknown"}, 6: {"cli-1", "root@host"}} {
		if all[i].DeliveryID != want[0] || all[i].Actor != want[1] {
			t.Errorf("event %d is %+v", i, all[i])
		}
	}
	data, err := all[0].Decode()
	if err != nil {
		t.Fatal(err)
	}
	if r := data.(eventlog.Received); r.Entry != pushed.ID.String() || r.Commit != sha {
		t.Errorf("received %+v", r)
	}
	var r eventlog.Received
	if err := json.Unmarshal(all[3].Data, &r); err != nil {
		t.Fatal(err)
	}
	if p, err := log.Payload(context.Background(), r.PayloadDigest); err != nil || string(p.Body) != "\xff\x00not JSON" {
		t.Errorf("payload %q, %v", p.Body, err)
	}
	runs, err := all[6].Assignments()
	if err != nil || len(runs) != 1 || !runs[0].Forced || runs[0].Branch != "dev" {
		t.Errorf("assignments %+v, %v", runs, err)
	}
}

func TestRouter_OneDeliveryFiftyTimesAtOnce(t *testing.T) {
	log, pool := openLog(t)
	q := openQueue(t)
	// Two routers, which is one more than there should be.
	defer start(t, q, Options{Log: log})()
	defer start(t, q, Options{Log: log, BatchSize: 3})()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { put(t, q, named("same", body("refs/heads/main", sha, "octo/app"))) })
	}
	all.Wait()
	waitEmpty(t, q)
	count := map[eventlog.Type]int{}
	entries := map[string]bool{}
	for _, e := range events(t, log, eventlog.Filter{}) {
		count[e.Type]++
		var d struct{ Entry, Action string }
		if err := json.Unmarshal(e.Data, &d); err != nil {
			t.Fatal(err)
		}
		if d.Entry != "" && entries[d.Entry] {
			t.Errorf("entry %s is in the log twice", d.Entry)
		}
		entries[d.Entry] = true
		if d.Action != "" && d.Action != eventlog.ActionIgnored {
			t.Errorf("action %q", d.Action)
		}
	}
	if count[eventlog.TypeReceived] != 1 || count[eventlog.TypeForwarded] != 2 || count[eventlog.TypeRedelivered] != 49 || len(count) != 3 {
		t.Errorf("events %v", count)
	}
	var payloads int
	if err := pool.QueryRow(context.Background(), "select count(*) from payloads").Scan(&payloads); err != nil || payloads != 1 {
		t.Errorf("%d payloads, %v", payloads, err)
	}
	if moved, err := q.Quarantined(); err != nil || len(moved) > 0 {
		t.Errorf("in quarantine: %q, %v", moved, err)
	}
}

// A crash after the commit leaves the file, and the next start finds it.
func TestCrashBetweenAppendAndDone(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	put(t, q, named("a", body("refs/heads/main", sha, "octo/app")))
	put(t, q, named("b", body("refs/heads/dev", sha, "octo/app")))
	stop := start(t, q, Options{Log: log, Queue: &crashingQueue{drops: 1 << 30}})
	testkit.Wait(t, "both are in the log", func() bool { return len(events(t, log, eventlog.Filter{})) == 5 })
	stop()
	if left, err := q.List(); err != nil || len(left) != 2 {
		t.Fatalf("left %v, %v", left, err)
	}
	before := summary(events(t, log, eventlog.Filter{}))
	// The configuration changed meanwhile: what was decided stays.
	defer start(t, q, Options{Log: log, Rules: func() []Rule { return nil }})()
	waitEmpty(t, q)
	if after := summary(events(t, log, eventlog.Filter{})); !slices.Equal(before, after) {
		t.Errorf("before the crash\n%q\nand after\n%q", before, after)
	}
}

func TestRedeliveryOfAFailureRetriesIt(t *testing.T) {
	log, pool := openLog(t)
	q := openQueue(t)
	defer start(t, q, Options{Log: log})()
	d := named("d", body("refs/heads/main", sha, "octo/app"))
	put(t, q, d)
	waitEmpty(t, q)
	end := func(slug string, attempt int, data eventlog.Data) {
		t.Helper()
		_, err := log.Append(context.Background(), eventlog.Group{Transitions: []eventlog.Transition{
			{Instance: "test", DeliveryID: "d", Deployment: slug, Attempt: attempt, Actor: "sam", Data: data},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	failed := eventlog.Failed{Commit: sha, Step: "build", Steps: []eventlog.Step{}}
	end("web", 1, failed)
	end("docs", 1, eventlog.Deployed{Commit: sha, Steps: []eventlog.Step{}})
	put(t, q, d) // retries web
	waitEmpty(t, q)
	put(t, q, d) // ignored: web waits
	waitEmpty(t, q)
	end("web", 2, failed)
	other := d
	other.Body = []byte(body("refs/heads/main", sha256s, "octo/app"))
	put(t, q, other) // retries web, on the first body's commit
	waitEmpty(t, q)

	var got []string
	for _, e := range events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeRedelivered}}) {
		var r eventlog.Redelivered
		if err := json.Unmarshal(e.Data, &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Attempt, " ", r.Action))
		for _, a := range r.Deployments {
			got[len(got)-1] += fmt.Sprintf(" %s %d %v", a.Deployment, a.Attempt, a.Commit == sha)
		}
		if strings.Contains(r.Detail, "its body differs") != (e.Attempt == 3) {
			t.Errorf("detail %q", r.Detail)
		}
	}
	if want := []string{"1 retried web 2 true", "2 ignored", "3 retried web 3 true"}; !slices.Equal(got, want) {
		t.Errorf("redeliveries %q, want %q", got, want)
	}
	var payloads int
	if err := pool.QueryRow(context.Background(), "select count(*) from payloads").Scan(&payloads); err != nil || payloads != 2 {
		t.Errorf("%d payloads, %v; the first body and the other one are to be kept", payloads, err)
	}
}

// A replay comes between the router's reading and its append: two orders of one
// attempt would be one run.
func TestReplayOvertakesARedelivery(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	record := func(deployment string, attempt int, data eventlog.Data) {
		if _, err := log.Append(context.Background(), eventlog.Group{Transitions: []eventlog.Transition{
			{Instance: "test", DeliveryID: "d", Deployment: deployment, Attempt: attempt, Actor: "sam", Data: data},
		}}); err != nil {
			t.Error(err)
		}
	}
	var once sync.Once
	l := &faultyLog{Log: log, before: func(groups []eventlog.Group) ([]eventlog.Result, error, bool) {
		if _, ok := groups[0].Transitions[0].Data.(eventlog.Redelivered); ok {
			once.Do(func() {
				record("", 2, eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: sha}}}})
			})
		}
		return nil, nil, false
	}}
	defer start(t, q, Options{Log: l})()
	d := named("d", body("refs/heads/main", sha, "octo/app"))
	put(t, q, d)
	waitEmpty(t, q)
	for _, slug := range []string{"docs", "web"} {
		record(slug, 1, eventlog.Started{Commit: sha})
		record(slug, 1, eventlog.Failed{Commit: sha, Step: "build"})
	}
	put(t, q, d)
	waitEmpty(t, q)
	all := events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeRedelivered}})
	var r eventlog.Redelivered
	if len(all) != 1 || json.Unmarshal(all[0].Data, &r) != nil || len(r.Deployments) != 1 || r.Deployments[0].Deployment != "docs" {
		t.Errorf("want one redelivery that retries docs alone, got %+v", all)
	}
}

func TestUnreadableEntriesAreSetAside(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	plant := func(content string) {
		t.Helper()
		_, err := q.Put(context.Background(), "bad", func(w io.Writer) error { _, err := io.WriteString(w, content); return err })
		if err != nil {
			t.Fatal(err)
		}
	}
	plant("")
	plant("{")
	plant(`{"v":99,"delivery_id":"bad"}`)
	plant(`{"v":1,"delivery_id":"other"}`)
	put(t, q, named("good", body("refs/heads/main", sha, "octo/app")))
	gone := put(t, q, named("gone", body("refs/heads/main", sha, "octo/app")))
	w, err := Watch(q)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // only read
	if err := q.Remove(gone); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- New(Options{Instance: "test", Queue: w, Log: log, Rules: func() []Rule { return rules }}).Run(ctx)
	}()
	testkit.Wait(t, "nothing is pending", func() bool { return len(w.Pending()) == 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	moved, err := q.Quarantined()
	if err != nil || len(moved) != 4 {
		t.Fatalf("in quarantine: %q, %v", moved, err)
	}
	for _, name := range moved {
		reason, err := os.ReadFile(filepath.Join(q.Dir(), "quarantine", name+".reason"))
		if err != nil || len(reason) == 0 {
			t.Errorf("reason %q, %v", reason, err)
		}
	}
	if got := summary(events(t, log, eventlog.Filter{})); len(got) != 3 {
		t.Errorf("events %q", got)
	}
}

// failingReads fails to read the entries of one delivery while why is set.
type failingReads struct {
	Queue
	delivery string
	mu       sync.Mutex
	why      error
}

func (q *failingReads) Read(e queue.Entry) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.why != nil && e.DeliveryID == q.delivery {
		return nil, &fs.PathError{Op: "read", Path: e.Name, Err: q.why}
	}
	return q.Queue.Read(e)
}

func (q *failingReads) fail(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.why = why
}

// An acknowledged push whose file cannot be read now is not set aside, and does
// not hold up the others.
func TestEntriesThatCannotBeReadNowAreTriedAgain(t *testing.T) {
	log, _ := openLog(t)
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ESTALE, syscall.EACCES, syscall.EMFILE, syscall.EPERM, syscall.ENXIO, syscall.ETIMEDOUT} {
		t.Run(errno.Error(), func(t *testing.T) {
			q := openQueue(t)
			put(t, q, named("late", body("refs/heads/main", sha, "octo/app")))
			put(t, q, named("good", body("refs/heads/main", sha, "octo/app")))
			reads := &failingReads{delivery: "late"}
			reads.fail(errno)
			instance := errno.Error()
			defer start(t, q, Options{Instance: instance, Log: log, Queue: reads, BatchSize: 1})()
			of := func(delivery string) int {
				return len(events(t, log, eventlog.Filter{Instance: instance, DeliveryID: delivery}))
			}
			testkit.Wait(t, "the other one is routed", func() bool { return of("good") == 3 })
			if of("late") != 0 {
				t.Error("routed, though it cannot be read")
			}
			reads.fail(nil)
			waitEmpty(t, q)
			if moved, err := q.Quarantined(); err != nil || len(moved) > 0 || of("late") != 3 {
				t.Errorf("%d events, in quarantine %q, %v", of("late"), moved, err)
			}
		})
	}
}

func TestRouter_PoisonedDeliveryBlocksNoOther(t *testing.T) {
	refusals := map[string]struct {
		err       error
		quarantee bool
	}{
		"its content":     {fmt.Errorf("append: %w", &pgconn.PgError{Code: "22P05", Message: "untranslatable"}), true},
		"a constraint":    {&pgconn.PgError{Code: "23514"}, true},
		"conflicts":       {&eventlog.ConflictError{Stored: eventlog.Event{Type: eventlog.TypeReceived}}, true},
		"who knows":       {errors.New("who knows"), false},
		"everyone's lack": {&pgconn.PgError{Code: "42501"}, false},
	}
	log, _ := openLog(t)
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			q := openQueue(t)
			var healed atomic.Bool
			faulty := &faultyLog{Log: log}
			faulty.before = func(groups []eventlog.Group) ([]eventlog.Result, error, bool) {
				if healed.Load() {
					return nil, nil, false
				}
				return refuse(context.Background(), log, "bad", groups, refusal.err)
			}
			bad := named("bad", body("refs/heads/main", sha, "octo/app"))
			put(t, q, bad)
			put(t, q, named("good-0", body("refs/heads/main", sha, "octo/app")))
			defer start(t, q, Options{Instance: name, Log: faulty})()
			for i := range 12 {
				if i > 0 {
					put(t, q, named(fmt.Sprint("good-", i), body("refs/heads/main", sha, "octo/app")))
				}
				testkit.Wait(t, "the good one is routed", func() bool {
					return len(events(t, log, eventlog.Filter{Instance: name, DeliveryID: fmt.Sprint("good-", i)})) == 3
				})
				if !refusal.quarantee && i == 2 {
					break
				}
				if moved, err := q.Quarantined(); err != nil {
					t.Fatal(err)
				} else if len(moved) == 1 {
					break
				}
			}
			if !refusal.quarantee {
				healed.Store(true)
			}
			waitEmpty(t, q)
			moved, err := q.Quarantined()
			if err != nil || (len(moved) == 1) != refusal.quarantee {
				t.Errorf("in quarantine: %q, %v", moved, err)
			}
			if got := len(events(t, log, eventlog.Filter{Instance: name, DeliveryID: "bad"})); (got == 0) != refusal.quarantee {
				t.Errorf("%d events of the poisoned one", got)
			}
		})
	}
}

// An event of a newer binary is no fault of the entry, so it waits.
func TestEventsThatAreNotKnownLeaveTheEntryAlone(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	var asked atomic.Int32
	faulty := &faultyLog{Log: log, find: func() error {
		if asked.Add(1) <= 2 {
			return &eventlog.UnknownEventError{Position: 1, Type: "boiled"}
		}
		return nil
	}}
	put(t, q, named("d", body("refs/heads/main", sha, "octo/app")))
	defer start(t, q, Options{Log: faulty})()
	waitEmpty(t, q)
	if moved, err := q.Quarantined(); err != nil || len(moved) > 0 || asked.Load() < 3 {
		t.Errorf("in quarantine %q, %v; asked %d times", moved, err, asked.Load())
	}
}

func TestDatabaseAwayAndBack(t *testing.T) {
	server := pgtest.NewServer(t)
	dsn := server.Database(t, "away")
	pgtest.Migrate(t, dsn)
	log, _ := logOn(t, pgtest.Pool(t, dsn))
	q := openQueue(t)
	defer start(t, q, Options{Log: log})()
	put(t, q, named("before", body("refs/heads/main", sha, "octo/app")))
	waitEmpty(t, q)
	server.Kill(t)
	for i := range 5 {
		put(t, q, named(fmt.Sprint("during-", i), body("refs/heads/main", sha, "octo/app")))
	}
	server.Start(t)
	waitEmpty(t, q)
	var order []string
	for _, e := range events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeReceived}}) {
		order = append(order, e.DeliveryID)
	}
	if want := []string{"before", "during-0", "during-1", "during-2", "during-3", "during-4"}; !slices.Equal(order, want) {
		t.Errorf("received %q", order)
	}
}

// Batches that are cut short by their bytes lose nothing and keep the order.
func TestOrderOverSmallBatches(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprint("d-", i))
		put(t, q, named(want[i], body("refs/heads/main", sha, "octo/mixed")))
	}
	defer start(t, q, Options{Log: log, BatchSize: 7, BatchBytes: 1500})()
	waitEmpty(t, q)
	var got []string
	for _, e := range events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeForwarded}}) {
		got = append(got, e.DeliveryID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("forwarded in the order %q", got)
	}
}

// Alone in the queue, only an error that is known to be the entry's own counts
// against it: any other may be everyone's.
func TestRouter_PoisonedDeliveryAlone(t *testing.T) {
	log, _ := openLog(t)
	for refusal, its := range map[error]bool{
		&pgconn.PgError{Code: "22P05"}: true,
		&pgconn.PgError{Code: "54000"}: true,
		errors.New("who knows"):        false,
	} {
		q := openQueue(t)
		var refused atomic.Int32
		faulty := &faultyLog{Log: log}
		faulty.before = func(groups []eventlog.Group) ([]eventlog.Result, error, bool) {
			if !its && refused.Load() > 3 {
				return nil, nil, false
			}
			refused.Add(1)
			return refuse(context.Background(), log, "bad", groups, refusal)
		}
		put(t, q, named("bad", body("refs/heads/main", sha, "octo/app")))
		stop := start(t, q, Options{Instance: refusal.Error(), Log: faulty})
		waitEmpty(t, q)
		stop()
		if moved, err := q.Quarantined(); err != nil || (len(moved) == 1) != its {
			t.Errorf("%v: in quarantine %q, %v", refusal, moved, err)
		}
	}
}
