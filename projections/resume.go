package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Resume reads from the read models what may still go on in an instance: its
// deployments, and the deliveries with an attempt that is open. A fold of the
// events after its Position is then the state of those as of a fold of the whole log.
// It is the state of the empty log where the read models are not built yet, or are
// ahead of a log that was restored.
func (p *Projector) Resume(ctx context.Context, instance string) (*State, error) {
	s := NewState()
	err := pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		const q = `select c.position from projections.checkpoints c, public.log_head h
			where c.name = $1 and c.version = $2 and c.built and c.position <= h.position`
		err := tx.QueryRow(ctx, q, name, p.version).Scan(&s.position)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		deployments, deliveries := make(map[deploymentKey]struct{}), make(map[deliveryKey]struct{})
		if err := keys(ctx, tx, fmt.Sprintf("select slug from %s where instance = $1", deploymentsTable.in(p.live())), instance, func(slug string) {
			deployments[deploymentKey{instance, slug}] = struct{}{}
		}); err != nil {
			return err
		}
		if err := keys(ctx, tx, fmt.Sprintf("select delivery_id from %s where instance = $1 and open > 0", deliveriesTable.in(p.live())), instance, func(id string) {
			deliveries[deliveryKey{instance, id}] = struct{}{}
		}); err != nil {
			return err
		}
		if err := loadDeployments(ctx, tx, p.live(), s, deployments); err != nil {
			return err
		}
		return loadDeliveries(ctx, tx, p.live(), s, deliveries)
	})
	if err != nil {
		return nil, fmt.Errorf("read the state of %s from the read models: %w", instance, err)
	}
	return s, nil
}

func keys(ctx context.Context, tx pgx.Tx, sql, instance string, each func(string)) error {
	rows, err := tx.Query(ctx, sql, instance)
	if err != nil {
		return err
	}
	var key string
	_, err = pgx.ForEachRow(rows, []any{&key}, func() error { each(key); return nil })
	return err
}
