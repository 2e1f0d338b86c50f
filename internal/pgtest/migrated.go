package pgtest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/migrations"
)

// Migrated returns a pool on a fresh database with all migrations applied,
// whose connections work as the application's role. It is closed when the test ends.
func Migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Pool(t, MigratedDSN(t))
}

// Pool returns a pool as the program makes it, on a database that is migrated.
// It is closed when the test ends.
func Pool(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatalf("pgtest: read a connection string: %v", err)
	}
	cfg.AfterConnect = migrations.SetRole
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatalf("pgtest: open a pool: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// MigratedDSN returns the connection string of a fresh database with all
// migrations applied. It is dropped when the test ends.
func MigratedDSN(t testing.TB) string {
	t.Helper()
	return fresh(t, shared.createMigrated)
}

// createMigrated makes a database as a copy of one that is migrated once.
func (s *server) createMigrated(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(ctx); err != nil {
		return "", err
	}
	if s.template == "" {
		name, err := s.createLocked(ctx, "template0")
		if err != nil {
			return "", err
		}
		if err := migrate(ctx, s.dsn(name)); err != nil {
			return "", errors.Join(fmt.Errorf("migrate a database: %w", err), s.dropLocked(ctx, name))
		}
		s.template = name
	}
	name, err := s.createLocked(ctx, s.template)
	if err != nil {
		return "", err
	}
	// What was granted on the database itself is not copied; see migrations.Migrate.
	const q = `select format('grant create on database %I to %I', $1::text, rolname) from pg_roles where rolname = $2`
	var grant string
	if err := s.admin.QueryRow(ctx, q, name, migrations.OwnerRole).Scan(&grant); errors.Is(err, pgx.ErrNoRows) {
		return name, nil // it does without roles
	} else if err != nil {
		return "", fmt.Errorf("look for the owner's role: %w", err)
	}
	if _, err := s.admin.Exec(ctx, grant); err != nil {
		return "", fmt.Errorf("%s: %w", grant, err)
	}
	return name, nil
}

// Migrate brings the schema into a database.
func Migrate(t testing.TB, dsn string) {
	t.Helper()
	if err := migrate(context.Background(), dsn); err != nil {
		t.Fatalf("pgtest: migrate a database: %v", err)
	}
}

// migrate ends its session: a database that is in use cannot be copied.
func migrate(ctx context.Context, dsn string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return migrations.Migrate(ctx, conn)
}
