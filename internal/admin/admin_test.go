package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// serve runs a server with the checks until the test ends, and returns its address.
func serve(t *testing.T, checks ...Check) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{About: map[string]string{"instance": "test", "version": "v1"}, Checks: checks, Hosts: []string{"deploy.internal", "deploys.example.com"}, Pages: pages, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the server does not end")
		}
	})
	return l.Addr().String()
}

// pages name the path that they are asked for.
var pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "page "+r.URL.Path) })

// ask sends a request in full and returns the answer's code and body.
func ask(t *testing.T, addr, request string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func get(path, host string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host)
}

func TestAdmin_Readyz(t *testing.T) {
	fine := Check{"fine", func(context.Context) (any, []string) { return map[string]int{"n": 3}, nil }}
	bad := Check{"bad", func(context.Context) (any, []string) { return []string{}, []string{"one", "two"} }}
	for _, test := range []struct {
		name   string
		checks []Check
		code   int
		want   string
	}{
		{"nothing to check", nil, 200, `{"checks":{},"instance":"test","reasons":[],"status":"ready","version":"v1"}`},
		{"fine", []Check{fine}, 200, `{"checks":{"fine":{"n":3}},"instance":"test","reasons":[],"status":"ready","version":"v1"}`},
		{"bad", []Check{fine, bad}, 503, `{"checks":{"bad":[],"fine":{"n":3}},"instance":"test","reasons":["one","two"],"status":"not ready","version":"v1"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := serve(t, test.checks...)
			if code, body := ask(t, addr, get("/readyz", addr)); code != test.code || strings.TrimSpace(body) != test.want {
				t.Errorf("answered %d %s", code, body)
			}
			if code, body := ask(t, addr, get("/healthz", addr)); code != 200 || !strings.Contains(body, `"status":"ok"`) {
				t.Errorf("healthz answered %d %s", code, body)
			}
		})
	}
}

func TestAdmin_Refuses(t *testing.T) {
	addr := serve(t)
	for _, test := range []struct {
		name, request string
		code          int
	}{
		{"a page", get("/api", addr), 200},
		{"a page under a name that leads here", get("/api", "evil.example"), 421},
		{"a write", "POST /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 405},
		{"a name that leads here", get("/readyz", "evil.example"), 421},
		{"a name that leads here, with a port", get("/healthz", "evil.example:80"), 421},
		{"no name", "GET /readyz HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", 421},
		{"localhost", get("/readyz", "LocalHost:3401"), 200},
		{"the configured name", get("/readyz", "deploy.internal:3401"), 200},
		{"the name at the proxy", get("/readyz", "deploys.example.com"), 200},
		{"an address", get("/readyz", "10.1.2.3"), 200},
		{"an IPv6 address", get("/readyz", "[::1]"), 200},
		{"an IPv6 address with a port", get("/readyz", "[::1]:3401"), 200},
	} {
		if code, body := ask(t, addr, test.request); code != test.code {
			t.Errorf("%s: answered %d %s", test.name, code, body)
		}
	}
	// An answer to HEAD has no body, and the code of GET.
	resp, err := http.Head("http://" + addr + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != 200 {
		t.Errorf("HEAD answered %d", resp.StatusCode)
	}
}

// A check that hangs does not keep the next one who asks from an answer, and
// checks never run beside each other.
func TestAdmin_CheckThatHangs(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	addr := serve(t, Check{"slow", func(context.Context) (any, []string) {
		entered <- struct{}{}
		<-release
		return nil, nil
	}})
	unready := func(body string) string {
		var parsed struct {
			Status  string
			Reasons []string
		}
		if err := json.Unmarshal([]byte(body), &parsed); err != nil || parsed.Status != "not ready" || len(parsed.Reasons) != 1 {
			t.Errorf("the answer is %s", body)
			return ""
		}
		return parsed.Reasons[0]
	}
	first := make(chan string, 1)
	go func() {
		_, body := ask(t, addr, get("/readyz", addr))
		first <- body
	}()
	<-entered
	if code, body := ask(t, addr, get("/healthz", addr)); code != 200 {
		t.Errorf("healthz answered %d %s", code, body)
	}
	code, body := ask(t, addr, get("/readyz", addr))
	if why := unready(body); code != 503 || !strings.Contains(why, "asked for before") {
		t.Errorf("the second who asks gets %d %s", code, body)
	}
	if why := unready(<-first); !strings.Contains(why, "slow") {
		t.Errorf("the first who asks is told: %s", why)
	}
	if len(entered) != 0 {
		t.Error("two checks ran at once")
	}
	close(release)
	if code, body := ask(t, addr, get("/readyz", addr)); code != 200 {
		t.Errorf("once it does not hang, the answer is %d %s", code, body)
	}
}
