package eventlog

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

const patience = time.Minute

var quiet = slog.New(slog.DiscardHandler)

// tester is a test, or a check of rapid.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// testContext ends before the test binary's own limit, so that a test that
// hangs says where.
func testContext(t tester) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// migrate brings the database up to date and returns a pool of the application role.
func migrate(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	pgtest.Migrate(t, dsn)
	return pgtest.Pool(t, dsn)
}

// superuser is a connection that may do what the application may not.
func superuser(t testing.TB, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(testContext(t), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// rehash gives the events behind the last hashes theirs.
func rehash(t testing.TB, db samplelog.DB) {
	t.Helper()
	if err := samplelog.Rehash(testContext(t), db); err != nil {
		t.Fatal(err)
	}
}

func openLog(t testing.TB, pool *pgxpool.Pool, options ...Option) *Log {
	t.Helper()
	l := Open(pool, quiet, options...)
	t.Cleanup(l.Close)
	return l
}

func newLog(t testing.TB) *Log {
	t.Helper()
	return openLog(t, migrate(t, pgtest.DSN(t)))
}

func received(delivery string) Transition {
	return Transition{
		Instance: "test", DeliveryID: delivery, Actor: "octocat",
		Data: Received{Event: "push", Ref: "refs/heads/main", Repository: "ducompsoc/durhack", Commit: "0123456789012345678901234567890123456789", Source: SourceGitHub},
	}
}

func started(delivery, deployment string, attempt int) Transition {
	return Transition{
		Instance: "test", DeliveryID: delivery, Deployment: deployment, Attempt: attempt, Actor: "octocat",
		Data: Started{Commit: "0123456789012345678901234567890123456789", Host: "web1", PID: 42, Plan: []string{"checkout", "build"}},
	}
}

func deployed(delivery, deployment string, attempt int) Transition {
	return Transition{
		Instance: "test", DeliveryID: delivery, Deployment: deployment, Attempt: attempt, Actor: "octocat",
		Data: Deployed{Commit: "0123456789012345678901234567890123456789", Steps: []Step{{Name: "checkout", DurationMS: 3, Result: "ok"}}, DurationMS: 12},
	}
}

func group(transitions ...Transition) Group { return Group{Transitions: transitions} }

func mustAppend(t testing.TB, l *Log, g Group) []Event {
	t.Helper()
	events, err := l.Append(testContext(t), g)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func all(t testing.TB, l *Log) []Event {
	t.Helper()
	var events []Event
	if err := l.Scan(testContext(t), 0, func(batch []Event) error {
		for _, e := range batch {
			e.Data = append([]byte(nil), e.Data...)
			events = append(events, e)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return events
}

func sameEvent(a, b Event) bool {
	return fmt.Sprintf("%+v %s", flat(a), a.Data) == fmt.Sprintf("%+v %s", flat(b), b.Data)
}

// flat is an event without its pointer.
func flat(e Event) []any {
	return []any{e.Position, e.ID, e.Instance, e.DeliveryID, e.Type, e.Deployment == nil, e.DeploymentSlug(), e.Attempt, e.Actor, e.RecordedAt}
}

// appendRaw appends an event as anyone with the application's role can, around the
// appender: with hashes and a time that fit, and whatever else the event says.
func appendRaw(t testing.TB, pool *pgxpool.Pool, e Event) error {
	t.Helper()
	ctx := testContext(t)
	pooled, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	defer rollback(ctx, conn)
	s, err := lockAndRead(ctx, conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Position, e.ID, e.RecordedAt = s.position+1, nextID(s.lastID, s.at).String(), s.at
	tree, err := readEdge(ctx, conn, s.position)
	if err != nil {
		t.Fatal(err)
	}
	return write(ctx, conn, decision{events: []Event{e}}, [][]byte{tree.Add(LeafHash(&e), nil)})
}
