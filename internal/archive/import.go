package archive

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// ImportOptions say how to import.
type ImportOptions struct {
	// Checkpoint, if not nil, verifies the signature of the archive's checkpoint,
	// which is "" where it has none. Size and root are verified afterwards.
	Checkpoint func(text string) error
	// Progress, if not nil, is told how many events are read; how many there are
	// is known at the end only, so total is 0.
	Progress func(done, total int64)
}

// Import reads an archive into an empty log, all or nothing. Positions, IDs,
// times and data are those of the archive, byte for byte. It waits for anyone who
// appends at this moment, and then refuses with a *NotEmptyError. What is not
// an archive as it was exported is a *DamagedError.
//
// conn must work as the owner of the schema, who alone may write events past the
// append function.
func Import(ctx context.Context, conn *pgx.Conn, from io.Reader, o ImportOptions) (Summary, error) {
	var s Summary
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var err error
		s, err = load(ctx, tx, newReader(from), o)
		return err
	})
	if err != nil {
		return Summary{}, fmt.Errorf("import the log: %w", err)
	}
	return s, nil
}

func load(ctx context.Context, tx pgx.Tx, r *reader, o ImportOptions) (Summary, error) {
	// The lock that every append takes, for as long as the import lasts.
	var empty NotEmptyError
	if err := tx.QueryRow(ctx, `select position from public.log_head for update`).Scan(&empty.Head); err != nil {
		return Summary{}, fmt.Errorf("lock the head of the log: %w", err)
	}
	const q = `select greatest((select coalesce(max(position), 0) from public.events), $1), (select count(*) from public.payloads)`
	if err := tx.QueryRow(ctx, q, empty.Head).Scan(&empty.Head, &empty.Bodies); err != nil {
		return Summary{}, fmt.Errorf("look whether the log is empty: %w", err)
	}
	if empty != (NotEmptyError{}) {
		return Summary{}, &empty
	}
	// What followers owe, and how far they were, was of another log: they begin at the end
	// of this one, and tell the outside of nothing that it holds.
	if _, err := tx.Exec(ctx, `delete from public.outbox_positions; delete from public.outbox`); err != nil {
		return Summary{}, fmt.Errorf("empty the outbox: %w", err)
	}
	if err := r.start(); err != nil {
		return Summary{}, err
	}
	if o.Checkpoint != nil {
		if err := o.Checkpoint(r.header.Checkpoint); err != nil {
			return Summary{}, err
		}
	}
	events := writer{name: "events", columns: []string{"position", "id", "instance", "delivery_id", "type", "deployment", "attempt", "actor", "recorded_at", "data"}}
	hashes := writer{name: "event_hashes", columns: []string{"position", "hashes"}}
	if err := r.events(func(e *eventlog.Event) error {
		if o.Progress != nil && e.Position%progressEvery == 0 {
			o.Progress(e.Position, 0)
		}
		if err := events.add(ctx, tx, len(e.Data), e.Position, e.ID, e.Instance, e.DeliveryID, string(e.Type), e.Deployment, int32(e.Attempt), e.Actor, e.RecordedAt, []byte(e.Data)); err != nil {
			return err
		}
		return hashes.add(ctx, tx, 0, e.Position, r.hashes)
	}); err != nil {
		return Summary{}, err
	}
	for _, w := range []*writer{&events, &hashes} {
		if err := w.flush(ctx, tx); err != nil {
			return Summary{}, err
		}
	}
	if err := leaveOut(ctx, tx, r); err != nil {
		return Summary{}, err
	}
	bodies := writer{name: "payloads", columns: []string{"digest", "content_type", "salt", "body"}}
	if err := r.bodies(func(b *bodyLine) error {
		return bodies.add(ctx, tx, len(b.Body), b.Digest, b.ContentType, b.Salt, b.Body)
	}); err != nil {
		return Summary{}, err
	}
	if err := bodies.flush(ctx, tx); err != nil {
		return Summary{}, err
	}
	s, err := r.finish()
	if err != nil {
		return Summary{}, err
	}
	if s.Events > 0 {
		if _, err := tx.Exec(ctx, `update public.log_head set position = $1, last_id = $2`, s.Events, r.lastID); err != nil {
			return Summary{}, fmt.Errorf("move the head of the log: %w", err)
		}
	}
	// What the database made of the events is what came.
	var other *int64
	if err := tx.QueryRow(ctx, sqlOther).Scan(&other); err != nil {
		return Summary{}, fmt.Errorf("compare the events with their hashes: %w", err)
	}
	if other != nil {
		return Summary{}, fmt.Errorf("position %d: the database holds something else than the archive", *other)
	}
	return s, nil
}

// sqlOther finds the first event that is not the one of its hash.
const sqlOther = `select min(e.position) from public.events e left join public.event_hashes h on h.position = e.position
	where substr(h.hashes, 1, 32) is distinct from sha256('\x00'::bytea || public.event_log_leaf(e.position, e.id, e.instance, e.delivery_id,
		e.type, e.deployment, e.attempt, e.actor, (extract(epoch from e.recorded_at) * 1000000)::bigint::text, e.data::text))`

// leaveOut records up to where the archive brings no bodies, so that a body that
// is missing is told from one that was deleted. It comes before the first body.
func leaveOut(ctx context.Context, tx pgx.Tx, r *reader) error {
	position := r.header.BodiesAfter
	if !r.header.Bodies {
		position = r.summary.Events
	}
	if position == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `insert into public.bodies_left_out (position) values ($1)`, position); err != nil {
		return fmt.Errorf("record that bodies were left out: %w", err)
	}
	return nil
}

const (
	// turnRows and turnBytes bound what is held of a table before it is written.
	turnRows  = 1000
	turnBytes = 4 << 20
)

// writer writes the rows of a table in turns.
type writer struct {
	name    string
	columns []string
	rows    [][]any
	size    int
}

// add adds a row, the longest of whose values has the size.
func (w *writer) add(ctx context.Context, tx pgx.Tx, size int, row ...any) error {
	w.rows, w.size = append(w.rows, row), w.size+size
	if len(w.rows) < turnRows && w.size < turnBytes {
		return nil
	}
	return w.flush(ctx, tx)
}

func (w *writer) flush(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"public", w.name}, w.columns, pgx.CopyFromRows(w.rows)); err != nil {
		return fmt.Errorf("write %s: %w", w.name, err)
	}
	clear(w.rows) // lets go of their data
	w.rows, w.size = w.rows[:0], 0
	return nil
}
