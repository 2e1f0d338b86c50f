package projections

import (
	"context"
	"fmt"
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
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
)

// fillLog writes n events, as an owner of the tables can.
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
	if err := samplelog.Fill(ctx, conn.Conn(), n, late); err != nil {
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
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	defer log.Close()
	p := New(pool, log, slog.New(slog.DiscardHandler))
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

// One delivery that is forwarded to many deployments, each of which is asked for, as the
// mirror does.
func BenchmarkFold_OneDelivery(b *testing.B) {
	for _, n := range []int{500, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				s := NewState()
				for i := range n {
					slug := fmt.Sprintf("app-%d", i)
					e := eventlog.Event{
						Position: int64(i + 1), Instance: "prod", DeliveryID: "d", Type: eventlog.TypeForwarded, Deployment: &slug, Attempt: 1,
						Data: []byte(`{"v":1,"branch":"main","commit":"c0ffee","rule":"r","config_digest":"d"}`),
					}
					if err := s.Apply(&e); err != nil {
						b.Fatal(err)
					}
					if a, ok := s.Newest("prod", "d", slug, e.Position); !ok || !a.Open() {
						b.Fatalf("%s: %v", slug, a)
					}
				}
			}
		})
	}
}
