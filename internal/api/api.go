// Package api owns what programs are told over HTTP, under /api/v1: the rows that the
// commands print with --json, in pages, and the events of the log as they come. It only
// reads, and asks for no password: see package admin for who can reach it.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/docs"
	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// Prefix begins the paths of the API.
const Prefix = "/api/v1/"

const (
	// answerWithin bounds a request, but for a stream.
	answerWithin = 10 * time.Second
	// atOnce bounds how many are answered at the same time: each may ask git what a path holds.
	atOnce = 4
)

// Options are what a Handler answers from.
type Options struct {
	// Source is what is read; its error says why nothing can be read now.
	Source func() (answer.Source, error)
	// Feed has the events as they come.
	Feed *Feed
	Log  *slog.Logger
}

// Handler answers requests below Prefix.
type Handler struct {
	o       Options
	mux     *http.ServeMux
	streams chan struct{} // a token for each stream that is open
	turns   chan struct{} // and for each question that is being answered
	// beat and patience are those of streams, and shorter in tests.
	beat, patience time.Duration
}

// New returns a handler; it starts nothing.
func New(o Options) *Handler {
	h := &Handler{o: o, mux: http.NewServeMux(), streams: make(chan struct{}, maxStreams), turns: make(chan struct{}, atOnce), beat: beat, patience: patience}
	h.get("deployments", h.deployments)
	h.get("deployments/{slug}", h.deployment)
	h.get("deployments/{slug}/attempts", h.attempts)
	h.get("deliveries/{id}", h.delivery)
	h.get("events", h.events)
	h.mux.HandleFunc(Prefix+"openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(docs.OpenAPI)
	})
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, problem{Message: "there is no such path", Hint: Prefix + "openapi.yaml describes those that there are"})
	})
	return h
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, problem{Message: "the API only reads: use GET or HEAD", Hint: "`durhack-deployer --help` lists the commands that act"})
		return
	}
	h.mux.ServeHTTP(w, r)
}

// get has a function answer a path: it returns what is sent as JSON, or nil where it has
// answered by itself.
func (h *Handler) get(path string, answer func(w http.ResponseWriter, r *http.Request) (any, error)) {
	h.mux.HandleFunc(Prefix+path, func(w http.ResponseWriter, r *http.Request) {
		body, err := answer(w, r)
		switch {
		case err != nil:
			h.fail(w, r, err)
		case body != nil:
			reply(w, http.StatusOK, body)
		}
	})
}

// problem is the answer to a request that has no other.
type problem struct {
	Status  string `json:"status"` // always "error"
	Message string `json:"message"`
	// Hint is what to do next.
	Hint string `json:"hint,omitempty"`
	// Candidates are what an abbreviation may mean.
	Candidates []string `json:"candidates,omitempty"`
}

// wrongError is a request that nobody can answer.
type wrongError struct{ error }

func wrongf(format string, args ...any) error { return &wrongError{fmt.Errorf(format, args...)} }

// errTooMany says that no other stream can be opened.
var errTooMany = errors.New("too many event streams are open")

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem{Message: err.Error()}
	code := http.StatusServiceUnavailable
	none, unanswered := errors.AsType[*answer.Error](err)
	switch {
	case errors.As(err, new(*wrongError)):
		code, p.Hint = http.StatusBadRequest, Prefix+"openapi.yaml describes the parameters"
	case unanswered:
		p.Hint, p.Candidates = none.Hint, none.Candidates
		code = map[answer.Kind]int{
			answer.Wrong: http.StatusBadRequest, answer.Ambiguous: http.StatusConflict,
			answer.UnknownDeployment: http.StatusNotFound, answer.UnknownDelivery: http.StatusNotFound,
		}[none.Kind]
	case errors.Is(err, errTooMany):
		p.Hint = "close one, or ask for pages of events instead"
	default:
		if r.Context().Err() != nil {
			return // nobody reads it
		}
		h.o.Log.Warn("the API cannot answer", "path", r.URL.Path, "error", err)
		p.Hint = "ask again in a few seconds; /readyz says what is wrong"
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	refuse(w, code, p)
}

func refuse(w http.ResponseWriter, code int, p problem) {
	p.Status = "error"
	reply(w, code, p)
}

func reply(w http.ResponseWriter, code int, body any) {
	raw, err := words.JSON(body)
	if err != nil {
		http.Error(w, "encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(raw, '\n')) // a client that does not read it does not get it
}

// ask waits for its turn, bounds a question, and opens what it is asked of. The caller
// cancels once it has the answer.
func (h *Handler) ask(r *http.Request) (context.Context, context.CancelFunc, answer.Source, error) {
	ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
	select {
	case h.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx, cancel, answer.Source{}, fmt.Errorf("wait for the answers to others: %w", context.Cause(ctx))
	}
	source, err := h.o.Source()
	return ctx, func() { cancel(); <-h.turns }, source, err
}

func (h *Handler) deployments(_ http.ResponseWriter, r *http.Request) (any, error) {
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err == nil {
		_, err = parameters(r)
	}
	if err != nil {
		return nil, err
	}
	rows, err := status(ctx, source, source.Config.Slugs())
	return map[string]any{"deployments": rows}, err
}

func (h *Handler) deployment(_ http.ResponseWriter, r *http.Request) (any, error) {
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err == nil {
		_, err = parameters(r)
	}
	if err != nil {
		return nil, err
	}
	slug := r.PathValue("slug")
	if _, err := answer.Deployment(source.Config, slug); err != nil {
		return nil, err
	}
	rows, err := status(ctx, source, []string{slug})
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

func status(ctx context.Context, source answer.Source, slugs []string) ([]answer.StatusRow, error) {
	known, err := source.Deployments(ctx, answer.Moment{})
	if err != nil {
		return nil, err
	}
	rows, err := source.Status(ctx, slugs, known, answer.Moment{})
	return append([]answer.StatusRow{}, rows...), err
}

// deliveryAnswer is a delivery: what came, what became of it, and its events.
type deliveryAnswer struct {
	answer.DeliveryRow
	// Verdict is the sentence that `why` begins with.
	Verdict string           `json:"verdict"`
	Events  []eventlog.Event `json:"events"`
}

func (h *Handler) delivery(_ http.ResponseWriter, r *http.Request) (any, error) {
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err == nil {
		_, err = parameters(r)
	}
	if err != nil {
		return nil, err
	}
	id, err := source.DeliveryID(ctx, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	story, err := source.Why(ctx, id)
	if err != nil {
		return nil, err
	}
	return deliveryAnswer{story.Row(), story.Verdict(), story.Events}, nil
}

// parameters are those of the query, which may have these names, each once.
func parameters(r *http.Request, names ...string) (map[string]string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, wrongf("the query cannot be read: %w", err)
	}
	given := map[string]string{}
	for _, name := range names {
		switch values := query[name]; {
		case len(values) > 1:
			return nil, wrongf("%s is given %d times; give it once", name, len(values))
		case len(values) == 1 && strings.TrimSpace(values[0]) == "":
			return nil, wrongf("%s is empty; give it a value, or leave it out", name)
		case len(values) == 1:
			given[name] = values[0]
		}
		delete(query, name)
	}
	for name := range query {
		if len(names) == 0 {
			return nil, wrongf("unknown parameter %q; this path takes none", name)
		}
		return nil, wrongf("unknown parameter %q; one of: %s", name, strings.Join(names, ", "))
	}
	return given, nil
}

// number reads a parameter that is a whole number, from least to most.
func number(given map[string]string, name string, otherwise, least, most int64) (int64, error) {
	text, ok := given[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, wrongf("%s takes a whole number from %d to %d, not %q", name, least, most, text)
	}
	return n, nil
}

// next is the address of a request with the same parameters but for one.
func next(path string, given map[string]string, name, value string) string {
	query := url.Values{name: {value}}
	for other, text := range given {
		if other != name {
			query.Set(other, text)
		}
	}
	return Prefix + path + "?" + query.Encode()
}
