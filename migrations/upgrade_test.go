package migrations_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	tern "github.com/jackc/tern/v2/migrate"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// firstBounded is the first schema that has the leaf by its columns, with which the
// events here are hashed.
const firstBounded = 6

// A log that an older binary wrote is whole after an upgrade, and goes on.
func TestMigrate_LogOfAnOlderSchemaGoesOn(t *testing.T) {
	migrate(t, connect(t, pgtest.DSN(t))) // makes the roles of the server
	newest, err := migrations.Version()
	if err != nil {
		t.Fatal(err)
	}
	for version := int32(firstBounded); version < int32(newest); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			ctx, dsn := testContext(t), pgtest.DSN(t)
			admin := connect(t, dsn)
			exec(t, admin, `do $$ begin execute format('grant create on database %I to `+migrations.OwnerRole+`', current_database()); end $$;
				grant usage, create on schema public to `+migrations.OwnerRole+"; set role "+migrations.OwnerRole)
			old, err := tern.NewMigrator(ctx, admin, "public.schema_version")
			if err != nil {
				t.Fatal(err)
			}
			old.Data["roles"] = true
			if err := old.LoadMigrations(os.DirFS(".")); err != nil {
				t.Fatal(err)
			}
			if err := old.MigrateTo(ctx, version); err != nil {
				t.Fatal(err)
			}
			exec(t, admin, "reset role")
			app := connect(t, dsn)
			if err := migrations.SetRole(ctx, app); err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= 5; n++ {
				if err := appendOne(t, app, n); err != nil {
					t.Fatal(err)
				}
			}
			before := text(t, app, "select string_agg(e::text || h::text, ' ' order by position) from events e join event_hashes h using (position)")

			migrate(t, admin)
			if after := text(t, app, "select string_agg(e::text || h::text, ' ' order by position) from events e join event_hashes h using (position)"); after != before {
				t.Errorf("the log was\n%s\nand is\n%s", before, after)
			}
			log := eventlog.Open(pgtest.Pool(t, dsn), slog.New(slog.DiscardHandler))
			defer log.Close()
			for n := range 3 {
				if _, err := log.Append(ctx, eventlog.Group{Transitions: []eventlog.Transition{
					{Instance: "i", DeliveryID: fmt.Sprint("later", n), Data: eventlog.Voided{Reason: eventlog.ReasonPing}},
				}}); err != nil {
					t.Fatal(err)
				}
			}
			if v, err := log.Verify(ctx, eventlog.VerifyOptions{}); err != nil || len(v.Faults) != 0 || v.Tree.N != 8 {
				t.Errorf("verified %+v, %v", v, err)
			}
		})
	}
}

// rehash gives the events behind the last hashes theirs.
func rehash(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	if err := samplelog.Rehash(testContext(t), conn); err != nil {
		t.Fatal(err)
	}
}
