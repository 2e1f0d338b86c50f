package pgtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, conn *pgx.Conn, sql string) (n int) {
	t.Helper()
	if err := conn.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEachDSNIsAFreshDatabaseThatIsDropped(t *testing.T) {
	watch := connect(t, pgtest.DSN(t))
	var name string
	t.Run("user", func(t *testing.T) {
		conn := connect(t, pgtest.DSN(t))
		exec(t, conn, "CREATE TABLE a (b int)")
		if err := conn.QueryRow(context.Background(), "SELECT current_database()").Scan(&name); err != nil {
			t.Fatal(err)
		}
		other := connect(t, pgtest.DSN(t))
		if n := count(t, other, "SELECT count(*) FROM pg_class WHERE relname = 'a'"); n != 0 {
			t.Errorf("a fresh database has another's table")
		}
	})
	if n := count(t, watch, "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"); n != 0 {
		t.Errorf("database %s outlived its test", name)
	}
}

func TestServerKeepsWhatWasCommittedOverStopAndKill(t *testing.T) {
	s := pgtest.NewServer(t)
	conn := connect(t, s.DSN())
	exec(t, conn, "CREATE TABLE a (b int)")
	for i, end := range []func(testing.TB){s.Stop, s.Kill, s.Kill} {
		conn := connect(t, s.DSN())
		exec(t, conn, "INSERT INTO a VALUES (1)")
		before := s.PID()
		end(t)
		if s.PID() != 0 {
			t.Fatal("the server runs after its end")
		}
		if err := conn.Ping(context.Background()); err == nil {
			t.Error("a session outlived the server")
		}
		if late, err := pgx.Connect(context.Background(), s.DSN()); err == nil {
			late.Close(context.Background())
			t.Error("a server that has ended answers")
		}
		s.Start(t)
		if s.PID() == 0 || s.PID() == before {
			t.Errorf("the server is process %d after its restart, and was %d", s.PID(), before)
		}
		if n := count(t, connect(t, s.DSN()), "SELECT count(*) FROM a"); n != i+1 {
			t.Errorf("%d rows after %d commits", n, i+1)
		}
	}
}
