package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// guards are the triggers that keep the log append-only for everyone who does not
// take them away first, as "table.trigger".
var guards = []string{
	"events.events_append_only",
	"events.events_time_rises",
	"event_hashes.event_hashes_append_only",
	"log_head.log_head_stays",
	"log_head.log_head_forward_only",
	"payloads.payloads_unchanged",
	"payloads.payloads_only_redacted",
	"bodies_left_out.bodies_left_out_unchanged",
	"bodies_left_out.bodies_left_out_imported",
}

// Unguarded names the triggers of the log that are gone, or are not enabled always,
// as "table.trigger". Only the owner of the tables or a superuser can have done that.
func Unguarded(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	const q = `select guard from unnest($1::text[]) guard
		where not exists (select from pg_trigger t
			where t.tgrelid = to_regclass('public.' || split_part(guard, '.', 1)) and t.tgname = split_part(guard, '.', 2) and t.tgenabled = 'A')`
	rows, err := conn.Query(ctx, q, guards)
	if err != nil {
		return nil, fmt.Errorf("look at the triggers of the log: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look at the triggers of the log: %w", err)
	}
	return names, nil
}

// Obstacles are the reasons why a program could read the log of this database and
// not append to it: it is a standby, its transactions may only read, or a right
// was taken away. They change nothing to find out.
func Obstacles(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	var standby, readOnly bool
	var missing []string
	const q = `select pg_is_in_recovery(), current_setting('transaction_read_only')::bool, array(
		select p.proname::text from pg_proc p
		where p.pronamespace = 'public'::regnamespace and p.proname = any ($2)
			and not has_function_privilege(coalesce((select oid from pg_roles where rolname = $1 and
				(select relowner from pg_class where oid = to_regclass('public.events'))::regrole::text = $3), current_user::regrole), p.oid, 'execute')
		order by 1)`
	err := conn.QueryRow(ctx, q, AppRole, []string{"event_log_lock", "event_log_append", "event_log_store"}, OwnerRole).Scan(&standby, &readOnly, &missing)
	if err != nil {
		return nil, fmt.Errorf("ask whether the log can be appended to: %w", err)
	}
	var reasons []string
	switch {
	case standby:
		reasons = append(reasons, "the database is a standby: nothing can be appended until it is promoted, or database_url names the primary")
	case readOnly:
		reasons = append(reasons, "the database lets its transactions only read (default_transaction_read_only)")
	}
	for _, name := range missing {
		reasons = append(reasons, fmt.Sprintf("the right to execute %s was taken away: grant it, or restore the database", name))
	}
	return reasons, nil
}
