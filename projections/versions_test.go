package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// openVersion is a projector as a binary with another version would have it.
func openVersion(t testing.TB, pool *pgxpool.Pool, version int) *Projector {
	t.Helper()
	p := open(t, pool)
	p.version = version
	return p
}

// schemas lists the versions that have a schema.
func schemas(t testing.TB, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `select nspname::text from pg_namespace where nspname like 'projections\_v%' order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// dumpVersion is dump of the tables of a version.
func dumpVersion(t testing.TB, pool *pgxpool.Pool, version int) []string {
	t.Helper()
	var lines []string
	for _, table := range tables() {
		rows, err := pool.Query(t.Context(), fmt.Sprintf("select row_to_json(t)::text from %s t order by %s",
			table.in(place{version: version}), strings.Join(table.key, ", ")))
		if err != nil {
			t.Fatal(err)
		}
		some, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, some...)
	}
	return lines
}

// finished appends n runs that succeed, one transaction each.
func finished(t testing.TB, pool *pgxpool.Pool, r *recorder, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		before := len(r.events)
		id := fmt.Sprintf("d%d", i)
		r.received("prod", id, i)
		r.add("prod", id, "web", 1, "octocat", forwarded(i))
		r.add("prod", id, "web", 1, "worker", started(i))
		r.add("prod", id, "web", 1, "worker", deployed(i))
		put(t, pool, r.events[before:])
	}
}

// A new version is built beside the old one while the log grows and both are
// read; what a reader sees never goes back, and in the end both are the same.
func TestVersion_IsBuiltBesideTheOldOne(t *testing.T) {
	dsn := pgtest.MigratedDSN(t)
	pool := pgtest.Pool(t, dsn)
	var r recorder
	finished(t, pool, &r, 0, 300)
	one := openVersion(t, pgtest.Pool(t, dsn), 1)
	stopOne := running(t, one)
	defer stopOne()
	testkit.Wait(t, "the old version is there", func() bool { return behind(t, one) == 0 })

	two := openVersion(t, pgtest.Pool(t, dsn), 2)
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	for range 2 {
		readers.Go(func() {
			reader, last := openVersion(t, pgtest.Pool(t, dsn), 2), 300
			for ctx.Err() == nil {
				list, err := reader.Deployments(ctx, "prod")
				if ctx.Err() != nil {
					return
				}
				if err != nil || len(list) != 1 || list[0].Deployed < last {
					t.Errorf("after %d deploys a reader saw %+v, %v", last, list, err)
					return
				}
				last = list[0].Deployed
			}
		})
	}
	stopTwo := running(t, two)
	defer stopTwo()
	finished(t, pool, &r, 300, 100)
	testkit.Wait(t, "the new version serves", func() bool {
		lag, err := two.Lag(t.Context())
		return err == nil && lag.Version == 2 && lag.Events == 0
	})
	// The older binary goes on with its own.
	finished(t, pool, &r, 400, 20)
	testkit.Wait(t, "both catch up", func() bool { return behind(t, one) == 0 && behind(t, two) == 0 })
	cancel()
	readers.Wait()
	if a, b := dumpVersion(t, pool, 1), dumpVersion(t, pool, 2); !slices.Equal(a, b) {
		t.Fatal("the versions differ, though their folds are the same")
	}
	sameAsFold(t, two, foldAll(t, r.events))
	for _, p := range []*Projector{one, two} {
		if differences, err := p.Verify(t.Context()); err != nil || len(differences) != 0 {
			t.Fatalf("verify of version %d: %v, %v", p.version, differences, err)
		}
	}
	stopOne()
	stopTwo()

	// The version after the next one drops the first; the one between stays, to
	// go back to, and its binary goes on from where it was.
	if err := openVersion(t, pool, 3).Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := schemas(t, pool); !slices.Equal(got, []string{"projections_v2", "projections_v3"}) {
		t.Fatalf("schemas %v", got)
	}
	finished(t, pool, &r, 420, 5)
	stopTwo = running(t, two)
	defer stopTwo()
	testkit.Wait(t, "the older binary goes on", func() bool { return behind(t, two) == 0 })
	sameAsFold(t, two, foldAll(t, r.events))
}

// Two daemons of the new version that start at once build it once.
func TestVersion_OneOfTwoBuilds(t *testing.T) {
	dsn := pgtest.MigratedDSN(t)
	pool := pgtest.Pool(t, dsn)
	var r recorder
	finished(t, pool, &r, 0, 50)
	build(t, openVersion(t, pool, 1))
	a, b := openVersion(t, pool, 2), openVersion(t, pgtest.Pool(t, dsn), 2)
	stop := running(t, a, b)
	defer stop()
	finished(t, pool, &r, 50, 20)
	testkit.Wait(t, "it is built", func() bool {
		lag, err := a.Lag(t.Context())
		return err == nil && lag.Version == 2 && lag.Events == 0
	})
	sameAsFold(t, a, foldAll(t, r.events))
}

// A version that cannot be built leaves nothing behind but the reason, and the older
// version goes on serving.
func TestVersion_ThatCannotBeBuilt(t *testing.T) {
	pool := pgtest.Migrated(t)
	one, two := openVersion(t, pool, 1), openVersion(t, pool, 2)
	var r recorder
	finished(t, pool, &r, 0, 3)
	build(t, one)
	known := len(r.events)
	r.add("prod", "d9", "web", 1, "octocat", forwarded(9))
	r.events[known].Type = "boiled"
	put(t, pool, r.events[known:])

	var unknown *eventlog.UnknownEventError
	var stopped *StoppedError
	if err := two.Run(t.Context()); !errors.As(err, &unknown) || !errors.As(err, &stopped) {
		t.Fatalf("Run returned %v", err)
	}
	if got := schemas(t, pool); !slices.Equal(got, []string{"projections_v1"}) {
		t.Fatalf("schemas %v", got)
	}
	lag, err := two.Lag(t.Context())
	if err != nil || lag.Version != 1 || lag.Wanted != 2 || lag.Position != int64(known) ||
		lag.Err == nil || !strings.Contains(lag.Err.Error(), "boiled") {
		t.Fatalf("lag is %+v, %v", lag, err)
	}
	sameAsFold(t, two, foldAll(t, r.events[:known]))
	if lag, err := one.Lag(t.Context()); err != nil || lag.Version != 1 || lag.Err != nil {
		t.Fatalf("lag of the older version is %+v, %v", lag, err)
	}
	// Neither can be told of what does not fold, nor compared what is not there.
	if _, err := two.Audit(t.Context(), nil); !errors.As(err, &unknown) {
		t.Fatalf("an audit of what does not fold returned %v", err)
	}
	// Once it can be, the reason is gone.
	asOwner(t, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "set local session_replication_role = replica"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "alter table events disable trigger all; update events set type = 'forwarded' where type = 'boiled'")
		return err
	})
	r.events[known].Type = eventlog.TypeForwarded
	if err := two.Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if lag, err := two.Lag(t.Context()); err != nil || lag.Version != 2 || lag.Err != nil || lag.Events != 0 {
		t.Fatalf("lag is %+v, %v", lag, err)
	}
	sameAsFold(t, two, foldAll(t, r.events))
}

// A build that is cut short anywhere leaves what was there, and the next one does it.
func TestVersion_BuildThatIsCutShort(t *testing.T) {
	pool := pgtest.Migrated(t)
	one := openVersion(t, pool, 1)
	fillLog(t, pool, 12_000, 0)
	build(t, one)
	before := dumpVersion(t, pool, 1)
	for _, p := range []*Projector{one, openVersion(t, pool, 2)} {
		for _, after := range []int64{0, 1, 5000, 12_000} {
			ctx, cancel := context.WithCancel(t.Context())
			err := p.Rebuild(ctx, func(done, _ int64) {
				if done >= after {
					cancel()
				}
			})
			cancel()
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("cut at %d: %v", after, err)
			}
			if got := schemas(t, pool); !slices.Equal(got, []string{"projections_v1"}) {
				t.Fatalf("cut at %d: schemas %v", after, got)
			}
			if !slices.Equal(before, dumpVersion(t, pool, 1)) {
				t.Fatalf("cut at %d: the tables were changed", after)
			}
		}
	}
	two := openVersion(t, pool, 2)
	if err := two.Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(before, dumpVersion(t, pool, 2)) {
		t.Fatal("another version of the same fold has other rows")
	}
}

// The schemas' functions take no version that could name another schema, and the
// application may make no schema by itself.
func TestVersion_OnlySchemasOfReadModels(t *testing.T) {
	pool := pgtest.Migrated(t)
	for _, sql := range []string{
		"select projections.make_schema(0)", "select projections.make_schema(null)", "select projections.drop_schema(-1)",
		"select projections.drop_schema(null)", "create schema projections_v7", "create table projections.x ()",
	} {
		if _, err := pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s was not refused", sql)
		}
	}
}

func TestDelivery_Absent(t *testing.T) {
	pool := pgtest.Migrated(t)
	p := open(t, pool)
	for _, when := range []string{"before the tables are built", "after"} {
		if _, err := p.Delivery(t.Context(), "prod", "none"); !errors.Is(err, ErrNoDelivery) {
			t.Errorf("%s: %v", when, err)
		}
		list, err := p.Deployments(t.Context(), "")
		if err != nil || len(list) != 0 {
			t.Errorf("%s: %v, %v", when, list, err)
		}
		build(t, p)
	}
}

// Tables of an older version may lack columns that this binary has, and have
// some that it does not know: what it reads of them is what they have.
func TestTablesOfAnotherShapeAreRead(t *testing.T) {
	pool := pgtest.Migrated(t)
	var r recorder
	finished(t, pool, &r, 0, 3)
	build(t, openVersion(t, pool, 1))
	two := openVersion(t, pool, 2)
	want, err := two.Deployments(t.Context(), "prod")
	if err != nil || len(want) != 1 {
		t.Fatalf("%v, %v", want, err)
	}
	if _, err := pool.Exec(t.Context(), `alter table projections_v1.deployments drop column voided, drop column failed_step, add column mood text default 'fine';
		alter table projections_v1.deliveries drop column replays; alter table projections_v1.attempts drop column host`); err != nil {
		t.Fatal(err)
	}
	got, err := two.Deployments(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "deployments", got, want)
	if d, err := two.Delivery(t.Context(), "prod", "d1"); err != nil || d.Attempts != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	if list, err := two.Attempts(t.Context(), AttemptFilter{Deployment: "web"}); err != nil || len(list) != 3 || list[0].Host != "" || list[0].Outcome != OutcomeDeployed {
		t.Fatalf("%+v, %v", list, err)
	}
}
