package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// fold applies events to the tables of a place: it loads the rows that they
// touch, applies them, and writes what has changed. An event that this binary does
// not know ends it with an *eventlog.UnknownEventError, after what comes before that
// event was written. The caller owns the transaction, and is the only one to change
// the tables in it.
func (s *State) fold(ctx context.Context, tx pgx.Tx, to place, events []eventlog.Event) error {
	if err := s.load(ctx, tx, to, events); err != nil {
		return err
	}
	var unknown *eventlog.UnknownEventError
	for i := range events {
		if err := s.Apply(&events[i]); errors.As(err, &unknown) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := s.save(ctx, tx, to); err != nil {
		return err
	}
	if unknown != nil {
		return unknown
	}
	return nil
}

// load reads into the state all that the events touch and that it does not hold.
func (s *State) load(ctx context.Context, tx pgx.Tx, from place, events []eventlog.Event) error {
	deliveries := make(map[deliveryKey]struct{})
	deployments := make(map[deploymentKey]struct{})
	for i := range events {
		e := &events[i]
		if key := (deliveryKey{e.Instance, e.DeliveryID}); s.deliveries[key] == nil {
			deliveries[key] = struct{}{}
		}
		if e.Deployment != nil {
			deployments[deploymentKey{e.Instance, *e.Deployment}] = struct{}{}
			continue
		}
		if ofDeployment(e.Type) {
			deployments[deploymentKey{e.Instance, All}] = struct{}{}
			continue
		}
		orders, err := e.Assignments()
		if err != nil {
			break // Apply says so, and stops before it
		}
		for _, o := range orders {
			deployments[deploymentKey{e.Instance, clean(o.Deployment)}] = struct{}{}
		}
	}
	if err := loadDeployments(ctx, tx, from, s, deployments); err != nil {
		return err
	}
	return loadDeliveries(ctx, tx, from, s, deliveries)
}

// loadDeliveries reads the deliveries with their attempts into s. None of them
// may be there yet.
func loadDeliveries(ctx context.Context, tx pgx.Tx, p place, s *State, keys map[deliveryKey]struct{}) error {
	if len(keys) == 0 {
		return nil
	}
	instances, ids := make([]string, 0, len(keys)), make([]string, 0, len(keys))
	for k := range keys {
		instances, ids = append(instances, k.instance), append(ids, k.id)
	}
	const of = "select row_to_json(t) from %s t join unnest($1::text[], $2::text[]) as k (instance, delivery_id)" +
		" on t.instance = k.instance and t.delivery_id = k.delivery_id"
	err := eachRow(ctx, tx, fmt.Sprintf(of, deliveriesTable.in(p)), func(d Delivery) error {
		s.deliveries[deliveryKey{d.Instance, d.ID}] = &record{Delivery: d}
		return nil
	}, instances, ids)
	if err != nil {
		return fmt.Errorf("load deliveries: %w", err)
	}
	err = eachRow(ctx, tx, fmt.Sprintf(of, attemptsTable.in(p)), func(a Attempt) error {
		r, ok := s.deliveries[deliveryKey{a.Instance, a.DeliveryID}]
		if !ok {
			return fmt.Errorf("the tables have an attempt of delivery %s, but not the delivery; run durhack-deployer projections rebuild", a.DeliveryID)
		}
		r.put(&attempt{Attempt: a})
		return nil
	}, instances, ids)
	if err != nil {
		return fmt.Errorf("load attempts: %w", err)
	}
	return nil
}

// loadDeployments reads the deployments into s, in place of what it holds of them.
func loadDeployments(ctx context.Context, tx pgx.Tx, p place, s *State, keys map[deploymentKey]struct{}) error {
	if len(keys) == 0 {
		return nil
	}
	instances, slugs := make([]string, 0, len(keys)), make([]string, 0, len(keys))
	for k := range keys {
		instances, slugs = append(instances, k.instance), append(slugs, k.slug)
	}
	q := fmt.Sprintf("select row_to_json(t) from %s t join unnest($1::text[], $2::text[]) as k (instance, slug)"+
		" on t.instance = k.instance and t.slug = k.slug", deploymentsTable.in(p))
	err := eachRow(ctx, tx, q, func(row deploymentRow) error {
		d := row.record()
		s.deployments[deploymentKey{d.Instance, d.Slug}] = d
		return nil
	}, instances, slugs)
	if err != nil {
		return fmt.Errorf("load deployments: %w", err)
	}
	return nil
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// eachRow calls fn with each row of a query that returns one JSON column.
func eachRow[T Delivery | Attempt | deploymentRow](ctx context.Context, q querier, sql string, fn func(T) error, args ...any) error {
	found, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer found.Close()
	for found.Next() {
		row, err := unmarshalRow[T](found.RawValues()[0])
		if err != nil {
			return err
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	return found.Err()
}

// save writes what has changed, in one round trip, and forgets it: the tables
// have it. Only a delivery that nothing has decided yet stays in memory, because
// Accounting names those at the end.
func (s *State) save(ctx context.Context, tx pgx.Tx, p place) error {
	var deployments []deploymentRow
	var deliveries []*Delivery
	var attempts []*Attempt
	for _, d := range s.deployments {
		if d.dirty {
			deployments = append(deployments, d.row())
		}
	}
	clear(s.deployments)
	for key, r := range s.deliveries {
		if r.dirty {
			deliveries = append(deliveries, &r.Delivery)
		}
		for _, a := range r.attempts {
			if a.dirty {
				attempts = append(attempts, &a.Attempt)
			}
			a.dirty = false
		}
		if r.dirty = false; !r.undecided() {
			delete(s.deliveries, key)
		}
	}
	batch := &pgx.Batch{}
	err := errors.Join(
		queueUpsert(batch, deploymentsTable.upsert(p), deployments),
		queueUpsert(batch, deliveriesTable.upsert(p), deliveries),
		queueUpsert(batch, attemptsTable.upsert(p), attempts))
	if err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write the read models: %w", err)
	}
	return nil
}

func queueUpsert[T any](batch *pgx.Batch, sql string, list []T) error {
	if len(list) == 0 {
		return nil
	}
	b, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode rows: %w", err)
	}
	batch.Queue(sql, string(b))
	return nil
}
