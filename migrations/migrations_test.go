package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/oklog/ulid/v2"

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

// call is one of the function that programs append with. Its fields are SQL.
type call struct {
	position                       int
	at, id, delivery, typ, data    string
	leaf                           string // what is hashed as the leaf: by default its own
	instances, hashes, deployments string // by default those of one event
}

// newID is a ULID of a time that follows those of smaller positions.
func newID(position int, at time.Time) string {
	var id ulid.ULID
	_ = id.SetTime(ulid.Timestamp(at))
	id[14], id[15] = byte(position>>8), byte(position)
	return id.String()
}

// one is of now, by the clock here: the ID is of that time, however late the database gets it.
func one(position int) call { return oneOf(position, time.Now()) }

func oneOf(position int, at time.Time) call {
	return call{
		position: position, at: at.UTC().Format("timestamptz '2006-01-02 15:04:05.000000Z'"), id: newID(position, at), delivery: fmt.Sprint("d", position), typ: "voided", data: `{"v":1}`,
		instances: "array['i']", deployments: "array[null::text]",
		leaf:   "event_log_leaf(c.p, c.id, 'i', c.delivery, c.type, null, 0, 'me', (extract(epoch from c.at) * 1000000)::bigint::text, c.data)",
		hashes: "array[(select string_agg(hash, '' order by level) from node)]",
	}
}

// sql gives the event hashes by the definition of the tree.
func (c call) sql() string {
	return fmt.Sprintf(`with recursive c as materialized (
			select %d::bigint as p, (%s)::timestamptz as at, '%s'::text as id, '%s'::text as delivery, '%s'::text as type, '%s'::text as data
		), node as (
			select 0 as level, sha256('\x00'::bytea || %s) as hash from c
			union all
			select level + 1, sha256('\x01'::bytea || coalesce((select substr(h.hashes, 32 * level + 1, 32) from event_hashes h where h.position = c.p - (1 << level)), '') || hash)
				from node, c where c.p >> level & 1 = 0
		)
		select event_log_append(c.p, c.at, array[c.id], %s, array[c.delivery], array[c.type], %s, array[0], array['me'], array[c.data], %s) from c`,
		c.position, c.at, c.id, c.delivery, c.typ, strings.ReplaceAll(c.data, "'", "''"), c.leaf, c.instances, c.deployments, c.hashes)
}

// appendOne appends an event as a program of the log does.
func appendOne(t *testing.T, conn *pgx.Conn, position int) error {
	t.Helper()
	return pgx.BeginFunc(testContext(t), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(testContext(t), "select event_log_lock()"); err != nil {
			return err
		}
		_, err := tx.Exec(testContext(t), one(position).sql())
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

func TestMigrate_OlderBinaryRefuses(t *testing.T) {
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
	exec(t, app, `select event_log_store(encode(sha256('0123456789abcdefx'), 'hex'), '0123456789abcdef', '', 'x')`)
	for what, sql := range map[string]string{
		"under a digest that is not its own": `select event_log_store(repeat('0', 64), '0123456789abcdef', '', 'x')`,
		"in its salt":                        `select event_log_store(encode(sha256('0123456789abcdefx'), 'hex'), '0123456789abcdefx', '', '')`,
		"with a short salt":                  `select event_log_store(encode(sha256('0123456789abcdefx'), 'hex'), '0123456789abcde', '', 'fx')`,
		"without a salt":                     `select event_log_store(encode(sha256('x'), 'hex'), null, '', 'x')`,
	} {
		if _, err := app.Exec(testContext(t), sql); err == nil {
			t.Errorf("a body was stored %s", what)
		}
	}
	attacks := []string{
		"update events set actor = 'x'", "delete from events", "delete from events where false", "truncate events",
		"update payloads set body = 'y'", "truncate payloads", "delete from log_head", "truncate log_head",
		"update log_head set position = 0", "update event_hashes set hashes = '\\x00'", "delete from event_hashes", "truncate event_hashes",
		"delete from payloads", "update bodies_left_out set position = 1", "delete from bodies_left_out", "truncate bodies_left_out",
		`insert into events select * from events on conflict do nothing`,
		"alter table events disable trigger all", "drop table events", "drop function event_log_refuse() cascade",
		"delete from schema_version", "insert into event_hashes values (2, '\\x00')",
		`insert into payloads (digest, salt, content_type, body) values (repeat('0', 64), '', '', 'x')`,
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
	last := text(t, app, "select last_id from log_head")
	deep := func(n int) string {
		return `{"v":1,"s":"[[[\"","x":` + strings.Repeat(`[{"a":`, n/2-1) + "[]" + strings.Repeat("}]", n/2-1) + "}"
	}
	for _, c := range []struct {
		name   string
		change func(c *call)
		want   string
	}{
		{"gap", func(c *call) { c.position = 5 }, "but the log ends at 3"},
		{"taken", func(c *call) { c.position = 3 }, "but the log ends at 3"},
		{"old ID", func(c *call) { c.id = last }, "does not follow"},
		{"short ID", func(c *call) { c.id = c.id[:25] }, "events_id_is_a_ulid"},
		{"no ULID", func(c *call) { c.id = c.id[:25] + "u" }, "no ULID"},
		{"the greatest ID", func(c *call) { c.id = "7ZZZZZZZZZZZZZZZZZZZZZZZZZ" }, "is not of the time of the append"},
		{"an ID of later", func(c *call) { c.id = newID(4, time.Now().Add(5*time.Second)) }, "is not of the time of the append"},
		{"before the last", func(c *call) { c.at = "(select recorded_at - interval '1 microsecond' from events where position = 3)" }, "not that of the append"},
		{"back-dated", func(c *call) { c.at = "now() - interval '3 days'" }, "not that of the append"},
		{"future", func(c *call) { c.at = "now() + interval '1 h'" }, "not that of the append"},
		{"no time", func(c *call) { c.at = "null" }, "not that of the append"},
		{"identity", func(c *call) { c.delivery = "d3" }, "events_identity"},
		{"not JSON", func(c *call) { c.data = "{" }, "invalid input syntax for type json"},
		{"deep", func(c *call) { c.data = deep(258) }, "nested deeper than 256"},
		{"long", func(c *call) { c.data = `{"v":1,"x":"` + strings.Repeat("x", 16<<20) + `"}` }, "longer than 16777216 bytes"},
		{"ragged array", func(c *call) { c.instances = "array['i', 'j']" }, "null value"},
		{"no hashes", func(c *call) { c.hashes = "'{}'" }, "1 events with 0 rows of hashes"},
		{"few hashes", func(c *call) { c.hashes = "array[(select hash from node where level = 0)]" }, "event_hashes_are_those_completed"},
		{"many hashes", func(c *call) { c.hashes = "array[(select string_agg(hash || hash, '') from node)]" }, "event_hashes_are_those_completed"},
		{"hash of nothing", func(c *call) { c.leaf = "'\\x00'::bytea" }, "is not that of its leaf"},
		{"hash of another actor", func(c *call) { c.leaf = strings.Replace(c.leaf, "'me'", "'you'", 1) }, "is not that of its leaf"},
		{"wrong nodes", func(c *call) {
			c.hashes = "array[(select hash from node where level = 0) || sha256('a') || sha256('b')]"
		}, "are not those of the tree below"},
		{"one wrong node", func(c *call) {
			c.hashes = "array[(select string_agg(hash, '' order by level) from node where level < 2) || sha256('b')]"
		}, "are not those of the tree below"},
	} {
		bad := one(4)
		c.change(&bad)
		if _, err := app.Exec(testContext(t), bad.sql()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := app.Exec(testContext(t), "select event_log_append(4, now(), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')"); err == nil {
		t.Error("nothing was appended")
	}
	if err := appendOne(t, app, 4); err != nil {
		t.Fatal(err)
	}
	deepest := one(5)
	deepest.data = deep(256)
	exec(t, app, deepest.sql())
}

// A program may read the time before its append reaches the server, but not long before.
func TestAppendFunctionTakesATimeOfTheLastMinute(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	migrate(t, conn)
	for ago, taken := range map[time.Duration]bool{61 * time.Second: false, 40 * time.Second: true} {
		exec(t, conn, "begin")
		if _, err := conn.Exec(testContext(t), oneOf(1, time.Now().Add(-ago)).sql()); (err == nil) != taken {
			t.Errorf("an event of %s ago: %v", ago, err)
		}
		exec(t, conn, "rollback")
	}
}

// Nobody dates an event before the one before it, or after the one after it, without
// taking the trigger away first.
func TestTimeNeverFalls(t *testing.T) {
	admin := connect(t, pgtest.DSN(t))
	migrate(t, admin)
	insert := func(from, to int, at string) string {
		return fmt.Sprintf(`insert into events (position, id, instance, delivery_id, type, attempt, actor, recorded_at, data)
			select n, lpad(n::text, 26, '0'), 'i', 'd' || n, 'voided', 0, 'me', %s, '{"v":1}' from generate_series(%d, %d) n`, at, from, to)
	}
	const day = `timestamptz '2026-01-10' + n * interval '1 day'`
	exec(t, admin, insert(1, 3, day))
	exec(t, admin, insert(7, 8, day))
	for _, role := range []string{migrations.OwnerRole, "none"} {
		exec(t, admin, "set role "+role)
		for what, sql := range map[string]string{
			"before the last":          insert(9, 9, "timestamptz '2026-01-17'"),
			"by a microsecond":         insert(9, 9, "(select recorded_at - interval '1 microsecond' from events where position = 8)"),
			"one of several":           insert(9, 11, "timestamptz '2026-01-17' + (n % 2) * interval '2 days'"),
			"falling among themselves": insert(9, 11, `timestamptz '2026-01-30' - n * interval '1 day'`),
			"in a hole, too early":     insert(4, 4, "timestamptz '2026-01-12'"),
			"in a hole, too late":      insert(6, 6, "timestamptz '2026-01-18'"),
			"in a hole, all but one":   insert(4, 6, `timestamptz '2026-01-14' + (n - 4) * interval '47 hours'`),
			"behind a hole":            insert(20, 20, "timestamptz '2026-01-12'"),
			"far behind":               insert(1<<30, 1<<30+1, "timestamptz '2026-01-12' + (n % 2) * interval '1 day'"),
		} {
			wantRefused(t, admin, role+", "+what, sql)
		}
	}
	exec(t, admin, "set session_replication_role = replica")
	wantRefused(t, admin, "replica", insert(9, 9, "timestamptz '2026-01-12'"))
	exec(t, admin, "reset session_replication_role")
	exec(t, admin, insert(4, 6, day))
	exec(t, admin, insert(9, 9, `timestamptz '2026-01-18'`))

	// After a clock that was ahead has stepped back, time stands still.
	exec(t, admin, insert(10, 10, `timestamptz '2126-01-01'`))
	exec(t, admin, "update log_head set position = 10, last_id = lpad('10', 26, '0')")
	rehash(t, admin)
	if got := text(t, admin, "select extract(year from at)::text from event_log_lock()"); got != "2126" {
		t.Errorf("the next event would be of %s", got)
	}
	next := one(11)
	wantErr := func(at string) {
		t.Helper()
		next.at = at
		if _, err := admin.Exec(testContext(t), next.sql()); err == nil || !strings.Contains(err.Error(), "not that of the append") {
			t.Errorf("appended at %s: %v", at, err)
		}
	}
	wantErr("clock_timestamp()")
	wantErr("timestamptz '2126-01-01' + interval '1 microsecond'")
	next.at, next.id = "timestamptz '2126-01-01'", newID(11, time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC))
	exec(t, admin, next.sql())
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
// the next start of the daemon, which migrates, fixes that.
func TestMigrate_CopiedDatabaseGetsItsRightsBack(t *testing.T) {
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
func TestReadModels_SchemaGoesAsAWhole(t *testing.T) {
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
