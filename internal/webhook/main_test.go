package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is for what is expected to happen soon; only a failure takes that long.
const limit = 20 * time.Second

var secret = []byte("correct horse")

func sign(secret, body []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write(body)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

func signSHA1(secret, body []byte) string {
	m := hmac.New(sha1.New, secret)
	m.Write(body)
	return "sha1=" + hex.EncodeToString(m.Sum(nil))
}

// fixture is a real server with a real queue directory.
type fixture struct {
	t     *testing.T
	queue *queue.Queue
	url   string
	addr  string
	log   *testkit.Buffer
	http  *http.Client
	h     *Handler
	stop  func() error // ends the server and returns what Serve did
}

// start serves; o may be nil, and changes the options before they are used.
func start(t *testing.T, l Limits, change func(*Options)) *fixture {
	t.Helper()
	q, err := queue.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	out := &testkit.Buffer{}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := Options{Secrets: [][]byte{secret}, Queue: q, Log: log, Instance: "test"}
	if change != nil {
		change(&o)
	}
	h, err := NewHandler(o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- NewServer(h, log, l).Serve(ctx, ln) }()
	tr := &http.Transport{}
	f := &fixture{
		t: t, queue: q, url: "http://" + ln.Addr().String(), addr: ln.Addr().String(),
		log: out, http: &http.Client{Transport: tr}, h: h,
		stop: sync.OnceValue(func() error {
			cancel()
			return <-served
		}),
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		if err := f.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// push is a request that is right in every respect.
func push(id string, body []byte) http.Header {
	return http.Header{
		"X-Github-Delivery":   {id},
		"X-Github-Event":      {"push"},
		"X-Github-Hook-Id":    {"42"},
		"X-Hub-Signature-256": {sign(secret, body)},
		"Content-Type":        {"application/json"},
	}
}

type reply struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
}

func (f *fixture) send(method, path string, h http.Header, body io.Reader) reply {
	f.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, f.url+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	if h != nil {
		req.Header = h
	}
	resp, err := f.http.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	return f.read(resp)
}

func (f *fixture) read(resp *http.Response) reply {
	f.t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, body: b}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &r.json); err != nil {
			f.t.Errorf("status %d with a body that is not JSON: %q", r.status, b)
		}
	}
	return r
}

func (f *fixture) post(h http.Header, body []byte) reply {
	f.t.Helper()
	return f.send(http.MethodPost, pathWebhook, h, bytes.NewReader(body))
}

// logged is the log once it has n lines; a line comes after its answer.
func (f *fixture) logged(n int) string {
	f.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		log := f.log.String()
		if got := strings.Count(log, "\n"); got >= n || time.Now().After(end) {
			if got != n {
				f.t.Fatalf("%d lines, want %d:\n%s", got, n, log)
			}
			return log
		}
	}
}

// entries are the deliveries in the queue, in order.
func (f *fixture) entries() []delivery.Delivery {
	f.t.Helper()
	list, err := f.queue.List()
	if err != nil {
		f.t.Fatal(err)
	}
	all := make([]delivery.Delivery, len(list))
	for i, e := range list {
		b, err := f.queue.Read(e)
		if err != nil {
			f.t.Fatal(err)
		}
		if all[i], err = delivery.Decode(b); err != nil {
			f.t.Fatal(err)
		}
		if all[i].ID != e.DeliveryID {
			f.t.Errorf("%s holds the delivery %s", e.Name, all[i].ID)
		}
	}
	return all
}
