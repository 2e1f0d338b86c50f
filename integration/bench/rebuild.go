package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

const logEvents = 1_000_000

// rebuild folds a million events into the read models, and compares it with a
// scan of the same rows that does nothing with them.
func rebuild(ctx context.Context, b *bench) (_ []result, err error) {
	pool, owner, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, owner.Close(ctx)) }()
	defer pool.Close()
	if err := samplelog.Fill(ctx, owner, logEvents, 0); err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	log := eventlog.Open(pool, quiet)
	defer log.Close()
	p := projections.New(pool, log, quiet)
	var rate, scanRate []float64
	for round := range b.rounds {
		b.round(round)
		scan, err := bareScan(ctx, pool)
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		if err := p.Rebuild(ctx, nil); err != nil {
			return nil, err
		}
		rate = append(rate, logEvents/time.Since(begin).Seconds())
		scanRate = append(scanRate, logEvents/scan.Seconds())
	}
	return []result{
		compare("projections rebuilt, 1,000,000 events", "bare pgx scan", "/s", rate, scanRate, target{min: 0.15}),
	}, nil
}

func bareScan(ctx context.Context, pool *pgxpool.Pool) (time.Duration, error) {
	begin := time.Now()
	rows, err := pool.Query(ctx, `select position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data
		from public.events order by position`)
	if err != nil {
		return 0, err
	}
	var e eventlog.Event
	var data []byte
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&e.Position, &e.ID, &e.Instance, &e.DeliveryID, &e.Type, &e.Deployment, &e.Attempt,
		&e.Actor, &e.RecordedAt, &data}, func() error {
		n++
		return nil
	})
	if err == nil && n != logEvents {
		err = fmt.Errorf("scanned %d rows of %d", n, logEvents)
	}
	return time.Since(begin), err
}
