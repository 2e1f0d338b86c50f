package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Limits of a Server. A zero field takes the default that stands beside it.
type Limits struct {
	Header time.Duration // for the request line and the headers; 10 s
	Idle   time.Duration // between two requests of a connection; 60 s
	// Request is for everything that a request sends; 40 s. A handler may set a
	// deadline of its own.
	Request time.Duration
	Drain   time.Duration // for the requests in flight at the end; 45 s
	// Pause is how long a connection may still begin a request at the end; 500 ms.
	Pause time.Duration
	// HeaderBytes is the size of the headers; 16 KiB.
	HeaderBytes int
	// Connections is how many may be open; 1024. More wait in the kernel's queue.
	Connections int
}

func orDefault[T time.Duration | int](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Server serves a handler with limits on time and memory that hold for clients
// that are slow, many, or never finish.
type Server struct {
	http   http.Server
	limits Limits
	log    *slog.Logger
	conns  conns
	ending atomic.Bool
}

// NewServer returns a server of h. What net/http itself has to say goes to log.
func NewServer(h http.Handler, log *slog.Logger, l Limits) *Server {
	orDefault(&l.Header, 10*time.Second)
	orDefault(&l.Idle, 60*time.Second)
	orDefault(&l.Request, 40*time.Second)
	orDefault(&l.Drain, 45*time.Second)
	orDefault(&l.Pause, 500*time.Millisecond)
	orDefault(&l.HeaderBytes, 16<<10)
	orDefault(&l.Connections, 1024)
	s := &Server{limits: l, log: log, conns: conns{open: make(map[net.Conn]connState)}}
	s.http = http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(closer{w, &s.ending}, r)
		}),
		ConnState:         s.conns.note,
		ReadHeaderTimeout: l.Header,
		ReadTimeout:       l.Request,
		IdleTimeout:       l.Idle,
		// From the end of the headers to the end of the answer: waiting for
		// memory, the body, the write to the queue. The webhook handler sets
		// a nearer one when it answers.
		WriteTimeout:   l.Request + 60*time.Second,
		MaxHeaderBytes: l.HeaderBytes,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve accepts connections from the listeners until ctx ends. Then it stops
// accepting, lets the requests in flight finish within Limits.Drain, and returns
// nil; requests that take longer are cut off, unacknowledged. It closes the
// listeners in any case and may be called once.
//
// http.Server.Shutdown by itself would leave clients without an answer: closing a
// listener resets the connections that the kernel has taken and nobody accepted,
// and requests that are read once it has begun are dropped. So first everything
// is accepted, then answered, and only idle connections are left to it.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- s.http.Serve(limitConnections(l, s.limits.Connections)) }()
	}
	var failed error
	left := len(listeners)
	select {
	case err := <-served:
		failed, left = fmt.Errorf("serve webhooks: %w", err), left-1
	case <-ctx.Done():
	}
	var closing sync.WaitGroup
	for _, l := range listeners {
		closing.Go(func() { stopAccepting(l) })
	}
	closing.Wait()
	for range left {
		<-served //nolint:errcheck // its listener is closed; what it had accepted is known to the server
	}
	s.ending.Store(true)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Drain)
	defer cancel()
	if err := s.drain(drain); err != nil {
		s.log.Warn("requests were still in flight at the end of the drain and were cut off", "drain", s.limits.Drain, "error", err)
	}
	_ = s.http.Close()
	return failed
}

// drain waits until no connection has a request, or may be about to send one.
func (s *Server) drain(ctx context.Context) error {
	since := time.Now()
	for !s.conns.quiet(since, s.limits.Pause) {
		if !retry.Sleep(ctx, drainPoll) {
			return ctx.Err()
		}
	}
	return nil
}

// drainPoll is how often a server that ends looks at its connections.
const drainPoll = 5 * time.Millisecond

// conns are the open connections: what each does, and since when.
type conns struct {
	mu   sync.Mutex
	open map[net.Conn]connState
}

type connState struct {
	state http.ConnState
	since time.Time
}

// note is an http.Server's ConnState.
func (c *conns) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(c.open, conn)
		return
	}
	c.open[conn] = connState{state, time.Now()}
}

// quiet says whether every connection has been without a request for a pause,
// which begins at the given time or later.
func (c *conns) quiet(from time.Time, pause time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		if conn.since.After(from) {
			from = conn.since
		}
		if conn.state == http.StateActive {
			return false
		}
	}
	return len(c.open) == 0 || time.Since(from) >= pause
}

// closer tells clients of a server that ends to send nothing more on their connection.
type closer struct {
	http.ResponseWriter
	ending *atomic.Bool
}

func (c closer) WriteHeader(code int) {
	if c.ending.Load() {
		c.Header().Set("Connection", "close")
	}
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (c closer) Unwrap() http.ResponseWriter { return c.ResponseWriter }
