package eventlog

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// delivery is what a push appends on its way: the router's group, then the
// worker's start and end.
func deliveryGroups(id string) []Group {
	deployment := "app-" + id[len(id)-1:]
	forwarded := Transition{
		Instance: "test", DeliveryID: id, Deployment: deployment, Attempt: 1, Actor: "octocat",
		Data: Forwarded{Order: Order{Branch: "main", Commit: "0123456789012345678901234567890123456789", Rule: "branch main of ducompsoc/durhack", ConfigDigest: "d1"}},
	}
	return []Group{group(received(id), forwarded), group(started(id, deployment, 1)), group(deployed(id, deployment, 1))}
}

// BenchmarkAppend64 has 64 deliveries in flight, each appending one group after
// the other. Compare with BenchmarkBareInsert.
func BenchmarkAppend64(b *testing.B) {
	l := newLog(b)
	ctx := context.Background()
	var next, events atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				for _, g := range deliveryGroups(fmt.Sprintf("d-%d", n)) {
					if _, err := l.Append(ctx, g); err != nil {
						b.Error(err)
						return
					}
					events.Add(int64(len(g.Transitions)))
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(events.Load())/b.Elapsed().Seconds(), "events/s")
}

// bareRows are the rows of b.N deliveries, as a plain program would insert them.
func bareRows(b *testing.B) [][]any {
	var rows [][]any
	at := time.Now()
	for n := range b.N {
		for _, g := range deliveryGroups(fmt.Sprintf("d-%d", n)) {
			for _, t := range g.Transitions {
				r, err := encodeTransition(t)
				if err != nil {
					b.Fatal(err)
				}
				e := r.event(int64(len(rows)+1), fmt.Sprintf("%026d", len(rows)+1), at)
				rows = append(rows, []any{e.Position, e.ID, e.Instance, e.DeliveryID, string(e.Type), e.Deployment, e.Attempt, e.Actor, e.RecordedAt, string(e.Data)})
			}
		}
	}
	return rows
}

// BenchmarkBareInsert inserts the same rows from one connection, 100 to a
// transaction: the peer of BenchmarkAppend64.
func BenchmarkBareInsert(b *testing.B) {
	conn := superuser(b, migrate(b, pgtest.DSN(b)))
	ctx := context.Background()
	rows := bareRows(b)
	b.ResetTimer()
	for first := 0; first < len(rows); first += 100 {
		var batch pgx.Batch
		for _, row := range rows[first:min(first+100, len(rows))] {
			batch.Queue(`insert into events (`+eventColumns+`) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, row...)
		}
		if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(len(rows))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkAppend1 has one client that appends one event after the other.
// Compare with BenchmarkBareInsert1.
func BenchmarkAppend1(b *testing.B) {
	l := newLog(b)
	for n := range 50 {
		mustAppend(b, l, group(started(fmt.Sprintf("warm-%d", n), "web", 1)))
	}
	b.ResetTimer()
	for n := range b.N {
		if _, err := l.Append(context.Background(), group(started(fmt.Sprintf("d-%d", n), "web", 1))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareInsert1 commits one row after the other.
func BenchmarkBareInsert1(b *testing.B) {
	conn := superuser(b, migrate(b, pgtest.DSN(b)))
	rows := bareRows(b)
	b.ResetTimer()
	for n := range b.N {
		if _, err := conn.Exec(context.Background(), `insert into events (`+eventColumns+`) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, rows[n]...); err != nil {
			b.Fatal(err)
		}
	}
}

// fill gives the log n events without going through Append.
func fill(b testing.TB, conn *pgx.Conn, n int) {
	b.Helper()
	ctx := context.Background()
	_, err := conn.Exec(ctx, `insert into events (`+eventColumns+`)
		select n, lpad(n::text, 26, '0'), 'test', gen_random_uuid()::text, 'voided', null, 0, 'octocat', clock_timestamp(),
			'{"v":1,"reason":"no_deployment","detail":"no deployment has repository ducompsoc/durhack-website with branch topic","commit":"0123456789012345678901234567890123456789"}'
		from generate_series(1, $1::bigint) n`, n)
	if err == nil {
		_, err = conn.Exec(ctx, `update log_head set position = $1, last_id = '00000000000000000000000001'`, n)
	}
	if err == nil {
		_, err = conn.Exec(ctx, `vacuum analyze events`)
	}
	if err != nil {
		b.Fatal(err)
	}
}

const scanned = 200_000

// BenchmarkScan and BenchmarkBareScan read the same rows.
func BenchmarkScan(b *testing.B) {
	pool := migrate(b, pgtest.DSN(b))
	fill(b, superuser(b, pool), scanned)
	l := openLog(b, pool)
	b.ReportAllocs()
	for b.Loop() {
		size := 0
		if err := l.Scan(context.Background(), 0, func(events []Event) error {
			for _, e := range events {
				size += len(e.Data)
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(scanned*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkBareScan(b *testing.B) {
	pool := migrate(b, pgtest.DSN(b))
	fill(b, superuser(b, pool), scanned)
	b.ReportAllocs()
	for b.Loop() {
		rows, err := pool.Query(context.Background(), `select `+eventColumns+` from events order by position`)
		if err != nil {
			b.Fatal(err)
		}
		for rows.Next() {
			if _, err := scanEvent(rows); err != nil {
				b.Fatal(err)
			}
		}
		if rows.Err() != nil {
			b.Fatal(rows.Err())
		}
	}
	b.ReportMetric(scanned*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
