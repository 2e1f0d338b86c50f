package projections

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// rebuildLock is the advisory lock of a transaction that uses the fresh tables:
// arbitrary, but never to be changed.
const rebuildLock = int64(0x6475726861636b02)

// Rebuild folds the whole log into fresh tables and puts them in the place of
// the live ones of this version, in one transaction: readers see what was there
// until then, and all of it if it fails. Where this version was never built, what
// readers see until then is the newest older version. Live update, also that of an
// older binary, goes on meanwhile, and waits only while Rebuild catches up with
// it at the end. Rebuilds wait for one another.
//
// progress, which may be nil, is told now and then how many of the events are
// done; it is called from one goroutine at a time.
func (p *Projector) Rebuild(ctx context.Context, progress func(done, total int64)) error {
	err := p.rebuild(ctx, everything, true, progress)
	if err != nil {
		return fmt.Errorf("rebuild projections: %w", err)
	}
	if err := p.dropOlder(ctx); err != nil {
		p.slog.Warn("projections: read models that are no longer needed stay for now", "error", err)
	}
	return nil
}

// rebuild is Rebuild up to the position until. Without again it does nothing where
// somebody else has built this version meanwhile.
func (p *Projector) rebuild(ctx context.Context, until int64, again bool, progress func(done, total int64)) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", rebuildLock); err != nil {
			return fmt.Errorf("wait for another rebuild: %w", err)
		}
		if !again {
			if _, built, err := p.checkpoint(ctx); err != nil || built {
				return err
			}
		}
		b, err := p.begin(ctx, tx, until, progress)
		if err != nil {
			return err
		}
		// From here on live update waits, that of the other versions too, so that anyone who
		// read them before the switch reads nothing older after it.
		if _, err := tx.Exec(ctx, "select 1 from projections.checkpoints where name = $1 order by version for update", name); err != nil {
			return fmt.Errorf("lock the checkpoints of the projections: %w", err)
		}
		if err := b.build(ctx, p.log, until, nil); err != nil {
			return err
		}
		if err := swapFresh(ctx, tx, p.fresh()); err != nil {
			return err
		}
		const q = `insert into projections.checkpoints as c (name, version, position, built) values ($1, $2, $3, true)
			on conflict (name, version) do update
			set position = excluded.position, built = true, error = '', updated_at = clock_timestamp()`
		if _, err := tx.Exec(ctx, q, name, p.version, b.state.position); err != nil {
			return fmt.Errorf("move the checkpoint of the projections: %w", err)
		}
		return nil
	})
}

// builder folds the log into the fresh tables of a transaction.
type builder struct {
	tx    pgx.Tx
	fresh place
	state *State
}

// begin makes the fresh tables and folds the log into them up to the position
// until or as far as it goes. The transaction holds the lock of rebuilds.
func (p *Projector) begin(ctx context.Context, tx pgx.Tx, until int64, progress func(done, total int64)) (*builder, error) {
	if err := makeFresh(ctx, tx, p.fresh()); err != nil {
		return nil, err
	}
	head, err := p.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	b := &builder{tx: tx, fresh: p.fresh(), state: NewState()}
	var tell func(int64)
	if progress != nil {
		total := min(head, until)
		progress(0, total)
		tell = func(done int64) { progress(done, max(done, total)) }
	}
	return b, b.build(ctx, p.log, until, tell)
}

// everything, as a bound, is all that is committed.
const everything = math.MaxInt64

// errBound ends a scan at a position.
var errBound = errors.New("bound reached")

// build folds the log from where the builder stands up to the position until,
// or as far as it goes: the live path, batch by batch.
func (b *builder) build(ctx context.Context, log *eventlog.Log, until int64, progress func(done int64)) error {
	if b.state.position >= until {
		return nil
	}
	err := log.Scan(ctx, b.state.position, func(events []eventlog.Event) error {
		events = events[:min(int64(len(events)), until-b.state.position)]
		if err := b.state.fold(ctx, b.tx, b.fresh, events); err != nil {
			return err
		}
		if progress != nil {
			progress(b.state.position)
		}
		if b.state.position == until {
			return errBound
		}
		return nil
	})
	if errors.Is(err, errBound) {
		return nil
	}
	return err
}

// dropOlder drops the read models of versions before this one, but for the
// newest of them: a reader that chose it just before the switch still finds it,
// and so does the older binary if somebody goes back to it.
func (p *Projector) dropOlder(ctx context.Context) error {
	const q = `select version from projections.checkpoints c where name = $1 and version < $2
		and version is distinct from (select max(version) from projections.checkpoints where name = $1 and version < $2 and built)`
	rows, err := p.pool.Query(ctx, q, name, p.version)
	if err != nil {
		return fmt.Errorf("look for older read models: %w", err)
	}
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return fmt.Errorf("look for older read models: %w", err)
	}
	for _, version := range versions {
		err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
			// Nobody should be reading them; a reader is not worth waiting for.
			if _, err := tx.Exec(ctx, "set local lock_timeout = '5s'"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "select projections.drop_schema($1)", version)
			return err
		})
		if err != nil {
			return fmt.Errorf("drop the read models of version %d: %w", version, err)
		}
	}
	return nil
}
