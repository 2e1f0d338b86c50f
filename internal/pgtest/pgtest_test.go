package pgtest_test

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/migrations"
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

func TestDSN_IsAFreshDatabaseThatIsDropped(t *testing.T) {
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

func TestMigrated_DatabasesAreSeparateAndWorkAsTheApplication(t *testing.T) {
	ctx := context.Background()
	a, b := pgtest.Migrated(t), pgtest.Migrated(t)
	var role, nameA, nameB string
	if err := a.QueryRow(ctx, "SELECT current_user, current_database()").Scan(&role, &nameA); err != nil {
		t.Fatal(err)
	}
	if err := b.QueryRow(ctx, "SELECT current_database()").Scan(&nameB); err != nil {
		t.Fatal(err)
	}
	if role != migrations.AppRole || nameA == nameB {
		t.Errorf("role %s in database %s, and the other is %s", role, nameA, nameB)
	}
	if err := migrations.Check(ctx, connect(t, pgtest.MigratedDSN(t))); err != nil {
		t.Error(err)
	}
}

// A connection string of somebody else's server, of either form.
func TestDSN_OfAnotherServerCanBeUsed(t *testing.T) {
	s := pgtest.NewServer(t)
	cfg, err := pgx.ParseConfig(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("postgres://%s@/postgres?sslmode=disable&host=%s&port=%d", cfg.User, cfg.Host, cfg.Port)
	for _, dsn := range []string{s.DSN(), url} {
		cmd := osexec.Command(os.Args[0], "-test.run=^(TestDSN_IsAFresh|TestMigrated_)", "-test.count=1")
		cmd.Env = append(os.Environ(), "DURHACK_TEST_DATABASE_URL="+dsn)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", dsn, err, out)
		}
		conn := connect(t, s.DSN())
		if n := count(t, conn, "SELECT count(*) FROM pg_roles WHERE rolname = '"+migrations.AppRole+"'"); n != 1 {
			t.Error("the tests did not use the server they were given")
		}
		if n := count(t, conn, "SELECT count(*) FROM pg_database WHERE datname LIKE 'durhack_test_%'"); n != 0 {
			t.Errorf("%d databases were left behind", n)
		}
	}
}

func TestServer_KeepsWhatWasCommittedOverStopAndKill(t *testing.T) {
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
