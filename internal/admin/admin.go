// Package admin owns the private HTTP side of the daemon: whether it runs, and
// whether it is fit to work, for monitors and for people. It only reads, asks for
// no password, and is made for the loopback interface.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	// answerWithin bounds all checks of one request together: a monitor that gets
	// no answer learns less than one that gets a bad one.
	answerWithin = 5 * time.Second
	// drain is for requests in flight when the server ends.
	drain = 2 * time.Second
)

// Check is one part of being ready. Run returns what there is to say of it, as
// JSON has it, and a reason for each thing that makes the daemon unfit to work.
// It is called once at a time.
type Check struct {
	Name string
	Run  func(ctx context.Context) (detail any, reasons []string)
}

// Options are what a Server answers from.
type Options struct {
	// About is put into every answer, as "instance" and "version".
	About map[string]string
	// Checks are run in order, each time that somebody asks.
	Checks []Check
	// Hosts are the names, in lower case, that the server is reached by, beside addresses and localhost.
	Hosts []string
	// Pages answers every other path; nil where there is nothing else.
	Pages http.Handler
	Log   *slog.Logger
}

// Server answers GET /healthz and GET /readyz, and has Pages answer the rest.
type Server struct {
	o    Options
	http http.Server
	turn chan struct{} // holds one token: the checks of one request at a time
}

// New returns a server; it starts nothing.
func New(o Options) *Server {
	s := &Server{o: o, turn: make(chan struct{}, 1)}
	checks := http.NewServeMux() // with its own refusal of other methods
	checks.HandleFunc("GET /healthz", s.healthz)
	checks.HandleFunc("GET /readyz", s.readyz)
	mux := http.NewServeMux()
	mux.Handle("/healthz", checks)
	mux.Handle("/readyz", checks)
	if o.Pages != nil {
		mux.Handle("/", o.Pages)
	}
	s.http = http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers requests from l until ctx ends, and returns nil then. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve admin on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := s.http.Shutdown(ending); err != nil {
		_ = s.http.Close() // the client gets no answer
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin on %s: %w", l.Addr(), err)
	}
	return nil
}

// guard refuses requests that a page of some other site makes a browser on this
// host send, under a name that it has made to lead here.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.ToLower(host)
		if host != "localhost" && !slices.Contains(s.o.Hosts, host) && net.ParseIP(strings.Trim(host, "[]")) == nil {
			answer(w, http.StatusMisdirectedRequest, map[string]any{"status": "error", "message": "ask for this host by its address, as localhost, or by the name in origin or in url of [admin]"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) about(status string) map[string]any {
	body := map[string]any{"status": status}
	for key, value := range s.o.About {
		body[key] = value
	}
	return body
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, s.about("ok"))
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
	defer cancel()
	reasons, details := s.check(ctx)
	code, status := http.StatusOK, "ready"
	if len(reasons) > 0 {
		code, status = http.StatusServiceUnavailable, "not ready"
	}
	body := s.about(status)
	body["reasons"], body["checks"] = reasons, details
	answer(w, code, body)
}

// check runs the checks, and says which of them has no result in time: one that
// asks a disk that hangs cannot be ended. Those of the next request wait for it.
func (s *Server) check(ctx context.Context) (reasons []string, details map[string]any) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return []string{"the checks that were asked for before take too long"}, nil
	}
	type result struct {
		detail  any
		reasons []string
	}
	results := make(chan result, len(s.o.Checks))
	go func() {
		defer func() { <-s.turn }()
		for _, c := range s.o.Checks {
			detail, reasons := c.Run(ctx)
			results <- result{detail, reasons}
		}
	}()
	reasons, details = []string{}, make(map[string]any, len(s.o.Checks))
	for _, c := range s.o.Checks {
		select {
		case r := <-results:
			details[c.Name] = r.detail
			reasons = append(reasons, r.reasons...)
		case <-ctx.Done():
			return append(reasons, fmt.Sprintf("the check of %s takes too long", c.Name)), details
		}
	}
	return reasons, details
}

func answer(w http.ResponseWriter, code int, body map[string]any) {
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(raw, '\n')) // a client that does not read it does not get it
}
