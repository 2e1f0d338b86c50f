package projections

import (
	"context"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// fillLog writes n events, four a delivery (received, forwarded, started,
// deployed), as an owner of the tables can; one delivery in late (0: none) comes
// again a thousand deliveries later.
func fillLog(t testing.TB, pool *pgxpool.Pool, n, late int) {
	t.Helper()
	ctx := context.Background()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "reset role"); err != nil {
		t.Fatal(err)
	}
	const insert = `
with e as (
    select p, (p - 1) / 4 as d, (p - 1) % 4 as k from generate_series(1, $1::bigint) p
), f as (
    select *, 'prod' as instance, encode(sha256(int8send(d)), 'hex') as h,
        timestamptz '2026-01-01 00:00:00Z' + p * interval '1 second' as at,
        $2::bigint > 0 and k = 3 and d > 1000 and d % greatest($2::bigint, 1) = 0 as again
    from e
), g as (
    select *, substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-' || substr(h, 13, 4) || '-' || substr(h, 17, 4) || '-' || substr(h, 21, 12) as delivery_id,
        encode(sha256(int8send(d - 1000)), 'hex') as h2
    from f
)
insert into public.events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
select p, '01J' || lpad(p::text, 23, '0'), instance,
    case when again then substr(h2, 1, 8) || '-' || substr(h2, 9, 4) || '-' || substr(h2, 13, 4) || '-' || substr(h2, 17, 4) || '-' || substr(h2, 21, 12)
         else delivery_id end,
    case when again then 'redelivered' else (array['received', 'forwarded', 'started', 'deployed'])[k + 1] end,
    case when k = 0 or again then null else 'app-' || d % 8 end,
    case when again then d else 1 end, 'octocat', at,
    case when again then json_build_object('v', 1, 'action', 'ignored', 'detail', 'it is live', 'received_at', at, 'entry', '01J00000000000000000000000')
    else case k
    when 0 then json_build_object('v', 1, 'event', 'push', 'ref', 'refs/heads/main', 'repository', 'octo/app-' || d % 8,
        'commit', substr(h, 1, 40), 'hook_id', '123456789', 'received_at', at, 'payload_digest', h, 'payload_size', 8192,
        'content_type', 'application/json', 'source', 'github', 'entry', '01J' || lpad(d::text, 23, '0'))
    when 1 then json_build_object('v', 1, 'branch', 'main', 'commit', substr(h, 1, 40),
        'rule', 'octo/app-' || d % 8 || ' refs/heads/main -> app-' || d % 8, 'config_digest', h)
    when 2 then json_build_object('v', 1, 'commit', substr(h, 1, 40), 'previous_commit', substr(h, 2, 40), 'host', 'web-1', 'pid', 4242,
        'plan', json_build_array('fetch', 'checkout', 'install', 'build', 'restart'), 'run_log', '/var/lib/durhack-deployer/runs/app-' || d % 8 || '/' || delivery_id || '-1.log')
    else json_build_object('v', 1, 'commit', substr(h, 1, 40), 'previous_commit', substr(h, 2, 40),
        'steps', json_build_array(
            json_build_object('name', 'fetch', 'duration_ms', 812, 'result', 'ok'), json_build_object('name', 'checkout', 'duration_ms', 95, 'result', 'ok'),
            json_build_object('name', 'install', 'duration_ms', 9312, 'result', 'ok'), json_build_object('name', 'build', 'duration_ms', 21312, 'result', 'ok'),
            json_build_object('name', 'restart', 'duration_ms', 512, 'result', 'ok')),
        'duration_ms', 32043, 'run_log_digest', h, 'run_log', '/var/lib/durhack-deployer/runs/app-' || d % 8 || '/' || delivery_id || '-1.log')
    end end
from g order by p`
	if _, err := conn.Exec(ctx, insert, n, late); err != nil {
		t.Fatalf("fill the log: %v", err)
	}
	if _, err := conn.Exec(ctx, `update public.log_head set position = $1::bigint, last_id = '01J' || lpad($1::bigint::text, 23, '0')`, n); err != nil {
		t.Fatalf("move the head: %v", err)
	}
	if _, err := conn.Exec(ctx, "vacuum analyze public.events"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Conn().Close(ctx); err != nil { // its role is not the application's
		t.Fatal(err)
	}
}

// bareScan reads the same rows in order with rows.Scan, and no more.
func bareScan(t testing.TB, pool *pgxpool.Pool, want int) time.Duration {
	t.Helper()
	begin := time.Now()
	rows, err := pool.Query(context.Background(), `select position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data
		from public.events order by position`)
	if err != nil {
		t.Fatal(err)
	}
	var e eventlog.Event
	var data []byte
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&e.Position, &e.ID, &e.Instance, &e.DeliveryID, &e.Type, &e.Deployment, &e.Attempt, &e.Actor, &e.RecordedAt, &data}, func() error {
		n++
		return nil
	})
	if err != nil || n != want {
		t.Fatalf("scanned %d rows of %d: %v", n, want, err)
	}
	return time.Since(begin)
}

// peakHeap samples the memory that Go has from the system until stop is called.
func peakHeap() (stop func() uint64) {
	runtime.GC()
	var peak atomic.Uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse+m.StackInuse))
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-ended
		return peak.Load()
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// BenchmarkRebuild compares a rebuild of BENCH_EVENTS events (1,000,000) with a
// bare scan of the same rows; the median of the ratios is reported. BENCH_LATE
// makes one delivery in so many come again long after it has ended.
func BenchmarkRebuild(b *testing.B) {
	n := number("BENCH_EVENTS", 1_000_000)
	pool := pgtest.Migrated(b)
	fillLog(b, pool, n, number("BENCH_LATE", 0))
	log := eventlog.Open(pool, slog.New(slog.NewTextHandler(io.Discard, nil)))
	defer log.Close()
	p := New(pool, log, slog.New(slog.NewTextHandler(io.Discard, nil)))
	var ratios, scans, rebuilds []float64
	var peak uint64
	b.ResetTimer()
	for range b.N {
		scan := bareScan(b, pool, n)
		stop := peakHeap()
		begin := time.Now()
		if err := p.Rebuild(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
		rebuild := time.Since(begin)
		peak = max(peak, stop())
		ratios = append(ratios, scan.Seconds()/rebuild.Seconds())
		scans = append(scans, scan.Seconds())
		rebuilds = append(rebuilds, rebuild.Seconds())
	}
	b.ReportMetric(median(ratios), "of_bare_scan")
	b.ReportMetric(median(scans), "scan_s")
	b.ReportMetric(median(rebuilds), "rebuild_s")
	b.ReportMetric(float64(peak)/(1<<20), "peak_MiB")
	b.ReportMetric(float64(n)/median(rebuilds), "events/s")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
