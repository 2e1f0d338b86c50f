package webhook

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// gate is a queue whose Put waits until it is let through, or fails.
type gate struct {
	Queue
	entered chan struct{}
	pass    chan struct{}
	err     error
}

func newGate(q Queue) *gate {
	return &gate{Queue: q, entered: make(chan struct{}, 100), pass: make(chan struct{})}
}

func (g *gate) Put(ctx context.Context, id string, write func(io.Writer) error) (queue.Entry, error) {
	g.entered <- struct{}{}
	<-g.pass
	if g.err != nil {
		return queue.Entry{}, g.err
	}
	return g.Queue.Put(ctx, id, write)
}

// Bodies of many senders share pooled memory; none may show up in another's file.
func TestListener_ManyAtOnce(t *testing.T) {
	f := start(t, Limits{}, nil)
	sizes := []int{10, 8 << 10, chunkSize, 200 << 10, medium + 5}
	sent := make(map[string][]byte)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for client := range 16 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for i := range 6 {
				body := make([]byte, sizes[random.IntN(len(sizes))])
				for j := range body {
					body[j] = byte(random.Uint32())
				}
				id := fmt.Sprintf("%d-%d", client, i)
				h := push(id, body)
				good := random.IntN(3) > 0
				if !good {
					h = with(h, "X-Hub-Signature-256", flipLast(sign(secret, body)))
				}
				req, err := http.NewRequest("POST", f.url+pathWebhook, bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header = h
				resp, err := f.http.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if (resp.StatusCode == 202) != good {
					t.Errorf("%s: %d", id, resp.StatusCode)
				}
				if good {
					mu.Lock()
					sent[id] = body
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for _, e := range f.entries() {
		if body, ok := sent[e.ID]; !ok || !bytes.Equal(e.Body, body) {
			t.Errorf("%s was not stored as it was sent (acknowledged: %v)", e.ID, ok)
		}
		delete(sent, e.ID)
	}
	if len(sent) > 0 {
		t.Errorf("%d acknowledged deliveries are not there", len(sent))
	}
}

func TestPut_FailedIsNotAcknowledged(t *testing.T) {
	var g *gate
	f := start(t, Limits{}, func(o *Options) { g = newGate(o.Queue); o.Queue = g })
	close(g.pass)
	g.err = errors.New("no space left on device\x1b[31m")
	r := f.post(push("a", pushBody), pushBody)
	if r.status != 503 || r.header.Get("Retry-After") == "" || r.json["error"] != "unavailable" || r.json["reason"] != "queue_unavailable" {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	if strings.Contains(string(r.body), "no space") {
		t.Errorf("the public answer tells of the disk: %s", r.body)
	}
	if log := f.logged(1); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "no space left") || strings.Contains(log, "\x1b") {
		t.Errorf("log: %s", log)
	}
}

// A disk that hangs takes neither the connections nor the memory, and what it
// stores in the end is not lost.
func TestPut_DiskThatHangs(t *testing.T) {
	var g *gate
	f := start(t, Limits{Connections: 2 * maxPuts}, func(o *Options) {
		g = newGate(o.Queue)
		g.entered = make(chan struct{}, 3*maxPuts)
		o.Queue, o.PutTimeout = g, 2*time.Millisecond
	})
	for i := range 2 * maxPuts {
		r := f.post(push(fmt.Sprintf("d-%d", i), pushBody), pushBody)
		if r.status != 503 || r.header.Get("Retry-After") == "" || r.json["reason"] != "queue_unavailable" {
			t.Fatalf("%d %v %s", r.status, r.header, r.body)
		}
	}
	testkit.Wait(t, "the writes hang", func() bool { return len(g.entered) >= maxPuts })
	if n := len(g.entered); n != maxPuts {
		t.Errorf("%d writes hang, want %d", n, maxPuts)
	}
	if r := f.send("GET", pathHealth, nil, nil); r.status != 200 {
		t.Errorf("healthz: %d %s", r.status, r.body)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if f.h.Settle(ended) {
		t.Error("Settle does not know of the writes that hang")
	}
	close(g.pass)
	for end := time.Now().Add(limit); len(f.entries()) < maxPuts; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d entries", len(f.entries()))
		}
	}
}

// slowLog takes no line until it is let.
type slowLog struct {
	slog.Handler
	pass chan struct{}
}

func (s slowLog) Handle(ctx context.Context, r slog.Record) error {
	<-s.pass
	return s.Handler.Handle(ctx, r)
}

func TestAnswer_DoesNotWaitForTheLog(t *testing.T) {
	s := slowLog{slog.DiscardHandler, make(chan struct{})}
	f := start(t, Limits{}, func(o *Options) { o.Log = slog.New(s) })
	defer close(s.pass)
	if r := f.post(push("a", pushBody), pushBody); r.status != 202 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// drip sends head and then a byte now and then, until the server hangs up, and
// returns all that the server said.
func (f *fixture) drip(head string, b byte) string {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Error(err)
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	var writing sync.WaitGroup
	writing.Go(func() {
		_, err := io.WriteString(c, head)
		for err == nil {
			time.Sleep(10 * time.Millisecond)
			_, err = c.Write([]byte{b})
		}
	})
	said, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		f.t.Error("the server did not hang up")
	}
	c.Close()
	writing.Wait()
	return string(said)
}

func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	f := start(t, Limits{Request: 4 * time.Second}, func(o *Options) { o.BodyTimeout = time.Second })
	hasty := start(t, Limits{Header: time.Second, Idle: time.Second}, nil) // where no answer is expected
	signed := "POST " + pathWebhook + " HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: " + sign(secret, pushBody) + "\r\n"
	var wg sync.WaitGroup
	for _, c := range []struct{ what, head, want string }{
		{"a small body", signed + "Content-Length: 100000\r\n\r\n", "HTTP/1.1 408 "},
		{"a large body", signed + "Content-Length: 20000000\r\n\r\n", "HTTP/1.1 408 "},
		{"a body in chunks", signed + "Transfer-Encoding: chunked\r\n\r\nfffff\r\n", "HTTP/1.1 408 "},
		{"an unsigned body", "POST /github-webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "HTTP/1.1 401 "},
		{"a body elsewhere", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "HTTP/1.1 405 "},
	} {
		wg.Go(func() {
			if said := f.drip(c.head, 'a'); !strings.HasPrefix(said, c.want) {
				t.Errorf("%s: %q", c.what, said)
			}
		})
	}
	wg.Go(func() { hasty.drip("POST /github-webhook HTTP/1.1\r\nX-Slow: ", 'a') })
	// Nothing at all, and nothing after an answer.
	for _, first := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		wg.Go(func() {
			c, err := net.Dial("tcp", hasty.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(limit))
			_, _ = io.WriteString(c, first)
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Errorf("after %q: %v", first, err)
			}
		})
	}
	wg.Wait()
	if !f.h.memory.whole() {
		t.Error("memory was not given back")
	}
	if e := f.entries(); len(e) != 0 {
		t.Errorf("left behind: %+v", e)
	}
}

// A handler that sets no deadlines of its own is protected too.
func TestServe_OwnLimit(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- NewServer(h, slog.New(slog.DiscardHandler), Limits{Request: 3 * time.Second}).Serve(ctx, ln)
	}()
	f := &fixture{t: t, addr: ln.Addr().String()}
	if said := f.drip("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", 'a'); !strings.HasPrefix(said, "HTTP/1.1 418 ") {
		t.Errorf("%q", said)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A slow disk is not a slow client: the limits on the body must not end the write
// or the answer.
func TestPut_SlowIsStillAcknowledged(t *testing.T) {
	t.Parallel()
	var g *gate
	const short = 3 * time.Second
	f := start(t, Limits{Request: short},
		func(o *Options) { g = newGate(o.Queue); o.Queue, o.BodyTimeout = g, short })
	go func() {
		<-g.entered
		time.Sleep(short + 200*time.Millisecond)
		close(g.pass)
	}()
	if r := f.post(push("a", pushBody), pushBody); r.status != 202 {
		t.Errorf("%d %s", r.status, r.body)
	}
	// And the connection is good for the next one.
	var reused bool
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
	})
	req, err := http.NewRequestWithContext(ctx, "POST", f.url+pathWebhook, bytes.NewReader(pushBody))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = push("b", pushBody)
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 202 || len(f.entries()) != 2 || !reused {
		t.Errorf("status %d, connection used again: %v", resp.StatusCode, reused)
	}
}

// A sender that hangs up before it has its answer, as GitHub does after ten
// seconds, has nevertheless handed over its delivery.
func TestPut_ImpatientSendersDeliveryIsKept(t *testing.T) {
	var g *gate
	f := start(t, Limits{}, func(o *Options) { g = newGate(o.Queue); o.Queue = g })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	noticed := make(chan struct{})
	watch := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		context.AfterFunc(r.Context(), func() { close(noticed) })
		f.h.ServeHTTP(w, r)
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- NewServer(watch, slog.New(slog.DiscardHandler), Limits{}).Serve(ctx, ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nX-GitHub-Delivery: a\r\nX-GitHub-Event: push\r\nContent-Type: application/json\r\n"+
		"X-Hub-Signature-256: %s\r\nContent-Length: %d\r\n\r\n%s", pathWebhook, sign(secret, pushBody), len(pushBody), pushBody)
	<-g.entered
	c.Close()
	<-noticed
	close(g.pass)
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if e := f.entries(); len(e) != 1 {
		t.Errorf("%d entries", len(e))
	}
}

func TestDrain(t *testing.T) {
	var g *gate
	f := start(t, Limits{}, func(o *Options) { g = newGate(o.Queue); o.Queue = g })
	answered := make(chan reply, 1)
	go func() { answered <- f.post(push("a", pushBody), pushBody) }()
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(end) {
			t.Fatal("still accepting")
		}
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request in flight: %v", err)
	default:
	}
	close(g.pass)
	if r := <-answered; r.status != 202 {
		t.Errorf("%d %s", r.status, r.body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if e := f.entries(); len(e) != 1 {
		t.Errorf("%d entries", len(e))
	}
}

func TestDrainIsBounded(t *testing.T) {
	var g *gate
	f := start(t, Limits{Drain: 20 * time.Millisecond}, func(o *Options) { g = newGate(o.Queue); o.Queue = g })
	failed := make(chan error, 1)
	go func() {
		req, err := http.NewRequest("POST", f.url+pathWebhook, bytes.NewReader(pushBody))
		if err == nil {
			req.Header = push("a", pushBody)
			var resp *http.Response
			if resp, err = f.http.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		failed <- err
	}()
	<-g.entered
	if err := f.stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("a request that was cut off was answered")
	}
	close(g.pass)
}

func TestServeTellsThatItsListenerFailed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	s := NewServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler), Limits{})
	if err := s.Serve(context.Background(), ln); err == nil {
		t.Error("no error")
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	f := start(t, Limits{Connections: 2}, nil)
	dial := func() (net.Conn, *bufio.Reader) {
		t.Helper()
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(limit))
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		return c, bufio.NewReader(c)
	}
	get := func(r *bufio.Reader) error {
		resp, err := http.ReadResponse(r, nil)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	first, r1 := dial()
	_, r2 := dial()
	if err := errors.Join(get(r1), get(r2)); err != nil {
		t.Fatal(err)
	}
	third, r3 := dial()
	_ = third.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	var timeout net.Error
	if err := get(r3); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("a third connection was served: %v", err)
	}
	_ = third.SetReadDeadline(time.Now().Add(limit))
	first.Close()
	if err := get(r3); err != nil {
		t.Errorf("the third was not served after the first had ended: %v", err)
	}
}
