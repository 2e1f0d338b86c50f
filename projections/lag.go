package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Lag says how far a projection is behind the log.
type Lag struct {
	Name string
	// Version is that of the read models that serve reads: the newest that is
	// built and that this binary knows, 0 where there are none. Wanted is this
	// binary's own; where they differ, it is yet to be built.
	Version, Wanted int
	Position        int64
	Head            int64
	// Events is Head less Position; 0 where Position is past it, which is an error.
	Events int64
	// Seconds is the age of the oldest event that was not applied, 0 for none.
	Seconds float64
	// Err says why the projection stopped; nil where it runs, or may.
	Err error
}

// Lag says how far the tables are behind the log.
func (p *Projector) Lag(ctx context.Context) (Lag, error) {
	const q = `select coalesce(c.version, 0), coalesce(c.position, 0), h.position, coalesce(own.error, c.error, ''),
			coalesce(greatest(0, extract(epoch from clock_timestamp() - e.recorded_at)), 0)::float8
		from public.log_head h
		left join lateral (select * from projections.checkpoints where name = $1 and built and version <= $2
			order by version desc limit 1) c on true
		left join projections.checkpoints own on own.name = $1 and own.version = $2 and not own.built
		left join public.events e on e.position = coalesce(c.position, 0) + 1`
	lag := Lag{Name: name, Wanted: p.version}
	var stopped string
	if err := p.pool.QueryRow(ctx, q, name, p.version).Scan(&lag.Version, &lag.Position, &lag.Head, &stopped, &lag.Seconds); err != nil {
		return lag, fmt.Errorf("read the lag of the projections: %w", err)
	}
	lag.Events = max(0, lag.Head-lag.Position)
	switch {
	case stopped != "":
		lag.Err = errors.New(stopped)
	case lag.Position > lag.Head:
		lag.Err = &AheadError{Checkpoint: lag.Position, Head: lag.Head}
	}
	return lag, nil
}

// Await waits until the tables are up to the log, or stopped, but not for longer than
// within, and returns how far they are then.
func (p *Projector) Await(ctx context.Context, within time.Duration) (Lag, error) {
	for until := time.Now().Add(within); ; {
		lag, err := p.Lag(ctx)
		if err != nil || lag.Events == 0 || lag.Err != nil || time.Now().After(until) {
			return lag, err
		}
		if !retry.Sleep(ctx, 20*time.Millisecond) {
			return lag, context.Cause(ctx)
		}
	}
}

// serving is the version that serves reads, 0 where there is none. It never
// goes down, and is dropped only once a version after the next one is built: a
// reader that has just asked may read it.
func (p *Projector) serving(ctx context.Context, q querier) (int, error) {
	const newest = `select version from projections.checkpoints where name = $1 and built and version <= $2 order by version desc limit 1`
	rows, err := q.Query(ctx, newest, name, p.version)
	if err != nil {
		return 0, fmt.Errorf("look for the read models: %w", err)
	}
	version, err := pgx.CollectOneRow(rows, pgx.RowTo[int])
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("look for the read models: %w", err)
	}
	return version, nil
}
