package queue

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"
)

// BenchmarkPut compares Put with the least that any durable queue must do: write
// + fsync + link + directory fsync. Both take turns on one disk, for what a
// disk does varies by the minute; ratios are the medians of the rounds.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			q := open(b, b.TempDir())
			raw := newRawQueue(b)
			body := make([]byte, 8<<10)
			for i := range body {
				body[i] = byte(rand.Uint32())
			}
			each := max(4, 512/writers)
			put := func() error {
				_, err := q.Put(context.Background(), "0bd0a0c0-8b0e-11f0-9a3f-5b1c2d3e4f50", func(w io.Writer) error {
					_, err := w.Write(body)
					return err
				})
				return err
			}
			var rate, tail, rawRate, rawTail, rateRatio, tailRatio []float64
			measure(b, writers, 4, put) // the first directory blocks
			measure(b, writers, 4, func() error { return raw.put(body) })
			for b.Loop() {
				r1, t1 := measure(b, writers, each, func() error { return raw.put(body) })
				r2, t2 := measure(b, writers, each, put)
				rawRate, rawTail = append(rawRate, r1), append(rawTail, t1)
				rate, tail = append(rate, r2), append(tail, t2)
				rateRatio, tailRatio = append(rateRatio, r2/r1), append(tailRatio, t2/t1)
			}
			b.ReportMetric(median(rate), "put/s")
			b.ReportMetric(median(rawRate), "raw/s")
			b.ReportMetric(median(rateRatio), "put/raw")
			b.ReportMetric(median(tail), "put-p99-ms")
			b.ReportMetric(median(rawTail), "raw-p99-ms")
			b.ReportMetric(median(tailRatio), "p99/raw")
		})
	}
}

// measure runs op in several goroutines and returns operations a second and
// the 99th percentile in milliseconds.
func measure(b *testing.B, writers, each int, op func() error) (rate, p99 float64) {
	b.Helper()
	took := make([]time.Duration, writers*each)
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	start := time.Now()
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				begin := time.Now()
				if err := op(); err != nil {
					failed.Store(&err)
				}
				took[w*each+i] = time.Since(begin)
			}
		})
	}
	wg.Wait()
	whole := time.Since(start)
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	slices.Sort(took)
	return float64(len(took)) / whole.Seconds(), took[len(took)*99/100].Seconds() * 1000
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	slices.Sort(x)
	return x[len(x)/2]
}

// rawQueue is the peer: system calls and nothing else.
type rawQueue struct {
	path string
	dir  *os.File
	n    atomic.Int64
}

func newRawQueue(b *testing.B) *rawQueue {
	b.Helper()
	path := b.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = dir.Close() })
	return &rawQueue{path: path, dir: dir}
}

func (r *rawQueue) put(body []byte) error {
	n := r.n.Add(1)
	temp := filepath.Join(r.path, fmt.Sprintf(".tmp%d", n))
	fd, err := unix.Open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // synced
	if _, err := unix.Write(fd, body); err != nil {
		return err
	}
	if err := unix.Fsync(fd); err != nil {
		return err
	}
	if err := unix.Link(temp, filepath.Join(r.path, fmt.Sprintf("%026d_x.json", n))); err != nil {
		return err
	}
	if err := unix.Unlink(temp); err != nil {
		return err
	}
	return unix.Fsync(int(r.dir.Fd()))
}

// BenchmarkNext takes the next entry out of a queue of 100 files and of 100,000:
// it must cost about the same.
func BenchmarkNext(b *testing.B) {
	for _, files := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			dir := b.TempDir()
			next := fill(b, dir, files)
			q := open(b, dir)
			w, err := q.Watch()
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close() // a benchmark
			for b.Loop() {
				entries, err := w.Next(context.Background(), 1)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := q.Read(entries[0]); err != nil {
					b.Fatal(err)
				}
				if err := w.Done(entries[0]); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				w.look(next()) // one in for one out
				b.StartTimer()
			}
		})
	}
}

// fill makes entries without syncing them, and returns a function that makes
// one more behind them.
func fill(b *testing.B, dir string, files int) func() string {
	b.Helper()
	n := uint64(0)
	next := func() string {
		n++
		var id ulid.ULID
		if err := id.SetTime(n); err != nil {
			b.Fatal(err)
		}
		name := id.String() + "_0bd0a0c0-8b0e-11f0-9a3f-5b1c2d3e4f50.json"
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			b.Fatal(err)
		}
		return name
	}
	for range files {
		next()
	}
	return next
}

func open(tb testing.TB, dir string, opts ...Option) *Queue {
	tb.Helper()
	q, err := Open(dir, slog.New(slog.DiscardHandler), opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := q.Close(); err != nil {
			tb.Error(err)
		}
	})
	return q
}
