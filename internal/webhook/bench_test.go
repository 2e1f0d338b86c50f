package webhook

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/queue"
)

const benchBody = 8 << 10

// spread runs do from n goroutines b.N times in all and reports the p99.
func spread(b *testing.B, n int, do func(worker int, i int64) error) {
	b.Helper()
	var next atomic.Int64
	took := make([][]time.Duration, n)
	var wg sync.WaitGroup
	b.ResetTimer()
	for worker := range n {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				start := time.Now()
				if err := do(worker, i); err != nil {
					b.Error(err)
					return
				}
				took[worker] = append(took[worker], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
		b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "acks/s")
	}
}

// BenchmarkAcknowledge is a signed push over a kept-alive connection to the
// durable 202; BenchmarkRaw is what the disk alone allows: the two are compared.
func BenchmarkAcknowledge(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			q, err := queue.Open(b.TempDir(), slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			log := slog.New(slog.DiscardHandler)
			h, err := NewHandler(Options{Secrets: [][]byte{secret}, Queue: q, Log: log})
			if err != nil {
				b.Fatal(err)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- NewServer(h, log, Limits{}).Serve(ctx, ln) }()
			defer func() {
				cancel()
				<-served
			}()
			body := make([]byte, benchBody)
			request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nX-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958\r\nX-GitHub-Event: push\r\n"+
				"Content-Type: application/json\r\nX-Hub-Signature-256: %s\r\nContent-Length: %d\r\n\r\n%s", pathWebhook, sign(secret, body), len(body), body)
			type client struct {
				c net.Conn
				r *bufio.Reader
			}
			conns := make([]client, clients)
			for i := range conns {
				c, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				conns[i] = client{c, bufio.NewReader(c)}
			}
			spread(b, clients, func(worker int, _ int64) error {
				c := conns[worker]
				if _, err := c.c.Write(request); err != nil {
					return err
				}
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil {
					return err
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != http.StatusAccepted {
					return fmt.Errorf("status %d", resp.StatusCode)
				}
				return nil
			})
		})
	}
}

// BenchmarkOverhead is what checking, encoding and answering cost without a
// socket and without a disk.
func BenchmarkOverhead(b *testing.B) {
	h, err := NewHandler(Options{Secrets: [][]byte{secret}, Queue: discardQueue{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, benchBody)
	header := push("72d3162e-cc78-11e3-81ab-4c9367dc0958", body)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", pathWebhook, bytes.NewReader(body))
		r.Header = header
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			b.Fatal(w.Code)
		}
	}
}

type discardQueue struct{}

func (discardQueue) Put(_ context.Context, _ string, write func(io.Writer) error) (queue.Entry, error) {
	return queue.Entry{}, write(io.Discard)
}

// BenchmarkRaw writes a file of the same content, syncs it, links it to its name
// and syncs the directory.
func BenchmarkRaw(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			dir := b.TempDir()
			d, err := os.Open(dir)
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			body := make([]byte, benchBody*4/3+400)
			spread(b, writers, func(_ int, i int64) error {
				temp, name := filepath.Join(dir, fmt.Sprintf(".t%d", i)), filepath.Join(dir, fmt.Sprintf("%d", i))
				f, err := os.Create(temp)
				if err != nil {
					return err
				}
				if _, err = f.Write(body); err == nil {
					err = f.Sync()
				}
				if closed := f.Close(); err == nil {
					err = closed
				}
				if err == nil {
					err = os.Link(temp, name)
				}
				if err == nil {
					err = d.Sync()
				}
				return err
			})
		})
	}
}
