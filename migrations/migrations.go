// Package migrations owns the schema of the database: NNN_name.sql files, run
// forward only with tern, and the roles that the schema belongs to.
//
// # Roles
//
// Where the connecting role may create roles, everything belongs to OwnerRole,
// which does not log in, and programs work as AppRole, which may read and may
// append through one function. Such a migration runs as OwnerRole. Where it may
// not, everything belongs to the connecting role, and the triggers of
// 001_event_log.sql alone stand guard. Which of the two holds is settled when a
// database is first migrated.
//
// A migration is a text/template. What it grants to AppRole stands between
// "{{ if .roles }}" and "{{ end }}", because the role need not exist.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed *.sql
var files embed.FS

// versionTable holds the number of the newest applied migration.
const versionTable = "public.schema_version"

// migrateLock is the advisory lock of a migrating session: arbitrary, but never to be changed.
const migrateLock = int64(0x6475726861636b01)

// Version is the schema version that this binary needs: its number of migrations.
func Version() (int, error) {
	names, err := migrate.FindMigrations(files)
	if err != nil {
		return 0, fmt.Errorf("find embedded migrations: %w", err)
	}
	return len(names), nil
}

// TooNewError says that the database was migrated by a newer binary.
type TooNewError struct {
	// Have is the database's schema version, Want the binary's.
	Have, Want int
}

func (e *TooNewError) Error() string {
	return fmt.Sprintf("the database has schema version %d, this binary knows up to %d: it was migrated by a newer durhack-deployer; run that one", e.Have, e.Want)
}

// TooOldError says that the database was not migrated, or not far enough.
type TooOldError struct {
	// Have is the database's schema version (0: never migrated), Want the binary's.
	Have, Want int
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("the database has schema version %d, this binary needs %d: run durhack-deployer migrate", e.Have, e.Want)
}

// Check returns nil where the schema is exactly this binary's, and a
// *TooOldError or a *TooNewError where it is not.
func Check(ctx context.Context, conn *pgx.Conn) error {
	want, err := Version()
	if err != nil {
		return err
	}
	have, err := installed(ctx, conn)
	if err != nil {
		return err
	}
	return compare(have, want)
}

func compare(have, want int) error {
	switch {
	case have > want:
		return &TooNewError{Have: have, Want: want}
	case have < want:
		return &TooOldError{Have: have, Want: want}
	}
	return nil
}

// installed is the database's schema version, 0 where it was never migrated.
func installed(ctx context.Context, conn *pgx.Conn) (int, error) {
	var exists bool
	if err := conn.QueryRow(ctx, "select to_regclass($1) is not null", versionTable).Scan(&exists); err != nil {
		return 0, fmt.Errorf("look for %s: %w", versionTable, err)
	}
	if !exists {
		return 0, nil
	}
	var version int
	if err := conn.QueryRow(ctx, "select version from "+versionTable).Scan(&version); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return version, nil
}

// Migrate brings the schema up to this binary's version. Processes that migrate
// at once wait for one another. An older binary gets a *TooNewError and changes
// nothing. The connection's role is what it was when Migrate returns.
func Migrate(ctx context.Context, conn *pgx.Conn) (err error) {
	want, err := Version()
	if err != nil {
		return err
	}
	// The pool's connections work as AppRole, which cannot migrate.
	var before string
	if err := conn.QueryRow(ctx, "select current_setting('role')").Scan(&before); err != nil {
		return fmt.Errorf("read the session's role: %w", err)
	}
	if _, err := conn.Exec(ctx, "reset role"); err != nil {
		return fmt.Errorf("reset role: %w", err)
	}
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", migrateLock); err != nil {
		return fmt.Errorf("wait for the migration lock: %w", err)
	}
	defer func() { err = errors.Join(err, leave(ctx, conn, before)) }()

	have, err := installed(ctx, conn)
	if err != nil {
		return err
	}
	if have == want {
		return regrant(ctx, conn)
	}
	if have > want {
		return compare(have, want)
	}
	roles, err := enter(ctx, conn)
	if err != nil {
		return err
	}
	m, err := migrate.NewMigrator(ctx, conn, versionTable)
	if err != nil {
		return fmt.Errorf("prepare migration: %w", err)
	}
	m.Data["roles"] = roles
	if err := m.LoadMigrations(files); err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	if err := m.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate from version %d to %d: %w", have, want, err)
	}
	return nil
}

// leave gives the lock back and restores the role, also after ctx has ended. A
// connection that is gone has done both by itself.
func leave(ctx context.Context, conn *pgx.Conn, role string) error {
	if conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, "select set_config('role', $1, false), pg_advisory_unlock($2)", role, migrateLock); err != nil {
		return fmt.Errorf("give the migration lock back: %w", err)
	}
	return nil
}
