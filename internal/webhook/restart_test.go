package webhook

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Clients that connect, or send, while a server ends are refused or answered;
// none is left with an empty or a cut reply.
func TestRestartsCutNobodyOff(t *testing.T) {
	f := start(t, Limits{}, nil)
	addr := f.addr
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	const clients, restarts = 8, 20
	done, quit := context.WithCancel(context.Background())
	defer quit()
	var answered atomic.Int64
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			var c net.Conn
			var r *bufio.Reader
			defer func() {
				if c != nil {
					c.Close()
				}
			}()
			for n := 0; done.Err() == nil; n++ {
				if c == nil {
					var err error
					if c, err = net.DialTimeout("tcp", addr, limit); errors.Is(err, syscall.ECONNREFUSED) {
						time.Sleep(time.Millisecond)
						continue
					} else if err != nil {
						t.Errorf("client %d: %v", client, err)
						return
					}
					r = bufio.NewReader(c)
					_ = c.SetDeadline(time.Now().Add(limit))
				}
				_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nX-GitHub-Delivery: %d-%d\r\nX-GitHub-Event: push\r\nContent-Type: application/json\r\n"+
					"X-Hub-Signature-256: %s\r\nContent-Length: %d\r\n\r\n%s", pathWebhook, client, n, sign(secret, pushBody), len(pushBody), pushBody)
				var resp *http.Response
				if err == nil {
					if resp, err = http.ReadResponse(r, nil); err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
				}
				if err != nil {
					t.Errorf("client %d, request %d: %v", client, n, err)
					return
				}
				if resp.StatusCode != http.StatusAccepted {
					t.Errorf("client %d, request %d: %s", client, n, resp.Status)
				}
				answered.Add(1)
				// Half of the clients send all that they have on one connection.
				if resp.Close || client%2 == 0 {
					c.Close()
					c = nil
				}
			}
		})
	}
	for range restarts {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		before := answered.Load()
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- NewServer(f.h, slog.New(slog.DiscardHandler), Limits{}).Serve(ctx, l) }()
		for end := time.Now().Add(limit); answered.Load() < before+clients && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	}
	quit()
	all.Wait()
	if n := answered.Load(); n < clients*restarts {
		t.Errorf("%d requests were answered", n)
	}
}
