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
