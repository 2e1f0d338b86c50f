package projections

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestProjector_LiveRebuiltAndFoldedAreTheSame(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	build(t, p)
	var all []eventlog.Event
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		// The log cannot be emptied, so each round goes on where the last one
		// ended, with names of its own; few of them touch all of it.
		if round++; round > 25 {
			return
		}
		w := newWorld(fmt.Sprintf("r%d", round), int64(len(all)))
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			if len(w.deliveries) > 0 && rapid.IntRange(0, 4).Draw(rt, "chaos") == 0 {
				w.chaos(rt)
				continue
			}
			// A valid history is invalid after chaos, and must be borne too.
			w.step(rt)
		}
		put(t, pool, w.events)
		all = append(all, w.events...)
		catchUp(t, p, w.events, func(left int) int {
			n := rapid.IntRange(1, left).Draw(rt, "batch")
			if rapid.IntRange(0, 3).Draw(rt, "crash") == 0 {
				crash(t, p, all[len(all)-left:][:n])
			}
			return n
		})
		sameAsFold(t, p, foldAll(t, all))
		live := dump(t, pool)
		if differences, err := p.Verify(t.Context()); err != nil || len(differences) != 0 {
			t.Fatalf("verify: %v, %v", differences, err)
		}
		if err := p.Rebuild(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if rebuilt := dump(t, pool); !slices.Equal(live, rebuilt) {
			t.Fatalf("live:\n%s\nrebuilt:\n%s", strings.Join(live, "\n"), strings.Join(rebuilt, "\n"))
		}
	})
}

// crash does all that apply does, and then loses the transaction.
func crash(t testing.TB, p *Projector, events []eventlog.Event) {
	t.Helper()
	lost := errors.New("lost")
	err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error {
		s := NewState()
		if err := s.fold(t.Context(), tx, p.live(), events); err != nil {
			return err
		}
		if err := p.moveCheckpoint(t.Context(), tx, s.position); err != nil {
			return err
		}
		return lost
	})
	if !errors.Is(err, lost) {
		t.Fatal(err)
	}
}

// A rebuild brings deliveries back from the tables, also long after they ended.
func TestRebuildBringsBackWhatItWrote(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	fillLog(t, pool, 20_000, 5)
	var events []eventlog.Event
	if err := p.log.Scan(t.Context(), 0, func(batch []eventlog.Event) error {
		for _, e := range batch {
			e.Data = slices.Clone(e.Data)
			events = append(events, e)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// Deliveries that begin without a received, and some that end after batches in
	// which nothing was heard of them.
	odd := recorder{after: int64(len(events))}
	for n := range 300 {
		odd.received("odd", fmt.Sprintf("p%d", n), n)
		odd.add("odd", fmt.Sprintf("p%d", n), "web", 1, "x", forwarded(n))
	}
	for n := range 2_000 {
		odd.add("odd", fmt.Sprintf("o%d", n), "", 7, "x", eventlog.Redelivered{Action: eventlog.ActionIgnored})
	}
	for n := range 200 {
		odd.received("odd", fmt.Sprintf("o%d", n), n)
	}
	for n := range 300 {
		odd.add("odd", fmt.Sprintf("p%d", n), "web", 1, "x", started(n))
		odd.add("odd", fmt.Sprintf("p%d", n), "web", 1, "x", deployed(n))
	}
	put(t, pool, odd.events)
	events = append(events, odd.events...)
	var last int64
	err := p.Rebuild(t.Context(), func(done, total int64) {
		if done < last || total != int64(len(events)) {
			t.Errorf("progress went from %d to %d of %d", last, done, total)
		}
		last = done
	})
	if err != nil || last != int64(len(events)) {
		t.Fatalf("rebuild told of %d events of %d: %v", last, len(events), err)
	}
	s := foldAll(t, events)
	deployments, err := p.Deployments(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "deployments", deployments, s.Deployments(""))
	var deliveries []Delivery
	err = eachRow(t.Context(), pool, "select row_to_json(t) from projections_v4.deliveries t order by instance, delivery_id", func(d Delivery) error {
		deliveries = append(deliveries, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(deliveries, s.Deliveries("")) {
		t.Fatal("rebuilt deliveries differ from those of a fold in memory")
	}
	var attempts []Attempt
	err = eachRow(t.Context(), pool, "select row_to_json(t) from projections_v4.attempts t order by instance, delivery_id, deployment, attempt", func(a Attempt) error {
		attempts = append(attempts, a)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(attempts, s.Attempts("")) {
		t.Fatal("rebuilt attempts differ from those of a fold in memory")
	}
	audit, err := p.Audit(t.Context(), nil)
	if err != nil || len(audit.Differences) != 0 || audit.Head != int64(len(events)) {
		t.Fatalf("audit: %+v, %v", audit, err)
	}
	got, want := audit.Accounting["odd"], s.Accounting("odd")
	if got.Received != 500 || got.Received != want.Received || got.Undecided != want.Undecided || got.Pending != want.Pending {
		t.Fatalf("accounting in bounded memory is %d/%d/%d, in memory %d/%d/%d",
			got.Received, got.Undecided, got.Pending, want.Received, want.Undecided, want.Pending)
	}
}

// A rebuild finishes the tables before it waits for live update, and goes on with
// what came meanwhile; an audit stops at the checkpoint.
func TestBuildGoesOnAfterItHasFinished(t *testing.T) {
	const n = 9_000
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	fillLog(t, pool, n, 5)
	odd := recorder{after: n}
	odd.received("odd", "undecided", 1)
	odd.received("odd", "open", 2)
	odd.add("odd", "open", "web", 1, "x", forwarded(2))
	odd.add("odd", "open", "web", 1, "x", started(2))
	odd.add("odd", "open", "web", 1, "x", deployed(2))
	put(t, pool, odd.events)
	build(t, p)
	errDone := errors.New("done")
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := makeFresh(t.Context(), tx, p.fresh()); err != nil {
			return err
		}
		b := &builder{tx: tx, fresh: p.fresh(), state: NewState()}
		for _, until := range []int64{0, 1, 5_002, 5_003, n + 3, n + 4, everything} {
			if err := b.build(t.Context(), p.log, until, nil); err != nil {
				return err
			}
			if want := min(until, n+int64(len(odd.events))); b.state.position != want {
				t.Errorf("built up to %d, want %d", b.state.position, want)
			}
		}
		var audit Audit
		for _, table := range tables() {
			if err := table.compare(t.Context(), tx, p.live(), p.fresh(), &audit); err != nil {
				return err
			}
		}
		if len(audit.Differences) > 0 {
			t.Errorf("%d differences, the first: %v", len(audit.Differences), audit.Differences[0])
		}
		return errDone
	})
	if !errors.Is(err, errDone) {
		t.Fatal(err)
	}
	audit, err := p.Audit(t.Context(), nil)
	if err != nil || len(audit.Differences) > 0 {
		t.Fatalf("audit: %+v, %v", audit, err)
	}
	if b := audit.Accounting["odd"].Breaches; len(b) != 1 || !strings.Contains(b[0], "delivery undecided: received, but neither") {
		t.Errorf("the audit accounts for %q", b)
	}
}

// eventually polls until ok or a generous deadline.
func TestProjector_TwoAndRebuildsWhileConnectionsDie(t *testing.T) {
	dsn := pgtest.MigratedDSN(t)
	pool := pgtest.Pool(t, dsn)
	a, b := open(t, pool), open(t, pgtest.Pool(t, dsn))
	spared := pool.Config()
	spared.ConnConfig.RuntimeParams["application_name"] = "spared"
	killers, err := pgxpool.NewWithConfig(t.Context(), spared)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(killers.Close)
	stop := running(t, a, b)
	defer stop()
	w := rapid.Custom(func(rt *rapid.T) *world {
		w := newWorld("", 0)
		for range 600 {
			w.step(rt)
		}
		return w
	}).Example(1)
	left := w.events
	for n := 0; len(left) > 0; n++ {
		size := min(len(left), 1+n%7*5)
		put(t, killers, left[:size])
		left = left[size:]
		switch n % 5 {
		case 1:
			asOwner(t, killers, func(tx pgx.Tx) error {
				_, err := tx.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity
					where datname = current_database() and application_name <> 'spared' and random() < 0.7`)
				return err
			})
		case 3:
			if err := open(t, killers).Rebuild(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	testkit.Wait(t, "the projectors catch up", func() bool { return behind(t, a) == 0 })
	stop()
	check := open(t, killers)
	sameAsFold(t, check, foldAll(t, w.events))
	if audit, err := check.Audit(t.Context(), nil); err != nil || len(audit.Differences) != 0 || audit.Checkpoint != int64(len(w.events)) {
		t.Fatalf("audit: %+v, %v", audit, err)
	}
}

func TestProjector_SitsOutTheDeathOfPostgres(t *testing.T) {
	server := pgtest.NewServer(t)
	dsn := server.Database(t, "projections")
	pgtest.Migrate(t, dsn)
	pool := pgtest.Pool(t, dsn)
	p := open(t, pool)
	stop := running(t, p)
	defer stop()
	var r recorder
	r.received("prod", "d1", 1)
	r.add("prod", "d1", "web", 1, "octocat", forwarded(1))
	put(t, pool, r.events)
	testkit.Wait(t, "it catches up", func() bool { return behind(t, p) == 0 })
	server.Kill(t)
	server.Start(t)
	testkit.Wait(t, "the pool is back", func() bool { return pool.Ping(t.Context()) == nil })
	n := len(r.events)
	r.add("prod", "d1", "web", 1, "worker", started(1))
	put(t, pool, r.events[n:])
	testkit.Wait(t, "it goes on", func() bool { return behind(t, p) == 0 })
	sameAsFold(t, p, foldAll(t, r.events))
}

func TestProjector_StopsBeforeAnUnknownEvent(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	var r recorder
	r.received("prod", "d1", 1)
	r.add("prod", "d1", "web", 1, "octocat", forwarded(1))
	r.add("prod", "d1", "web", 1, "worker", started(1))
	r.events[2].Type = "boiled"
	put(t, pool, r.events)
	err := p.Run(t.Context())
	var unknown *eventlog.UnknownEventError
	var stopped *StoppedError
	if !errors.As(err, &unknown) || unknown.Position != 3 || !errors.As(err, &stopped) || stopped.Position != 2 {
		t.Fatalf("Run returned %v", err)
	}
	sameAsFold(t, p, foldAll(t, r.events[:2]))
	lag, err := p.Lag(t.Context())
	if err != nil || lag.Position != 2 || lag.Events != 1 || lag.Seconds <= 0 ||
		lag.Err == nil || !strings.Contains(lag.Err.Error(), "boiled") {
		t.Fatalf("lag is %+v, %v", lag, err)
	}
	before := dump(t, pool)
	if err := p.Rebuild(t.Context(), nil); !errors.As(err, &unknown) {
		t.Fatalf("Rebuild returned %v", err)
	}
	if !slices.Equal(before, dump(t, pool)) {
		t.Fatal("a rebuild that failed changed the tables")
	}
}

func TestProjector_StopsAtAHole(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	var r recorder
	r.received("prod", "d1", 1)
	r.add("prod", "d1", "web", 1, "octocat", forwarded(1))
	r.add("prod", "d1", "web", 1, "worker", started(1))
	put(t, pool, []eventlog.Event{r.events[0], r.events[2]})
	var hole *eventlog.HoleError
	if err := p.Run(t.Context()); !errors.As(err, &hole) || hole.Want != 2 {
		t.Fatalf("Run returned %v", err)
	}
	if err := p.Rebuild(t.Context(), nil); !errors.As(err, &hole) {
		t.Fatalf("Rebuild returned %v", err)
	}
	build(t, p)
	if _, err := p.apply(t.Context(), 0, []eventlog.Event{r.events[0], r.events[2]}); !errors.As(err, &hole) {
		t.Fatalf("apply returned %v", err)
	}
	if rows := dump(t, pool); len(rows) != 0 {
		t.Fatalf("rows were written before the hole was seen: %v", rows)
	}
}

func TestProjector_SlowerLosesCleanly(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	var r recorder
	r.received("prod", "d1", 1)
	r.add("prod", "d1", "web", 1, "octocat", forwarded(1))
	build(t, p)
	put(t, pool, r.events)
	if _, err := p.apply(t.Context(), 0, r.events); err != nil {
		t.Fatal(err)
	}
	before := dump(t, pool)
	if reached, err := p.apply(t.Context(), 0, r.events[:1]); !errors.Is(err, errLost) || reached != 0 {
		t.Fatalf("the loser got %d, %v", reached, err)
	}
	if !slices.Equal(before, dump(t, pool)) {
		t.Fatal("the loser wrote")
	}
}

func TestVerifyNamesEditsByHand(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	var r recorder
	for n := range 3 {
		id := fmt.Sprintf("d%d", n)
		r.received("prod", id, n)
		r.add("prod", id, "web", 1, "octocat", forwarded(n))
		r.add("prod", id, "web", 1, "worker", started(n))
		r.add("prod", id, "web", 1, "worker", deployed(n))
	}
	put(t, pool, r.events)
	if err := p.Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]string{
		"update projections_v4.deployments set live_commit = 'beef'":                                                                        `deployments prod/web: live_commit is "beef", the log gives "` + commitOf(2),
		"delete from projections_v4.deliveries where delivery_id = 'd1'":                                                                    "deliveries d1/prod: the row is missing",
		"update projections_v4.attempts set step = 'x' where delivery_id = 'd2'":                                                            `attempts d2/prod/web/1: step is "x", the log gives null`,
		"insert into projections_v4.attempts (instance, delivery_id, deployment, attempt, outcome) select 'prod', 'd9', 'web', 1, 'failed'": "attempts d9/prod/web/1: the log gives no such row",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		differences, err := p.Verify(t.Context())
		if err != nil || len(differences) != 1 || !strings.Contains(differences[0].String(), want) {
			t.Errorf("%s: verify says %v, %v; want %q", sql, differences, err, want)
		}
		if err := p.Rebuild(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if differences, err := p.Verify(t.Context()); err != nil || len(differences) != 0 {
			t.Fatalf("after a rebuild: %v, %v", differences, err)
		}
	}
}

// The code's columns are those of schema.sql, in its order.
func TestColumnsAreThoseOfTheDatabase(t *testing.T) {
	pool := pgtest.Migrated(t)
	build(t, open(t, pool))
	for _, c := range tables() {
		rows, err := pool.Query(t.Context(), `select attname::text from pg_attribute
			where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`, c.in(place{version: Version}))
		if err != nil {
			t.Fatal(err)
		}
		columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(columns, c.columns) {
			t.Errorf("%s has the columns\n%v, the code has\n%v", c.name, columns, c.columns)
		}
	}
}

// Read models that were just built are known to the planner: it would take them for empty,
// and read all of a history for its newest page.
func TestRebuild_IsKnownToThePlanner(t *testing.T) {
	t.Parallel()
	pool := pgtest.Migrated(t)
	fillLog(t, pool, 400, 0)
	if err := open(t, pool).Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables() {
		var rows float64
		if err := pool.QueryRow(t.Context(), "select reltuples from pg_class where oid = $1::regclass", table.in(place{version: Version})).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if rows < 1 {
			t.Errorf("the planner takes %s for having %v rows", table.name, rows)
		}
	}
}
