package projections

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// missing lists the deliveries of events that s does not hold and that the
// tables may. With fresh, a delivery whose first event is its first received is
// taken as new: the log has that identity once, so nothing can have stored it
// before, unless a delivery was stored without it.
func missing(s *State, events []eventlog.Event, fresh bool) []deliveryKey {
	var keys []deliveryKey
	seen := make(map[deliveryKey]struct{}, len(events)/2)
	for i := range events {
		e := &events[i]
		if i > 0 && e.DeliveryID == events[i-1].DeliveryID && e.Instance == events[i-1].Instance {
			continue // neighbours often share their delivery
		}
		key := deliveryKey{e.Instance, e.DeliveryID}
		if _, ok := s.deliveries[key]; ok {
			continue
		}
		if _, ok := seen[key]; ok {
			continue
		}
		seen[key] = struct{}{}
		if fresh && e.Type == eventlog.TypeReceived && e.Attempt <= 1 {
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// loadDeliveries reads the deliveries with their attempts into s. None of them
// may be there yet.
func loadDeliveries(ctx context.Context, tx pgx.Tx, p place, s *State, keys []deliveryKey) error {
	if len(keys) == 0 {
		return nil
	}
	instances, ids := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		instances[i], ids[i] = k.instance, k.id
	}
	const of = "select row_to_json(t) from %s t join unnest($1::text[], $2::text[]) as k (instance, delivery_id)" +
		" on t.instance = k.instance and t.delivery_id = k.delivery_id"
	err := eachRow(ctx, tx, fmt.Sprintf(of, deliveriesTable.in(p)), func(d Delivery) error {
		s.deliveries[deliveryKey{d.Instance, d.ID}] = &record{Delivery: d, stored: true}
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
		r.attempts = append(r.attempts, &attempt{Attempt: a, stored: true})
		return nil
	}, instances, ids)
	if err != nil {
		return fmt.Errorf("load attempts: %w", err)
	}
	return nil
}

// loadDeployments reads all deployments of the instances into s.
func loadDeployments(ctx context.Context, tx pgx.Tx, p place, s *State, instances []string) error {
	q := fmt.Sprintf("select row_to_json(t) from %s t where t.instance = any($1)", deploymentsTable.in(p))
	err := eachRow(ctx, tx, q, func(row deploymentRow) error {
		d := row.record()
		d.stored = true
		s.deployments[deploymentKey{d.Instance, d.Slug}] = d
		return nil
	}, instances)
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

// save writes what has changed since the last save, in one round trip.
func save(ctx context.Context, tx pgx.Tx, p place, s *State) error {
	var deliveries []*Delivery
	var attempts []*Attempt
	for _, r := range s.touched {
		deliveries = append(deliveries, &r.Delivery)
		for _, a := range r.attempts {
			if a.dirty {
				attempts = append(attempts, &a.Attempt)
			}
		}
	}
	batch := &pgx.Batch{}
	if err := queueUpsert(batch, deliveriesTable.upsert(p), deliveries); err != nil {
		return err
	}
	if err := queueUpsert(batch, attemptsTable.upsert(p), attempts); err != nil {
		return err
	}
	if err := queueUpsert(batch, deploymentsTable.upsert(p), changedDeployments(s)); err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write the read models: %w", err)
	}
	return nil
}

func changedDeployments(s *State) []deploymentRow {
	var list []deploymentRow
	for _, d := range s.deployments {
		if d.dirty {
			list = append(list, d.row())
		}
	}
	return list
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

// copyRows sends rows, and empties them.
func copyRows(ctx context.Context, tx pgx.Tx, t table, p place, r *rows) error {
	if r.n == 0 {
		return nil
	}
	if _, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(r.finish()), t.copyIn(p)); err != nil {
		return fmt.Errorf("copy %d rows into %s: %w", r.n, t.in(p), err)
	}
	r.reset()
	return nil
}
