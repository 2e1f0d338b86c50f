package projections

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// rebuildLock is the advisory lock of a transaction that uses the fresh tables:
// arbitrary, but never to be changed.
const rebuildLock = int64(0x6475726861636b02)

// Rebuild folds the whole log into fresh tables and puts them in the place of
// the old ones, in one transaction: readers see the old ones until then, and
// all of the old ones if it fails. Live update goes on meanwhile, and waits only
// while Rebuild catches up with it at the end. Rebuilds wait for one another.
//
// progress, which may be nil, is told now and then how many of the events are
// done; it is called from one goroutine at a time.
func (p *Projector) Rebuild(ctx context.Context, progress func(done, total int64)) error {
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		b, err := p.begin(ctx, tx, everything, progress)
		if err != nil {
			return err
		}
		// Before the lock: this is most of what is left to do.
		if err := b.index(ctx); err != nil {
			return err
		}
		if err := ensureCheckpoint(ctx, tx); err != nil {
			return err
		}
		// From here on live update waits.
		at, err := lockCheckpoint(ctx, tx)
		if err != nil {
			return err
		}
		if at.version > Version {
			return fmt.Errorf("the read models have version %d, this binary knows %d; run a newer durhack-deployer", at.version, Version)
		}
		if err := b.build(ctx, p.log, everything, nil); err != nil {
			return err
		}
		if err := b.finish(ctx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "select projections.swap_fresh()"); err != nil {
			return fmt.Errorf("swap the tables: %w", err)
		}
		return moveCheckpoint(ctx, tx, b.state.position)
	})
	if err != nil {
		return fmt.Errorf("rebuild projections: %w", err)
	}
	return nil
}

// begin makes the fresh tables and folds the log into them up to the position
// until or as far as it goes.
func (p *Projector) begin(ctx context.Context, tx pgx.Tx, until int64, progress func(done, total int64)) (*builder, error) {
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", rebuildLock); err != nil {
		return nil, fmt.Errorf("wait for another rebuild: %w", err)
	}
	if _, err := tx.Exec(ctx, "select projections.make_fresh()"); err != nil {
		return nil, fmt.Errorf("make fresh tables: %w", err)
	}
	head, err := p.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	b := newBuilder(tx)
	var tell func(int64)
	if progress != nil {
		total := min(head, until)
		progress(0, total)
		tell = func(done int64) { progress(done, max(done, total)) }
	}
	return b, b.build(ctx, p.log, until, tell)
}

// execer is a pool or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func ensureCheckpoint(ctx context.Context, db execer) error {
	const q = `insert into projections.checkpoints (name, version, position) values ($1, $2, 0) on conflict do nothing`
	if _, err := db.Exec(ctx, q, name, Version); err != nil {
		return fmt.Errorf("make the checkpoint of the projections: %w", err)
	}
	return nil
}
