// Package dashboard owns the pages that people look at: what is live, why, and what
// becomes of a push. Pages are made on the server, from the log and its read models, and
// need no script; the one that there is keeps them true while they are looked at.
package dashboard

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

//go:embed assets templates
var files embed.FS

const (
	// pageWithin bounds how long a page is made, pagesAtOnce how many are at the same
	// time: the connections to the database are there for deploys first.
	pageWithin  = 5 * time.Second
	pagesAtOnce = 2
	// obstacleWithin bounds how long a page looks for what keeps something from beginning.
	obstacleWithin = 300 * time.Millisecond
)

// Options are what a Handler shows.
type Options struct {
	Config  *config.Config
	Version string
	// Source is what is read; its error says why nothing can be read now.
	Source func() (answer.Source, error)
	// Changes are the files that differ between two commits of a deployment.
	Changes func(ctx context.Context, d *config.Deployment, from, to string) (git.Changes, error)
	// Authored are the subjects and authors of commits that are in the clone of a deployment.
	Authored func(ctx context.Context, d *config.Deployment, commits []string) (map[string]git.Authored, error)
	// Actor is who asks, "" where nobody has said so, and Actions what that person may do
	// about something. Without them pages can only be read.
	Actor   func(r *http.Request) string
	Actions func(r *http.Request, about Subject) []Action
	Log     *slog.Logger
}

// Subject is what an action is about: a deployment, or a delivery at one, or else all
// deployments.
type Subject struct {
	Deployment string
	// DeliveryID and Attempt are the run that goes on at a deployment, or the delivery
	// that is looked at, whose run goes on where Running says so.
	DeliveryID string
	Attempt    int
	Running    bool
	// Delivery says that it is a delivery that is looked at, and Open that a run of it has
	// not ended.
	Delivery, Open bool
	// Failed says that the newest run of the deployment has failed, Live and Before are the
	// commits that are live and that were before.
	Failed         bool
	Live, Before   string
	Pinned, Frozen bool
}

// Action is a form that the viewer may send.
type Action struct {
	// Path is where it is posted, with the fields.
	Path   string
	Fields map[string]string
	Label  string
	// Says is what it does.
	Says string
	// Reason asks for one, and For for how long.
	Reason, For bool
	// Kind is "first" for what is done most of all, "danger" for what hurts, or "".
	Kind string
	// ID names it on its page.
	ID string
}

// Handler answers with pages.
type Handler struct {
	o       Options
	mux     *http.ServeMux
	pages   map[string]*template.Template
	assets  map[string]asset
	slots   chan struct{}
	commits *commits
	changes *cache[string, git.Changes]
	made    *cache[string, made]
	told    atomic.Int64 // when it was told last that a page could not be made
}

// New returns a handler for all paths that no other has.
func New(o Options) *Handler {
	h := &Handler{
		o: o, mux: http.NewServeMux(), slots: make(chan struct{}, pagesAtOnce), commits: newCommits(o), changes: newCache[string, git.Changes](256), made: newCache[string, made](16),
	}
	h.assets = readAssets()
	h.pages = parsePages(h.assets)
	h.mux.HandleFunc("GET /assets/{name}", h.asset)
	h.mux.HandleFunc("GET /favicon.ico", h.favicon)
	h.mux.HandleFunc("GET /{$}", h.page(overviewPage))
	h.mux.HandleFunc("GET /deployments/{slug}", h.page(deploymentPage))
	h.mux.HandleFunc("GET /deliveries/{id}", h.page(deliveryPage))
	h.mux.HandleFunc("GET /deliveries/{id}/log", h.wholeLog)
	h.mux.HandleFunc("GET /deliveries/{id}/tail", h.logTail)
	h.mux.HandleFunc("GET /log", h.page(logPage))
	h.mux.HandleFunc("GET /at", h.page(atPage))
	h.mux.HandleFunc("GET /proof", h.page(proofPage))
	for short, long := range map[string]string{"/deployments": "/", "/deliveries": "/log?type=received"} {
		h.mux.Handle("GET "+short, http.RedirectHandler(long, http.StatusSeeOther))
	}
	h.mux.HandleFunc("/", h.nothing)
	return h
}

// nothing answers for what is no page: where a slash at its end is too much, with the page.
func (h *Handler) nothing(w http.ResponseWriter, r *http.Request) {
	if trimmed := strings.TrimRight(r.URL.Path, "/"); trimmed != r.URL.Path && trimmed != "" {
		http.Redirect(w, r, (&url.URL{Path: trimmed, RawQuery: r.URL.RawQuery}).String(), http.StatusSeeOther)
		return
	}
	h.refuse(w, r, http.StatusNotFound, "There is no such page", "The pages are named at the top.")
}

// refuse answers with a page that needs nothing of the log.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, code int, headline, next string) {
	h.Tell(w, r, code, "problem", headline, &problem{Code: code, Headline: headline, Next: next})
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.headers(w)
	h.mux.ServeHTTP(w, r)
}

// headers are those of every answer.
func (h *Handler) headers(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // not less: a form's Origin would be null
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
}

// request is what a page is made from.
type request struct {
	*http.Request
	h      *Handler
	source answer.Source
	models *projections.Projector
	now    time.Time
}

// of is the source of what is told of an instance.
func (r *request) of(instance string) answer.Source {
	source := r.source
	if !r.own(instance) {
		cfg := *source.Config
		cfg.Instance = instance
		source.Config = &cfg
	}
	return source
}

// own says whether an instance is this one.
func (r *request) own(instance string) bool { return instance == r.h.o.Config.Instance }

// view is what a page shows, beside what all of them do.
type view struct {
	name string // of the template
	// Current is the page of the navigation that this is, or belongs to.
	Title, Skip, Current string
	// Watch says which events make the page another one: "*", "deployment=SLUG" or
	// "delivery=ID"; "" for none.
	Watch string
	Data  any
	// redirect is where to go instead.
	redirect string
}

// problem is a page that says what is wrong, and what to do.
type problem struct {
	Code     int
	Headline string
	Next     string
	Known    []string
	// Links lead to what may be meant, Back to the page where it was asked for.
	Links []other
	Back  string
}

func (p *problem) Error() string { return p.Headline }

func notFound(headline, next string) error {
	return &problem{Code: http.StatusNotFound, Headline: headline, Next: next}
}

func badRequest(headline, next string) error {
	return &problem{Code: http.StatusBadRequest, Headline: headline, Next: next}
}

// frame is a whole page.
type frame struct {
	view
	Actor string
	Now   time.Time
	// Said is what the viewer has just done.
	Said     *Said
	Position int64
	Behind   string
	Version  string
	Instance string
	Refresh  int // seconds, for those without the script
}

// refreshes is how often a page is made again for those without the script, in seconds.
const refreshes = 20

// page makes a handler of what makes a view.
func (h *Handler) page(show func(ctx context.Context, r *request) (view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f := h.frame(r)
		code := http.StatusOK
		shared := f.Actor == "" && f.Said == nil // forms are of one viewer
		var page []byte
		err := h.within(r, func(ctx context.Context, req *request) (err error) {
			lag, err := req.models.Await(ctx, freshWithin) // or the event that somebody comes for is missing
			if err != nil {
				return err
			}
			if made, ok := h.made.get(r.URL.String()); shared && ok && made.of(lag, req.now) {
				page = made.page
				return nil
			}
			f.Position, f.Behind = lag.Position, behind(lag)
			if f.view, err = show(ctx, req); err != nil || f.redirect != "" || !shared {
				return err
			}
			if page, err = h.whole(f); err == nil && len(page) <= sharedMost {
				h.made.put(r.URL.String(), made{page, lag.Position, lag.Head, req.now})
			}
			return err
		})
		if err != nil {
			p := h.problem(r, err)
			code = p.Code
			f.view = view{name: "problem", Title: p.Headline, Skip: "what is wrong", Data: p}
			if code == http.StatusServiceUnavailable {
				f.Watch = "*"
			}
		}
		switch {
		case f.redirect != "":
			http.Redirect(w, r, f.redirect, http.StatusSeeOther)
		case page != nil && err == nil:
			send(w, code, page)
		default:
			h.render(w, code, f)
		}
	}
}

const (
	// freshWithin bounds how long a page waits for the read models.
	freshWithin = 300 * time.Millisecond
	// sharedFor is how long a page is given to others than it was made for, while nothing has
	// happened: after each event, all that look at one ask for it at once. sharedMost is how
	// long it may be, in bytes.
	sharedFor  = time.Second
	sharedMost = 256 << 10
)

// made is a page that was made, and from how much of the log.
type made struct {
	page           []byte
	position, head int64
	at             time.Time
}

// of says whether the page is still the one that would be made.
func (m made) of(lag projections.Lag, now time.Time) bool {
	return m.position == lag.Position && m.head == lag.Head && now.Sub(m.at) < sharedFor
}

// Tell answers with a page that is made from a template and needs nothing of the log.
func (h *Handler) Tell(w http.ResponseWriter, r *http.Request, code int, name, title string, data any) {
	if refused, ok := data.(*refusal); ok {
		data = &problem{Code: refused.Code, Headline: refused.Headline, Next: refused.Next, Back: actsOn(r)}
	}
	h.headers(w)
	f := h.frame(r)
	f.view = view{name: name, Title: title, Skip: "what it says", Data: data}
	h.render(w, code, f)
}

// actsOn is the page that has the button which was used; "" where there is none.
func actsOn(r *http.Request) string {
	if r.Method == http.MethodPost && (r.PathValue("slug") != "" || r.PathValue("id") != "") {
		return path.Dir(r.URL.Path)
	}
	return ""
}

// frame is what all pages of a request begin with.
func (h *Handler) frame(r *http.Request) frame {
	f := frame{Version: h.o.Version, Instance: h.o.Config.Instance, Now: time.Now().UTC(), Said: SaidIn(r)}
	if h.o.Actor != nil {
		f.Actor = h.o.Actor(r)
	}
	return f
}

// within calls do with what there is to read, as soon as its turn comes.
func (h *Handler) within(r *http.Request, do func(ctx context.Context, req *request) error) error {
	ctx, cancel := context.WithTimeout(r.Context(), pageWithin)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	source, err := h.o.Source()
	if err != nil {
		return err
	}
	obstacle := source.Obstacle
	source.Obstacle = func(ctx context.Context, slug string) string { // which asks servers
		ctx, cancel := context.WithTimeout(ctx, obstacleWithin)
		defer cancel()
		return plain(obstacle(ctx, slug), 400)
	}
	return do(ctx, &request{Request: r, h: h, source: source, now: time.Now().UTC(),
		models: projections.New(source.Pool, source.Log, slog.New(slog.DiscardHandler))})
}

// problem is the page for an error: one of the caller's, or of the database.
func (h *Handler) problem(r *http.Request, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	// Open pages ask again every few seconds: once a minute is enough.
	if last, now := h.told.Load(), time.Now().Unix(); r.Context().Err() == nil && now-last >= 60 && h.told.CompareAndSwap(last, now) {
		h.o.Log.Warn("a page could not be made", "path", r.URL.Path, "error", err)
	}
	next := plain(err.Error(), 500)
	if errors.Is(err, context.DeadlineExceeded) {
		next = "The database did not answer within " + took(pageWithin) + ". Look again in a moment."
	}
	return &problem{
		Code: http.StatusServiceUnavailable, Headline: "The log cannot be read now", Next: next,
		Known: []string{
			"Pushes are accepted meanwhile, and wait in the main queue.",
			fmt.Sprintf("This is instance %s, which has %s: %s.", h.o.Config.Instance,
				words.Counted(len(h.o.Config.Deployments), "deployment", "deployments"), strings.Join(h.o.Config.Slugs(), ", ")),
		},
	}
}

// behind says in a line that the read models are not up to the log.
func behind(lag projections.Lag) string {
	switch {
	case lag.Err != nil:
		return fmt.Sprintf("This is as of position %d of %d, and stays so: %s", lag.Position, lag.Head, plain(lag.Err.Error(), 500))
	case lag.Version == 0 && lag.Head > 0:
		return "The read models are being built for the first time: until then nothing is shown of what the log has."
	case lag.Version != lag.Wanted && lag.Events > 0:
		return fmt.Sprintf("This is %s behind the log, until the read models of this version are built.", words.Counted(lag.Events, "event", "events"))
	case lag.Events > 0 && lag.Seconds > 2:
		return fmt.Sprintf("This is %s behind the log.", words.Counted(lag.Events, "event", "events"))
	}
	return ""
}

func (h *Handler) render(w http.ResponseWriter, code int, f frame) {
	page, err := h.whole(f)
	if err != nil {
		h.o.Log.Error("a page could not be written", "page", f.name, "error", err)
		http.Error(w, "this page could not be written; the daemon's log says why", http.StatusInternalServerError)
		return
	}
	send(w, code, page)
}

// whole is the text of a page.
func (h *Handler) whole(f frame) ([]byte, error) {
	if f.Watch != "" {
		f.Refresh = refreshes
	}
	var b bytes.Buffer
	err := h.pages[f.name].ExecuteTemplate(&b, "layout", f)
	return b.Bytes(), err
}

func send(w http.ResponseWriter, code int, page []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(page) //nolint:gosec // html/template has escaped it; a client that does not read it does not get it
}
