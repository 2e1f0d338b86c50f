package migrations

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The roles of the schema; neither logs in. Roles belong to the whole cluster,
// so several databases share these.
const (
	// OwnerRole owns the tables and functions.
	OwnerRole = "durhack_deployer_owner"
	// AppRole reads, and appends through event_log_append.
	AppRole = "durhack_deployer_app"
)

// Roles says whether the database belongs to OwnerRole. Where it does not, the
// connecting role owns the log, and only triggers keep it from changing events:
// worth a warning. False too where the database was never migrated.
func Roles(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var owner *string
	const q = `select (select pg_get_userbyid(relowner) from pg_class where oid = to_regclass('public.events'))`
	if err := conn.QueryRow(ctx, q).Scan(&owner); err != nil {
		return false, fmt.Errorf("read the owner of the event log: %w", err)
	}
	return owner != nil && *owner == OwnerRole, nil
}

// SetRole makes the connection work as AppRole; it is made for a pool's
// AfterConnect. It does nothing where the database does not use roles (see
// Roles), so a pool is to be opened after the database was migrated.
func SetRole(ctx context.Context, conn *pgx.Conn) error { return setRole(ctx, conn, AppRole) }

// SetOwner makes the connection work as OwnerRole, who may write what AppRole may
// not: for an import. It does nothing where the database does not use roles; the
// connecting role is the owner then.
func SetOwner(ctx context.Context, conn *pgx.Conn) error { return setRole(ctx, conn, OwnerRole) }

func setRole(ctx context.Context, conn *pgx.Conn, role string) error {
	roles, err := Roles(ctx, conn)
	if err != nil || !roles {
		return err
	}
	if _, err := conn.Exec(ctx, "set role "+role); err != nil {
		return fmt.Errorf("work as role %s (is %s a member of it?): %w", role, conn.Config().User, err)
	}
	return nil
}

// enter makes the session work as OwnerRole where roles are used, creating
// them for a database that is migrated for the first time.
func enter(ctx context.Context, conn *pgx.Conn) (roles bool, err error) {
	var exists bool
	if err := conn.QueryRow(ctx, "select to_regclass('public.events') is not null").Scan(&exists); err != nil {
		return false, fmt.Errorf("look for the event log: %w", err)
	}
	if exists {
		if roles, err = Roles(ctx, conn); err != nil || !roles {
			return false, err
		}
	} else if roles, err = makeRoles(ctx, conn); err != nil || !roles {
		return false, err
	}
	if _, err := conn.Exec(ctx, "set role "+OwnerRole); err != nil {
		return false, fmt.Errorf("work as role %s, which owns the schema (migrate as a member of it): %w", OwnerRole, err)
	}
	return true, nil
}

// makeRoles sees to it that both roles exist, that the connecting role may
// become either, and that OwnerRole may create things in the database. It
// returns false where the connecting role may not arrange that.
func makeRoles(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var granter bool
	const q = `select has_schema_privilege('public', 'create with grant option')
		and has_database_privilege(current_database(), 'create with grant option')`
	if err := conn.QueryRow(ctx, q).Scan(&granter); err != nil {
		return false, fmt.Errorf("read privileges: %w", err)
	}
	if !granter {
		return false, nil
	}
	for _, role := range []string{OwnerRole, AppRole} {
		if ok, err := makeRole(ctx, conn, role); err != nil || !ok {
			return false, err
		}
	}
	if _, err := conn.Exec(ctx, "grant usage, create on schema public to "+OwnerRole); err != nil {
		return false, fmt.Errorf("let %s make tables: %w", OwnerRole, err)
	}
	return true, grantCreate(ctx, conn)
}

// grantCreate lets OwnerRole make schemas in the database.
func grantCreate(ctx context.Context, conn *pgx.Conn) error {
	var database string
	if err := conn.QueryRow(ctx, "select current_database()").Scan(&database); err != nil {
		return fmt.Errorf("read the database's name: %w", err)
	}
	sql := "grant create on database " + pgx.Identifier{database}.Sanitize() + " to " + OwnerRole
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// regrant gives OwnerRole back what belongs to the database itself, which neither
// a restored dump nor a copy of the database has.
func regrant(ctx context.Context, conn *pgx.Conn) error {
	roles, err := Roles(ctx, conn)
	if err != nil || !roles {
		return err
	}
	var has, may bool
	const q = `select has_database_privilege($1, current_database(), 'create'), has_database_privilege(current_database(), 'create with grant option')`
	if err := conn.QueryRow(ctx, q, OwnerRole).Scan(&has, &may); err != nil {
		return fmt.Errorf("read privileges: %w", err)
	}
	if has || !may {
		return nil // where it is needed and missing, Postgres says so
	}
	return grantCreate(ctx, conn)
}

// makeRole creates the role and makes the connecting role a member, as far as
// either is needed. Databases of one cluster may do this at the same moment, and
// the catalogue answers the loser with one of three errors: it looks again.
func makeRole(ctx context.Context, conn *pgx.Conn, role string) (bool, error) {
	for attempt := 0; ; attempt++ {
		ok, err := tryMakeRole(ctx, conn, role)
		pg, refused := errors.AsType[*pgconn.PgError](err)
		if !refused {
			return ok, err
		}
		switch pg.Code {
		case "42501": // insufficient_privilege: no CREATEROLE, or no admin option on a role that somebody else made
			return false, nil
		case "42710", "23505", "XX000": // duplicate_object, unique_violation, "tuple concurrently updated"
			if attempt < 20 {
				continue
			}
		}
		return false, err
	}
}

func tryMakeRole(ctx context.Context, conn *pgx.Conn, role string) (bool, error) {
	var exists, member bool
	// Postgres 16 tells membership from the right to SET ROLE; who creates a
	// role there is a member at once but must still grant itself that right.
	const q = `select count(*) > 0, coalesce(bool_or(pg_has_role(oid,
			case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end)), false)
		from pg_roles where rolname = $1`
	if err := conn.QueryRow(ctx, q, role).Scan(&exists, &member); err != nil {
		return false, fmt.Errorf("look for role %s: %w", role, err)
	}
	if !exists {
		if _, err := conn.Exec(ctx, "create role "+role+" nologin"); err != nil {
			return false, fmt.Errorf("create role %s: %w", role, err)
		}
		return tryMakeRole(ctx, conn, role)
	}
	if !member {
		if _, err := conn.Exec(ctx, "grant "+role+" to current_user"); err != nil {
			return false, fmt.Errorf("become a member of role %s: %w", role, err)
		}
	}
	return true, nil
}
