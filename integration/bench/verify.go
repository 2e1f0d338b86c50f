package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const logEvents = 1_000_000

// verify recomputes the tree over a million events, and compares it with a scan
// that only hashes them. Then the whole command, by its memory.
func verify(ctx context.Context, b *bench) ([]result, error) {
	many, err := b.longLog(ctx, logEvents)
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, many.dsn)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	log := eventlog.Open(pool, quiet())
	defer log.Close()
	var rate, all, scanRate, memory, whole []float64
	for round := range b.rounds {
		b.round(round)
		scan, err := hashingScan(ctx, pool)
		if err != nil {
			return nil, err
		}
		scanRate = append(scanRate, logEvents/scan.Seconds())
		for _, treeOnly := range []bool{true, false} {
			begin := time.Now()
			v, err := log.Verify(ctx, eventlog.VerifyOptions{TreeOnly: treeOnly})
			if err != nil {
				return nil, err
			}
			if len(v.Faults) > 0 || v.Tree.N != logEvents {
				return nil, fmt.Errorf("verified %d events, and found %v", v.Tree.N, v.Faults[:min(3, len(v.Faults))])
			}
			if r := logEvents / time.Since(begin).Seconds(); treeOnly {
				rate = append(rate, r)
			} else {
				all = append(all, r)
			}
		}
		begin := time.Now()
		cmd, _, err := b.command(ctx, many, "verify")
		if err != nil {
			return nil, err
		}
		whole = append(whole, logEvents/time.Since(begin).Seconds())
		memory = append(memory, peak(cmd))
	}
	return []result{
		compare("events verified against the tree, 1,000,000", "bare pgx scan + SHA-256 of the rows", "/s", rate, scanRate, target{min: 0.6}),
		compare("the same with their 250,000 bodies", "bare pgx scan + SHA-256 of the rows", "/s", all, scanRate, target{}),
		compare("`verify`: tree, bodies, fold, read models, queues", "bare pgx scan + SHA-256 of the rows", "/s", whole, scanRate, target{}),
		value("peak memory of `verify`, 1,000,000 events", "MiB", memory, target{max: 100}),
	}, nil
}

func hashingScan(ctx context.Context, pool *pgxpool.Pool) (time.Duration, error) {
	begin := time.Now()
	rows, err := pool.Query(ctx, `select position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data
		from public.events order by position`)
	if err != nil {
		return 0, err
	}
	n := 0
	h := sha256.New()
	for rows.Next() {
		h.Reset()
		for _, column := range rows.RawValues() {
			h.Write(column)
		}
		h.Sum(nil)
		n++
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	if n != logEvents {
		err = fmt.Errorf("scanned %d rows of %d", n, logEvents)
	}
	return time.Since(begin), err
}
