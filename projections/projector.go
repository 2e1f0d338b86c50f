package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// name is the checkpoint's row. The three tables are one projection.
const name = "state"

// Version counts the meanings of the fold and the shapes of its tables. It goes
// up whenever Apply would now give another result, or schema.sql is changed: then
// the daemon builds the new version's tables beside the old ones.
const Version = 4

// errLost says that the checkpoint is not where this projector left it: another
// projector, or a rebuild, has moved it.
var errLost = errors.New("the checkpoint was moved by another projector")

// Projector keeps the read models up to date with the log, and rebuilds and
// checks them. Any number of projectors may share one database, also those of
// binaries with different versions: each version has tables and a checkpoint of
// its own.
type Projector struct {
	pool *pgxpool.Pool
	log  *eventlog.Log
	slog *slog.Logger
	// version is Version, but in tests of what another binary would do.
	version int
}

// New returns a Projector on the pool, which must allow at least two
// connections. It starts nothing.
func New(pool *pgxpool.Pool, log *eventlog.Log, logger *slog.Logger) *Projector {
	return &Projector{pool: pool, log: log, slog: logger, version: Version}
}

func (p *Projector) live() place  { return place{version: p.version} }
func (p *Projector) fresh() place { return place{version: p.version, fresh: true} }

// StoppedError says that the projection cannot go past a position by waiting.
type StoppedError struct {
	// Position is that of the last event applied.
	Position int64
	Err      error
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("projections stopped after position %d: %v", e.Position, e.Err)
}

// Unwrap returns why.
func (e *StoppedError) Unwrap() error { return e.Err }

// Run follows the log and applies every event to the read models, until ctx
// ends (nil) or something comes that waiting cannot fix: an event that this
// binary does not know (*eventlog.UnknownEventError), a hole
// (*eventlog.HoleError), or the end of the log's follower. An outage of the
// database it sits out. The first two are a *StoppedError, and are also noted in
// the checkpoint, for Lag.
func (p *Projector) Run(ctx context.Context) error {
	outage := retry.New(p.slog, slog.LevelWarn, "projections wait for the database")
	for {
		position, err := p.follow(ctx, outage)
		var stopped *StoppedError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, eventlog.ErrClosed):
			return err
		case errors.As(err, &stopped):
			p.note(ctx, stopped)
			return err
		case errors.Is(err, errLost):
			p.slog.Debug("projections: checkpoint moved by another", "position", position)
			continue
		}
		retry.Sleep(ctx, outage.Failed(err))
	}
}

// follow applies the log from the checkpoint on; it always returns an error.
func (p *Projector) follow(ctx context.Context, outage *retry.Outage) (int64, error) {
	position, built, err := p.checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	if !built {
		if err := p.first(ctx); err != nil {
			return 0, stops(0, err)
		}
		return 0, errLost
	}
	err = p.log.Follow(ctx, position, func(ctx context.Context, events []eventlog.Event) error {
		reached, err := p.apply(ctx, position, events)
		position = reached
		if err == nil {
			outage.Over()
		}
		return err
	})
	return position, stops(position, err)
}

// first builds the tables of a version that has none.
func (p *Projector) first(ctx context.Context) error {
	older, err := p.serving(ctx, p.pool)
	if err != nil {
		return err
	}
	tell := func(int64, int64) {}
	if older > 0 {
		p.slog.Info("projections: building read models of a new version beside the old ones", "version", p.version, "serving", older)
		tell = p.tellNowAndThen()
	}
	err = p.rebuild(ctx, everything, false, tell)
	var stopped *StoppedError
	if errors.As(stops(0, err), &stopped) && older == 0 {
		// There is nothing older to read, so as much of the log as can be read is
		// better than nothing: live update goes on from empty tables to the event
		// that stops it.
		return p.rebuild(ctx, 0, false, nil)
	}
	if err != nil {
		return fmt.Errorf("build projections: %w", err)
	}
	if err := p.dropOlder(ctx); err != nil {
		p.slog.Warn("projections: read models that are no longer needed stay for now", "error", err)
	}
	return nil
}

// tellNowAndThen logs how far a build is.
func (p *Projector) tellNowAndThen() func(done, total int64) {
	const interval = 10 * time.Second
	last := time.Now()
	return func(done, total int64) {
		if time.Since(last) >= interval {
			last = time.Now()
			p.slog.Info("projections: building", "version", p.version, "events", done, "of", total)
		}
	}
}

// stops wraps the errors that waiting does not fix.
func stops(position int64, err error) error {
	var unknown *eventlog.UnknownEventError
	var hole *eventlog.HoleError
	var stopped *StoppedError
	if (errors.As(err, &unknown) || errors.As(err, &hole)) && !errors.As(err, &stopped) {
		return &StoppedError{position, err}
	}
	return err
}

// NotBuiltError says that a version has no read models yet.
type NotBuiltError struct{ Version int }

func (e *NotBuiltError) Error() string {
	return fmt.Sprintf("the read models of version %d are not built yet; durhack-deployer work or serve does that, or projections rebuild", e.Version)
}

// checkpoint reads how far this version's tables are, and whether there are any.
func (p *Projector) checkpoint(ctx context.Context) (position int64, built bool, err error) {
	const q = `select position from projections.checkpoints where name = $1 and version = $2 and built`
	err = p.pool.QueryRow(ctx, q, name, p.version).Scan(&position)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the checkpoint of the projections: %w", err)
	}
	return position, true, nil
}

// note writes why the projection stands still where everyone can see it.
func (p *Projector) note(ctx context.Context, stopped *StoppedError) {
	const q = `insert into projections.checkpoints as c (name, version, position, built, error) values ($1, $2, 0, false, $4)
		on conflict (name, version) do update set error = excluded.error, updated_at = clock_timestamp() where c.position = $3`
	if _, err := p.pool.Exec(ctx, q, name, p.version, stopped.Position, clean(stopped.Err.Error())); err != nil {
		p.slog.Warn("projections: could not note why they stopped", "error", err)
	}
}

// apply folds events into the tables and moves the checkpoint from the position
// to that of the last of them, in one transaction. It returns the position that
// it reached, which lies before an event that it does not know.
func (p *Projector) apply(ctx context.Context, from int64, events []eventlog.Event) (int64, error) {
	for i, e := range events {
		if want := from + int64(i) + 1; e.Position != want {
			return from, &eventlog.HoleError{Want: want, Got: e.Position, Head: events[len(events)-1].Position}
		}
	}
	var unknown *eventlog.UnknownEventError
	state := NewState()
	state.position = from
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		// A crash takes back rows and checkpoint together, and they are applied
		// again; the wait for the disk would compete with the commits of deploys.
		if _, err := tx.Exec(ctx, "set local synchronous_commit = off"); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		at, err := p.lockCheckpoint(ctx, tx)
		if err != nil {
			return err
		}
		if at != from {
			return errLost
		}
		if err := state.fold(ctx, tx, p.live(), events); err != nil && !errors.As(err, &unknown) {
			return err
		}
		if state.position == from {
			return nil
		}
		return p.moveCheckpoint(ctx, tx, state.position)
	})
	if err != nil {
		return from, fmt.Errorf("apply events after position %d: %w", from, err)
	}
	for _, b := range state.breaches {
		p.slog.Warn("the log breaks its own rules", "instance", b.Instance, "position", b.Position,
			"delivery_id", b.DeliveryID, "breach", b.Text)
	}
	if unknown != nil {
		return state.position, unknown
	}
	return state.position, nil
}

// lockCheckpoint locks the checkpoint's row until the transaction ends, and
// returns its position: its holder is the only one to change the tables.
func (p *Projector) lockCheckpoint(ctx context.Context, tx pgx.Tx) (int64, error) {
	var position int64
	const q = `select position from projections.checkpoints where name = $1 and version = $2 and built for update`
	if err := tx.QueryRow(ctx, q, name, p.version).Scan(&position); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, errLost
		}
		return 0, fmt.Errorf("lock the checkpoint of the projections: %w", err)
	}
	return position, nil
}

func (p *Projector) moveCheckpoint(ctx context.Context, tx pgx.Tx, position int64) error {
	const q = `update projections.checkpoints
		set position = $3, updated_at = clock_timestamp(), error = '' where name = $1 and version = $2`
	if _, err := tx.Exec(ctx, q, name, p.version, position); err != nil {
		return fmt.Errorf("move the checkpoint of the projections: %w", err)
	}
	return nil
}
