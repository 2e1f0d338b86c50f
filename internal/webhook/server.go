package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of a Server. A zero field takes the default that stands beside it.
type Limits struct {
	Header time.Duration // for the request line and the headers; 10 s
	Idle   time.Duration // between two requests of a connection; 60 s
	// Request is for everything that a request sends; 40 s. A handler may set a
	// deadline of its own.
	Request time.Duration
	Drain   time.Duration // for the requests in flight at the end; 45 s
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
}

// NewServer returns a server of h. What net/http itself has to say goes to log.
func NewServer(h http.Handler, log *slog.Logger, l Limits) *Server {
	orDefault(&l.Header, 10*time.Second)
	orDefault(&l.Idle, 60*time.Second)
	orDefault(&l.Request, 40*time.Second)
	orDefault(&l.Drain, 45*time.Second)
	orDefault(&l.HeaderBytes, 16<<10)
	orDefault(&l.Connections, 1024)
	return &Server{
		http: http.Server{
			Handler:           h,
			ReadHeaderTimeout: l.Header,
			ReadTimeout:       l.Request,
			IdleTimeout:       l.Idle,
			// From the end of the headers to the end of the answer: waiting for
			// memory, the body, the write to the queue. The webhook handler sets
			// a nearer one when it answers.
			WriteTimeout:   l.Request + 60*time.Second,
			MaxHeaderBytes: l.HeaderBytes,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		limits: l,
		log:    log,
	}
}

// Serve accepts connections from l until ctx ends. Then it stops accepting, lets
// the requests in flight finish within Limits.Drain, and returns nil; requests
// that take longer are cut off, unacknowledged. It closes l in any case and may
// be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(limitConnections(l, s.limits.Connections)) }()
	select {
	case err := <-served:
		_ = s.http.Close()
		return fmt.Errorf("serve webhooks on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Drain)
	defer cancel()
	if err := s.http.Shutdown(drain); err != nil {
		s.log.Warn("requests were still in flight at the end of the drain and were cut off", "drain", s.limits.Drain, "error", err)
		_ = s.http.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve webhooks on %s: %w", l.Addr(), err)
	}
	return nil
}
