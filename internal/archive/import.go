package archive

import (
	"context"
	"errors"
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
	if err := r.start(); err != nil {
		return Summary{}, err
	}
	if o.Checkpoint != nil {
		if err := o.Checkpoint(r.header.Checkpoint); err != nil {
			return Summary{}, err
		}
	}
	events := &rows{next: func() ([]any, bool, error) {
		e, ok, err := r.event()
		if !ok {
			return nil, false, err
		}
		if o.Progress != nil && e.Position%progressEvery == 0 {
			o.Progress(e.Position, 0)
		}
		return []any{e.Position, e.ID, e.Instance, e.DeliveryID, string(e.Type), e.Deployment, int32(e.Attempt), e.Actor, e.RecordedAt, []byte(e.Data)}, true, nil
	}}
	columns := []string{"position", "id", "instance", "delivery_id", "type", "deployment", "attempt", "actor", "recorded_at", "data"}
	if err := events.copy(ctx, tx, "events", columns); err != nil {
		return Summary{}, err
	}
	if err := leaveOut(ctx, tx, r); err != nil {
		return Summary{}, err
	}
	bodies := &rows{next: func() ([]any, bool, error) {
		b, ok, err := r.body()
		return []any{b.Digest, b.ContentType, b.Salt, notNilBytes(b.Body)}, ok, err
	}}
	if err := bodies.copy(ctx, tx, "payloads", []string{"digest", "content_type", "salt", "body"}); err != nil {
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
	if _, err := tx.Exec(ctx, `select public.event_log_fill_hashes()`); err != nil {
		return Summary{}, fmt.Errorf("hash the events: %w", err)
	}
	// What the database made of it is what came.
	stored, err := eventlog.ReadEdge(ctx, tx, s.Events)
	if err != nil {
		return Summary{}, err
	}
	if stored.Root() != s.Root {
		return Summary{}, r.damaged(errors.New("the database holds something else of the events than the archive"))
	}
	return s, nil
}

// leaveOut records up to where the archive brings no bodies, so that a body that
// is missing is told from one that was deleted. It comes before the first body.
func leaveOut(ctx context.Context, tx pgx.Tx, r *reader) error {
	position := r.header.BodiesAfter
	if !r.header.Bodies {
		position = r.events
	}
	if position == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `insert into public.bodies_left_out (position) values ($1)`, position); err != nil {
		return fmt.Errorf("record that bodies were left out: %w", err)
	}
	return nil
}

// rows is a source for COPY.
type rows struct {
	next   func() (values []any, ok bool, err error)
	values []any
	err    error
}

// Next implements pgx.CopyFromSource.
func (s *rows) Next() bool {
	var ok bool
	s.values, ok, s.err = s.next()
	return ok && s.err == nil
}

// Values implements pgx.CopyFromSource.
func (s *rows) Values() ([]any, error) { return s.values, nil }

// Err implements pgx.CopyFromSource.
func (s *rows) Err() error { return s.err }

func (s *rows) copy(ctx context.Context, tx pgx.Tx, table string, columns []string) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"public", table}, columns, s)
	if s.err != nil {
		return s.err // Postgres's word for it is that the client gave up
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", table, err)
	}
	return nil
}

func notNilBytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
