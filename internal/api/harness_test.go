package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

var quiet = slog.New(slog.DiscardHandler)

// world is a log, with the API on it.
type world struct {
	t       *testing.T
	log     *eventlog.Log
	source  answer.Source
	handler *Handler
	feed    *Feed
	server  *httptest.Server
	// endFeed ends the feed, as a daemon does that stops.
	endFeed func()
}

const deployments = `
[deployments.web]
repository = "o/web"
branch = "main"
handler = "command"
enabled = true
path = "/srv/web"
[deployments.api]
repository = "o/api"
branch = "main"
handler = "command"
enabled = true
path = "/srv/api"
[deployments.docs]
repository = "o/docs"
branch = "main"
handler = "command"
enabled = false
path = "/srv/docs"
`

// tree is a working tree that holds a commit.
type tree string

func (t tree) Head(context.Context) (string, error) { return string(t), nil }
func (t tree) Unfinished() (string, error)          { return "", nil }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, feed: NewFeed()}
	pool := pgtest.Migrated(t)
	w.log = eventlog.Open(pool, quiet, eventlog.WithPoll(20*time.Millisecond))
	t.Cleanup(w.log.Close)
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(fmt.Sprintf("instance = \"test\"\nstate_dir = %q\n%s", t.TempDir(), deployments)), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load([]string{path}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	w.source = answer.Source{
		Config: cfg, Pool: pool, Log: w.log,
		Obstacle: func(context.Context, string) string { return "nothing works here" },
		Tree:     func(*config.Deployment) answer.Tree { return tree(commit(9)) },
	}
	w.handler = New(Options{Source: func() (answer.Source, error) { return w.source, nil }, Feed: w.feed, Log: quiet})
	w.server = httptest.NewUnstartedServer(w.handler)
	t.Cleanup(w.server.Close)
	return w
}

// start follows the log, and serves.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	p := projections.New(w.source.Pool, w.log, quiet)
	following.Go(func() { _ = p.Run(ctx) })
	following.Go(func() { _ = w.feed.Run(ctx, w.log) })
	w.endFeed = sync.OnceFunc(func() { cancel(); following.Wait() })
	w.t.Cleanup(w.endFeed)
	for begun := false; !begun; {
		var changed <-chan struct{}
		if _, _, changed, begun, _ = w.feed.next(0); !begun {
			<-changed
		}
	}
	if _, err := p.Await(w.t.Context(), time.Minute); err != nil {
		w.t.Fatal(err)
	}
	w.server.Start()
}

func commit(n int) string { return fmt.Sprintf("%040x", n) }

// append records events of a delivery, in one commit.
func (w *world) append(delivery, deployment string, attempt int, data ...eventlog.Data) {
	w.t.Helper()
	var g eventlog.Group
	for _, d := range data {
		to := deployment
		switch d.(type) {
		case eventlog.Received, eventlog.Redelivered, eventlog.Replayed, eventlog.Redacted:
			to = ""
		}
		g.Transitions = append(g.Transitions, eventlog.Transition{Instance: "test", DeliveryID: delivery, Deployment: to, Attempt: attempt, Actor: "octocat", Data: d})
	}
	if _, err := w.log.Append(w.t.Context(), g); err != nil {
		w.t.Fatal(err)
	}
}

// received is a push.
func received(n int, slug string) eventlog.Received {
	return eventlog.Received{
		Event: "push", Ref: "refs/heads/main", Repository: "o/" + slug, Commit: commit(n), ReceivedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), PayloadDigest: digest,
		Source: eventlog.SourceGitHub, Entry: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
	}
}

// get asks, and returns the code and the body.
func (w *world) get(path string) (int, []byte) {
	w.t.Helper()
	return w.do(http.MethodGet, path, nil)
}

func (w *world) do(method, path string, header http.Header) (int, []byte) {
	w.t.Helper()
	resp := w.request(method, path, header)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, body
}

func (w *world) request(method, path string, header http.Header) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := w.server.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// stream is an event stream that is read.
type stream struct {
	t    *testing.T
	resp *http.Response
	in   *bufio.Reader
}

func (w *world) stream(query, last string) *stream {
	w.t.Helper()
	header := http.Header{"Accept": {"text/event-stream"}}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	resp := w.request(http.MethodGet, Prefix+"events"+query, header)
	w.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		w.t.Fatalf("the stream is %s: %s", resp.Status, body)
	}
	s := &stream{w.t, resp, bufio.NewReader(resp.Body)}
	if begin := s.message(); !strings.HasPrefix(begin, "retry: ") {
		w.t.Fatalf("the stream begins with %q", begin)
	}
	return s
}

// message reads up to the next empty line; "" is the end of the stream.
func (s *stream) message() string {
	s.t.Helper()
	var lines strings.Builder
	for {
		line, err := s.in.ReadString('\n')
		if err == io.EOF && line == "" {
			return ""
		}
		if err != nil {
			s.t.Fatalf("read the stream: %v", err)
		}
		if line == "\n" {
			return lines.String()
		}
		lines.WriteString(line)
	}
}

// event reads the next event, whatever shows in between that the stream is alive.
func (s *stream) event() (e eventlog.Event, ok bool) {
	s.t.Helper()
	for {
		m := s.message()
		if m == "" {
			return e, false
		}
		id, data, found := strings.Cut(m, "\ndata: ")
		if !found {
			continue
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			s.t.Fatal(err)
		}
		if id != fmt.Sprintf("id: %d", e.Position) {
			s.t.Fatalf("event %d comes with %q", e.Position, id)
		}
		return e, true
	}
}

// events reads the next n events, and returns their positions.
func (s *stream) events(n int) (positions []int64) {
	s.t.Helper()
	for range n {
		e, ok := s.event()
		if !ok {
			s.t.Fatalf("the stream ended after %d", positions)
		}
		positions = append(positions, e.Position)
	}
	return positions
}
