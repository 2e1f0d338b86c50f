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
)

// name is the checkpoint's row. The three tables are one projection.
const name = "state"

// Version counts the meanings of the fold: tables that an older one filled are
// rebuilt. It goes up whenever Apply would now give another result.
const Version = 1

// retry bounds the wait after a failure, from the first to the longest.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 5 * time.Second
)

// errLost says that the checkpoint is not where this projector left it: another
// projector, or a rebuild, has moved it.
var errLost = errors.New("the checkpoint was moved by another projector")

// Projector keeps the read models up to date with the log, and rebuilds and
// checks them. Any number of projectors may share one database.
type Projector struct {
	pool *pgxpool.Pool
	log  *eventlog.Log
	slog *slog.Logger
}

// New returns a Projector on the pool, which must allow at least two
// connections. It starts nothing.
func New(pool *pgxpool.Pool, log *eventlog.Log, logger *slog.Logger) *Projector {
	return &Projector{pool: pool, log: log, slog: logger}
}

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
// ends (nil) or something comes that waiting cannot mend: an event that this
// binary does not know (*eventlog.UnknownEventError), a hole
// (*eventlog.HoleError), tables of a newer binary, or the end of the log's
// follower. An outage of the database it sits out. The first three are a
// *StoppedError, and are also noted in the checkpoint, for Lag.
func (p *Projector) Run(ctx context.Context) error {
	wait := firstRetry
	for {
		position, err := p.follow(ctx)
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
			wait = firstRetry
			continue
		}
		p.slog.Warn("projections wait for the database", "position", position, "retry_in", wait, "error", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, longestRetry)
	}
}

// follow applies the log from the checkpoint on; it always returns an error.
func (p *Projector) follow(ctx context.Context) (int64, error) {
	position, version, err := p.checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	if version > Version {
		return position, &StoppedError{position, fmt.Errorf("the read models have version %d, this binary knows %d; run a newer durhack-deployer", version, Version)}
	}
	if version < Version {
		p.slog.Info("projections: rebuilding read models of an older version", "have", version, "want", Version)
		if err := p.Rebuild(ctx, nil); err != nil {
			return position, stops(position, err)
		}
		return position, errLost
	}
	err = p.log.Follow(ctx, position, func(ctx context.Context, events []eventlog.Event) error {
		reached, err := p.apply(ctx, position, events)
		position = reached
		return err
	})
	return position, stops(position, err)
}

// stops wraps the errors that waiting does not mend.
func stops(position int64, err error) error {
	var unknown *eventlog.UnknownEventError
	var hole *eventlog.HoleError
	var stopped *StoppedError
	if (errors.As(err, &unknown) || errors.As(err, &hole)) && !errors.As(err, &stopped) {
		return &StoppedError{position, err}
	}
	return err
}

// checkpoint reads the checkpoint, making it where there is none.
func (p *Projector) checkpoint(ctx context.Context) (position int64, version int, err error) {
	if err := ensureCheckpoint(ctx, p.pool); err != nil {
		return 0, 0, err
	}
	const q = `select position, version from projections.checkpoints where name = $1`
	if err := p.pool.QueryRow(ctx, q, name).Scan(&position, &version); err != nil {
		return 0, 0, fmt.Errorf("read the checkpoint of the projections: %w", err)
	}
	return position, version, nil
}

// note writes why the projection stands still where everyone can see it.
func (p *Projector) note(ctx context.Context, stopped *StoppedError) {
	const q = `update projections.checkpoints set error = $3, updated_at = clock_timestamp() where name = $1 and position = $2`
	if _, err := p.pool.Exec(ctx, q, name, stopped.Position, clean(stopped.Err.Error())); err != nil {
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
	var state *State
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		// What a crash takes back is rows and checkpoint together, and is applied
		// again; the wait for the disk would compete with the commits of deploys.
		if _, err := tx.Exec(ctx, "set local synchronous_commit = off"); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		at, err := lockCheckpoint(ctx, tx)
		if err != nil {
			return err
		}
		if at.position != from || at.version != Version {
			return errLost
		}
		state = NewState()
		state.position = from
		if err := load(ctx, tx, state, events); err != nil {
			return err
		}
		for i := range events {
			if err := state.Apply(&events[i]); err != nil {
				if errors.As(err, &unknown) {
					break // what comes before it still counts
				}
				return err
			}
		}
		if state.position == from {
			return nil
		}
		if err := save(ctx, tx, state); err != nil {
			return err
		}
		return moveCheckpoint(ctx, tx, state.position)
	})
	if err != nil {
		return from, fmt.Errorf("apply events after position %d: %w", from, err)
	}
	reached := state.position
	for _, b := range state.breaches {
		p.slog.Warn("the log holds what it must not", "instance", b.Instance, "position", b.Position,
			"delivery_id", b.DeliveryID, "breach", b.Text)
	}
	if unknown != nil {
		return reached, unknown
	}
	return reached, nil
}

// load reads into the state all that the events touch.
func load(ctx context.Context, tx pgx.Tx, s *State, events []eventlog.Event) error {
	seen := make(map[string]struct{})
	var instances []string
	for _, e := range events {
		if _, ok := seen[e.Instance]; !ok {
			seen[e.Instance] = struct{}{}
			instances = append(instances, e.Instance)
		}
	}
	if err := loadDeployments(ctx, tx, s, instances); err != nil {
		return err
	}
	return loadDeliveries(ctx, tx, "", s, missing(s, events, false))
}

type checkpoint struct {
	position int64
	version  int
}

// lockCheckpoint locks the checkpoint's row until the transaction ends: whoever
// holds it is the only one to change the read models.
func lockCheckpoint(ctx context.Context, tx pgx.Tx) (checkpoint, error) {
	var c checkpoint
	const q = `select position, version from projections.checkpoints where name = $1 for update`
	if err := tx.QueryRow(ctx, q, name).Scan(&c.position, &c.version); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			return c, errLost
		}
		return c, fmt.Errorf("lock the checkpoint of the projections: %w", err)
	}
	return c, nil
}

func moveCheckpoint(ctx context.Context, tx pgx.Tx, position int64) error {
	const q = `update projections.checkpoints
		set position = $2, version = $3, updated_at = clock_timestamp(), error = '' where name = $1`
	if _, err := tx.Exec(ctx, q, name, position, Version); err != nil {
		return fmt.Errorf("move the checkpoint of the projections: %w", err)
	}
	return nil
}

// Lag says how far a projection is behind the log.
type Lag struct {
	Name     string
	Position int64
	Head     int64
	// Events is Head less Position.
	Events int64
	// Seconds is the age of the oldest event that was not applied, 0 for none.
	Seconds float64
	// Err says why the projection stopped; nil where it runs, or may.
	Err error
}

// Lag reports every projection. There is one, which fills all the tables.
func (p *Projector) Lag(ctx context.Context) ([]Lag, error) {
	const q = `select c.position, h.position, c.error,
			coalesce(greatest(0, extract(epoch from clock_timestamp() - e.recorded_at)), 0)::float8
		from public.log_head h
		left join projections.checkpoints c on c.name = $1
		left join public.events e on e.position = coalesce(c.position, 0) + 1`
	lag := Lag{Name: name}
	var position *int64
	var stopped *string
	if err := p.pool.QueryRow(ctx, q, name).Scan(&position, &lag.Head, &stopped, &lag.Seconds); err != nil {
		return nil, fmt.Errorf("read the lag of the projections: %w", err)
	}
	if position != nil {
		lag.Position = *position
	}
	lag.Events = lag.Head - lag.Position
	if stopped != nil && *stopped != "" {
		lag.Err = errors.New(*stopped)
	}
	return []Lag{lag}, nil
}
