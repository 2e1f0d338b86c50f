package daemon

import (
	"errors"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/migrations"
)

// StoreHint says what to do about an error of the database; "" where nothing is
// known that the error does not say.
func StoreHint(err error) string {
	if errors.As(err, new(*migrations.TooNewError)) {
		return "install the newer durhack-deployer that migrated this database, or restore the database of this one"
	}
	if errors.As(err, new(*migrations.TooOldError)) {
		return "`durhack-deployer migrate`, or start the daemon"
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if next, ok := pgHints[pg.Code]; ok {
			return next
		}
	}
	var op *net.OpError
	if errors.As(err, new(*pgconn.ConnectError)) || errors.As(err, &op) && op.Op == "dial" {
		return "is Postgres up? check database_url (or DATABASE_URL); without either, a private server in state_dir is used, whose log is {state_dir}/postgres/postgres.log"
	}
	return ""
}

const (
	onlyReads = "the server only answers questions: name the primary in database_url (or DATABASE_URL), or promote this one"
	pooler    = "is a pgbouncer before the server? it must pool by session (pool_mode = session): see docs/operations.md"
)

// pgHints are for what Postgres answers, by SQLSTATE.
var pgHints = map[string]string{
	"08P01": pooler, // unsupported startup parameter
	"0A000": onlyReads,
	"25006": onlyReads,
	"26000": pooler, // a prepared statement that another connection has
	"28P01": "check the user and the password in database_url (or DATABASE_URL)",
	"28000": "check the user in database_url (or DATABASE_URL), and whether pg_hba.conf lets it in",
	"3D000": "make the database first: createdb NAME",
	"42P01": "run `durhack-deployer migrate` first",
	"42P05": pooler, // a prepared statement that is there already
	"42501": "the user of database_url may not do that: see docs/operations.md for the rights it needs",
	"53100": "make room on the disk of the server",
	"53300": "the server has no connection to spare: raise its max_connections, or see who holds them in pg_stat_activity",
}
