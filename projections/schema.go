package projections

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed schema.sql
var ddl string

// place is one of two sets of tables of a version: the live ones, or those
// that a rebuild fills.
type place struct {
	version int
	fresh   bool
}

func (p place) schema() string { return fmt.Sprintf("projections_v%d", p.version) }

// prefix is put before the names of tables and their keys.
func (p place) prefix() string {
	if p.fresh {
		return "fresh_"
	}
	return ""
}

// in returns the table's full name in one of the places.
func (t table) in(p place) string { return p.schema() + "." + p.prefix() + t.name }

func tables() []table { return []table{deploymentsTable, deliveriesTable, attemptsTable} }

// makeFresh makes the fresh tables of a version, and its schema where it is missing.
func makeFresh(ctx context.Context, tx pgx.Tx, p place) error {
	var exists bool
	if err := tx.QueryRow(ctx, "select to_regnamespace($1) is not null", p.schema()).Scan(&exists); err != nil {
		return fmt.Errorf("look for schema %s: %w", p.schema(), err)
	}
	if !exists {
		if _, err := tx.Exec(ctx, "select projections.make_schema($1)", p.version); err != nil {
			return fmt.Errorf("make schema %s: %w", p.schema(), err)
		}
	}
	if _, err := tx.Exec(ctx, strings.ReplaceAll(ddl, "SCHEMA", p.schema())); err != nil {
		return fmt.Errorf("make fresh tables: %w", err)
	}
	return nil
}

// swapFresh puts the fresh tables in the place of the live ones, known to the planner.
func swapFresh(ctx context.Context, tx pgx.Tx, p place) error {
	live := place{version: p.version}
	for _, t := range tables() {
		for _, q := range []string{
			// Until autovacuum comes, the planner would take them for empty, and read all of a history.
			fmt.Sprintf("analyze %s", t.in(p)),
			fmt.Sprintf("drop table if exists %s", t.in(live)),
			fmt.Sprintf("alter table %s rename to %s", t.in(p), t.name),
		} {
			if _, err := tx.Exec(ctx, q); err != nil {
				return fmt.Errorf("swap the tables: %w", err)
			}
		}
	}
	// The keys are among the indexes; their constraints are renamed with them.
	rows, err := tx.Query(ctx, "select indexname from pg_indexes where schemaname = $1 and starts_with(indexname, $2)", p.schema(), p.prefix())
	if err != nil {
		return fmt.Errorf("swap the indexes: %w", err)
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("swap the indexes: %w", err)
	}
	for _, index := range indexes {
		if _, err := tx.Exec(ctx, fmt.Sprintf("alter index %s.%s rename to %s", p.schema(), index, strings.TrimPrefix(index, p.prefix()))); err != nil {
			return fmt.Errorf("swap the indexes: %w", err)
		}
	}
	return nil
}
