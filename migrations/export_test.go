package migrations

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"
)

// MigrateTo is Migrate of an older binary, whose last migration is the version.
func MigrateTo(ctx context.Context, conn *pgx.Conn, version int32) (err error) {
	roles, err := enter(ctx, conn)
	if err != nil {
		return err
	}
	defer func() {
		_, resetErr := conn.Exec(ctx, "reset role")
		err = errors.Join(err, resetErr)
	}()
	m, err := migrate.NewMigrator(ctx, conn, versionTable)
	if err != nil {
		return err
	}
	m.Data["roles"] = roles
	if err := m.LoadMigrations(files); err != nil {
		return err
	}
	return m.MigrateTo(ctx, version)
}
