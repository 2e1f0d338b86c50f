package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(testContext(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func text(t *testing.T, conn *pgx.Conn, sql string) (s string) {
	t.Helper()
	if err := conn.QueryRow(testContext(t), sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func migrate(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	if err := migrations.Migrate(testContext(t), conn); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(testContext(t), conn); err != nil {
		t.Fatal(err)
	}
}

// connectAs makes a session of the user's, whatever pg_hba.conf says of logging in.
func connectAs(t *testing.T, dsn, user string) *pgx.Conn {
	t.Helper()
	conn := connect(t, dsn)
	exec(t, conn, "set session authorization "+user)
	return conn
}

// sqlAppendOne is a call of the function that programs append with. The hashes
// have the right length and mean nothing.
func sqlAppendOne(position int, at, id string, delivery int) string {
	hashes := strings.Repeat("00", 32*(1+bits.TrailingZeros(uint(position))))
	return fmt.Sprintf(`select event_log_append(%d, %s, array['%s'], array['i'], array['d%d'], array['voided'],
		array[null::text], array[0], array['me'], array['{"v":1}'], array['\x%s'::bytea])`, position, at, id, delivery, hashes)
}

// appendOne appends an event as a program of the log does.
func appendOne(t *testing.T, conn *pgx.Conn, position int) error {
	t.Helper()
	return pgx.BeginFunc(testContext(t), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(testContext(t), "select event_log_lock()"); err != nil {
			return err
		}
		_, err := tx.Exec(testContext(t), sqlAppendOne(position, "clock_timestamp()", fmt.Sprintf("%026d", position), position))
		return err
	})
}

func wantRefused(t *testing.T, conn *pgx.Conn, who, sql string) {
	t.Helper()
	_, err := conn.Exec(testContext(t), sql)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" {
		t.Errorf("%s: %s: got %v, want insufficient_privilege", who, sql, err)
	}
}

func TestMigrateIsIdempotentAndLeavesTheRoleAsItWas(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	var old *migrations.TooOldError
	if err := migrations.Check(testContext(t), conn); !errors.As(err, &old) || old.Have != 0 {
		t.Errorf("check of an empty database: %v", err)
	}
	if err := migrations.SetRole(testContext(t), conn); err != nil {
		t.Errorf("set role in an empty database: %v", err)
	}
	migrate(t, conn)
	if roles, err := migrations.Roles(testContext(t), conn); err != nil || !roles {
		t.Fatalf("roles: %v, %v", roles, err)
	}
	if role := text(t, conn, "select current_setting('role')"); role != "none" {
		t.Errorf("role after migrate is %s", role)
	}
	if n := text(t, conn, "select count(*)::text from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"); n != "0" {
		t.Errorf("%s advisory locks are left", n)
	}
	if err := migrations.SetRole(testContext(t), conn); err != nil {
		t.Fatal(err)
	}
	migrate(t, conn) // from a connection of the pool
	if role := text(t, conn, "select current_user::text"); role != migrations.AppRole {
		t.Errorf("role after migrate is %s", role)
	}
	// Nothing was left to the connecting role by mistake.
	if others := text(t, conn, `select coalesce(string_agg(relname, ' '), '') from pg_class c join pg_namespace n on n.oid = relnamespace
		where nspname not like 'pg\_%' and nspname <> 'information_schema' and relkind in ('r', 'p', 'S', 'v') and pg_get_userbyid(relowner) <> 'durhack_deployer_owner'`); others != "" {
		t.Errorf("not owned by the owner role: %s", others)
	}
}

func TestOlderBinaryRefuses(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	migrate(t, conn)
	exec(t, conn, "update schema_version set version = version + 1")
	want, err := migrations.Version()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(context.Context, *pgx.Conn) error{"migrate": migrations.Migrate, "check": migrations.Check} {
		var newer *migrations.TooNewError
		if err := f(testContext(t), conn); !errors.As(err, &newer) || newer.Have != want+1 || newer.Want != want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestApplicationMayOnlyAppend(t *testing.T) {
	dsn := pgtest.DSN(t)
	admin := connect(t, dsn)
	migrate(t, admin)
	app := connect(t, dsn)
	if err := migrations.SetRole(testContext(t), app); err != nil {
		t.Fatal(err)
	}
	if err := appendOne(t, app, 1); err != nil {
		t.Fatal(err)
	}
	exec(t, app, `select event_log_store(encode(sha256('sx'), 'hex'), 's', '', 'x')`)
	if _, err := app.Exec(testContext(t), `select event_log_store(repeat('0', 64), 's', '', 'x')`); err == nil {
		t.Error("a body was stored under a digest that is not its own")
	}
	attacks := []string{
		"update events set actor = 'x'", "delete from events", "delete from events where false", "truncate events",
		"update payloads set body = 'y'", "truncate payloads", "delete from log_head", "truncate log_head",
		"update log_head set position = 0", "update event_hashes set hashes = '\\x00'", "delete from event_hashes", "truncate event_hashes",
		"delete from payloads", "update bodies_left_out set position = 1", "delete from bodies_left_out", "truncate bodies_left_out",
		`insert into events select * from events on conflict do nothing`,
		"alter table events disable trigger all", "drop table events", "drop function event_log_refuse() cascade",
		"delete from schema_version", "insert into event_hashes values (2, '\\x00')",
		`insert into payloads (digest, salt, content_type, body) values (repeat('0', 64), '', '', 'x')`, "select event_log_fill_hashes()",
		"create function public.f() returns int language sql return 1",
		"insert into bodies_left_out (position) values (1)", "drop trigger bodies_left_out_imported on bodies_left_out",
	}
	for _, sql := range attacks {
		wantRefused(t, app, "application role", sql)
	}
	// What the triggers refuse to everyone who does not take them away first.
	for _, role := range []string{migrations.OwnerRole, "none"} {
		exec(t, admin, "set role "+role)
		for _, sql := range attacks[:16] {
			wantRefused(t, admin, role, sql)
		}
	}
	// An import is the first that is written, or none.
	for _, role := range []string{migrations.OwnerRole, "none"} {
		exec(t, admin, "set role "+role)
		wantRefused(t, admin, role, "insert into bodies_left_out (position) values (1)")
	}
	exec(t, admin, "set session_replication_role = replica")
	for _, sql := range attacks[:16] {
		wantRefused(t, admin, "replica", sql)
	}
	if got := text(t, admin, "select string_agg(position || actor, ' ') from events"); got != "1me" {
		t.Errorf("log has %s", got)
	}
}

// Every trigger of the log is missed by name, wherever it is taken away.
func TestUnguarded(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	migrate(t, conn)
	triggers := strings.Fields(text(t, conn, `select string_agg(relname || '.' || tgname, ' ' order by relname, tgname)
		from pg_trigger join pg_class c on c.oid = tgrelid where not tgisinternal`))
	if len(triggers) < 8 {
		t.Fatalf("triggers %s", triggers)
	}
	for _, trigger := range triggers {
		for _, sql := range []string{"disable trigger %s", "enable replica trigger %s", "enable trigger %s"} {
			table, name, _ := strings.Cut(trigger, ".")
			exec(t, conn, "alter table "+table+" "+fmt.Sprintf(sql, name))
			if missed, err := migrations.Unguarded(testContext(t), conn); err != nil || !slices.Equal(missed, []string{trigger}) {
				t.Errorf("%s, %s: missed %s, %v", trigger, sql, missed, err)
			}
			exec(t, conn, "alter table "+table+" enable always trigger "+name)
		}
	}
	if missed, err := migrations.Unguarded(testContext(t), conn); err != nil || len(missed) != 0 {
		t.Errorf("missed %s, %v", missed, err)
	}
	exec(t, conn, "drop table payloads; drop trigger log_head_stays on log_head")
	if missed, err := migrations.Unguarded(testContext(t), conn); err != nil || len(missed) != 3 {
		t.Errorf("missed %s, %v", missed, err)
	}
}

// The function does not take its caller's word for the order.
func TestAppendFunctionKeepsTheOrder(t *testing.T) {
	dsn := pgtest.DSN(t)
	migrate(t, connect(t, dsn))
	app := connect(t, dsn)
	if err := migrations.SetRole(testContext(t), app); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		if err := appendOne(t, app, n); err != nil {
			t.Fatal(err)
		}
	}
	good, now := fmt.Sprintf("%026d", 4), "clock_timestamp()"
	for name, sql := range map[string]string{
		"gap":          sqlAppendOne(5, now, good, 4),
		"taken":        sqlAppendOne(3, now, good, 4),
		"old ID":       sqlAppendOne(4, now, fmt.Sprintf("%026d", 3), 4),
		"short ID":     sqlAppendOne(4, now, "4", 4),
		"back-dated":   sqlAppendOne(4, "now() - interval '1 s'", good, 4),
		"future":       sqlAppendOne(4, "now() + interval '1 h'", good, 4),
		"no time":      sqlAppendOne(4, "null", good, 4),
		"identity":     sqlAppendOne(4, now, good, 3),
		"not JSON":     strings.Replace(sqlAppendOne(4, now, good, 4), `{"v":1}`, `{`, 1),
		"ragged array": strings.Replace(sqlAppendOne(4, now, good, 4), "array['i']", "array['i', 'j']", 1),
		"nothing":      "select event_log_append(4, now(), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
		"no hashes":    regexp.MustCompile(`array\['\\x.*?\]`).ReplaceAllString(sqlAppendOne(4, now, good, 4), "'{}'"),
		"few hashes":   strings.Replace(sqlAppendOne(4, now, good, 4), strings.Repeat("00", 32), "", 1),
		"many hashes":  strings.Replace(sqlAppendOne(4, now, good, 4), strings.Repeat("00", 32), strings.Repeat("00", 64), 1),
	} {
		if _, err := app.Exec(testContext(t), sql); err == nil {
			t.Errorf("%s: was appended", name)
		}
	}
	if err := appendOne(t, app, 4); err != nil {
		t.Fatal(err)
	}
}

// Roles belong to the server, so this one has none of ours at the start.
func TestRolesOfAServer(t *testing.T) {
	s := pgtest.NewServer(t)
	admin := connect(t, s.DSN())
	exec(t, admin, "create role plain_owner login")
	exec(t, admin, "create role roles_maker login createrole")

	t.Run("who cannot make roles does without", func(t *testing.T) {
		testOwner(t, admin, s.Database(t, "plain"), "plain_owner", false)
	})
	t.Run("many databases and processes at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for d := range 3 {
			dsn := s.Database(t, fmt.Sprint("db", d))
			for range 3 {
				wg.Go(func() {
					conn, err := pgx.Connect(testContext(t), dsn)
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = conn.Close(context.Background()) }()
					if err := migrations.Migrate(testContext(t), conn); err != nil {
						t.Error(err)
					}
					if err := migrations.Check(testContext(t), conn); err != nil {
						t.Error(err)
					}
					if roles, err := migrations.Roles(testContext(t), conn); err != nil || !roles {
						t.Errorf("roles: %v, %v", roles, err)
					}
				})
			}
		}
		wg.Wait()
	})
	t.Run("roles that somebody else made and did not share", func(t *testing.T) {
		testOwner(t, admin, s.Database(t, "plain2"), "plain_owner", false)
	})
	t.Run("who may make roles does, without being a superuser", func(t *testing.T) {
		for d := range 3 {
			exec(t, admin, fmt.Sprintf("drop database db%d with (force)", d))
		}
		exec(t, admin, "drop role "+migrations.OwnerRole)
		exec(t, admin, "drop role "+migrations.AppRole)
		testOwner(t, admin, s.Database(t, "made"), "roles_maker", true)
	})
}

// testOwner migrates a database as its owner, who is no superuser.
func testOwner(t *testing.T, admin *pgx.Conn, dsn, user string, want bool) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, admin, "alter database "+config.Database+" owner to "+user)
	conn := connectAs(t, dsn, user)
	migrate(t, conn)
	migrate(t, conn)
	if roles, err := migrations.Roles(testContext(t), conn); err != nil || roles != want {
		t.Fatalf("roles: %v, %v; want %v", roles, err, want)
	}
	if err := migrations.SetRole(testContext(t), conn); err != nil {
		t.Fatal(err)
	}
	worker := user
	if want {
		worker = migrations.AppRole
	}
	if got := text(t, conn, "select current_user::text"); got != worker {
		t.Errorf("works as %s, want %s", got, worker)
	}
	if err := appendOne(t, conn, 1); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"update events set actor = 'x'", "delete from events", "truncate events"} {
		wantRefused(t, conn, user, sql)
	}
}

// A database's own defaults must not make commits less than durable.
func TestAppendIsDurableWhateverTheDefault(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	migrate(t, conn)
	exec(t, conn, "set synchronous_commit = off")
	exec(t, conn, "begin")
	exec(t, conn, "select event_log_lock()")
	if got := text(t, conn, "select current_setting('synchronous_commit')"); got != "on" {
		t.Errorf("synchronous_commit is %s", got)
	}
	if got := text(t, conn, "select current_setting('idle_in_transaction_session_timeout')"); got != "30s" {
		t.Errorf("idle_in_transaction_session_timeout is %s", got)
	}
	exec(t, conn, "commit")
	if got := text(t, conn, "select current_setting('synchronous_commit')"); got != "off" {
		t.Errorf("synchronous_commit is %s after the transaction", got)
	}
}

// What was granted on the database itself is neither copied with it nor in a dump;
// the next start of the daemon, which migrates, mends that.
func TestACopiedDatabaseGetsItsRightsBack(t *testing.T) {
	dsn := pgtest.DSN(t)
	origin := connect(t, dsn)
	migrate(t, origin)
	name := text(t, origin, "select current_database()")
	if err := origin.Close(testContext(t)); err != nil { // a database in use cannot be copied
		t.Fatal(err)
	}
	other := pgtest.DSN(t)
	config, err := pgx.ParseConfig(other)
	if err != nil {
		t.Fatal(err)
	}
	admin := connect(t, pgtest.DSN(t))
	exec(t, admin, "drop database "+config.Database)
	exec(t, admin, "create database "+config.Database+" template "+name)

	copied := connect(t, other)
	const q = "select has_database_privilege('" + migrations.OwnerRole + "', current_database(), 'create')::text"
	if got := text(t, copied, q); got != "false" {
		t.Fatalf("the copy has the right already (%s): the test is worthless", got)
	}
	migrate(t, copied)
	if got := text(t, copied, q); got != "true" {
		t.Errorf("the owner may make schemas: %s", got)
	}
	app := connect(t, other)
	if err := migrations.SetRole(testContext(t), app); err != nil {
		t.Fatal(err)
	}
	exec(t, app, "select projections.make_schema(7)")
	exec(t, app, "create table projections_v7.x ()")
	exec(t, app, "select projections.drop_schema(7)")
	wantRefused(t, app, "application role", "create schema projections_v8")
}

// A version's schema goes with all that is in it, and with its checkpoint.
func TestASchemaOfReadModelsGoesAsAWhole(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	migrate(t, conn)
	exec(t, conn, "select projections.make_schema(1)")
	exec(t, conn, "create table projections_v1.deployments ()")
	exec(t, conn, "insert into projections.checkpoints (name, version, position, built) values ('state', 1, 3, true)")
	exec(t, conn, "select projections.drop_schema(1)")
	if got := text(t, conn, "select (select count(*) from projections.checkpoints)::text || coalesce(to_regnamespace('projections_v1')::text, '')"); got != "0" {
		t.Errorf("left over: %s", got)
	}
}
